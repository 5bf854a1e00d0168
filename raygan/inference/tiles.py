"""Using a denoiser on images of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def denoise(generator: nn.Module, noisy: Tensor) -> Tensor:
    """Denoised images, float32, (B, 3, H, W), in [0, 1], of noisy ones of any height and width.

    Images are padded by reflection to a multiple of the generator's `stride`, and the result is cut back.
    `generator` must be in evaluation mode, on the images' device.
    """
    stride = int(generator.stride)  # type: ignore[arg-type]
    height, width = noisy.shape[-2:]
    rows = _reflected(height, stride, noisy.device)
    columns = _reflected(width, stride, noisy.device)
    with torch.inference_mode():
        padded = noisy.index_select(2, rows).index_select(3, columns)
        denoised: Tensor = generator(padded)
        return denoised[..., :height, :width].clamp(0, 1)


def _reflected(size: int, stride: int, device: torch.device) -> Tensor:
    """Indices 0, …, size - 1 and on, turning back at each end, up to the next multiple of `stride`."""
    positions = torch.arange(-(-size // stride) * stride, device=device)
    period = max(1, 2 * (size - 1))
    return (size - 1) - (positions % period - (size - 1)).abs()
