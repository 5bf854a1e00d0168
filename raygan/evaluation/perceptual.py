"""LPIPS (Zhang et al., 2018) through torchmetrics, an optional dependency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raygan.errors import InputError

SMALLEST = 32
"""Minimum side in pixels of an image that AlexNet's layers can process."""


class LpipsError(InputError):
    """LPIPS cannot be computed here."""


class Lpips:
    """LPIPS with AlexNet, the authors' default: 0 for equal images, lower is better.

    Raises `LpipsError` if torchmetrics or torchvision is missing, or AlexNet's weights can neither be found in torch's
    hub folder nor be downloaded.
    """

    def __init__(self) -> None:
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            # Loaded once, then sent to all processes: these may have no access to the Internet.
            self.metric: Any = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
        except ImportError as error:
            packages = f"torchmetrics and torchvision ({error}): pip install 'raygan[lpips]'"
            raise LpipsError(f"LPIPS needs {packages}") from error
        except OSError as error:
            remedy = f"put alexnet-owt-7be5be79.pth into {torch.hub.get_dir()}/checkpoints"
            weights = f"torchvision's AlexNet weights, which cannot be downloaded ({error}): {remedy}"
            raise LpipsError(f"LPIPS needs {weights}") from error

    def to(self, device: torch.device) -> Lpips:
        """Move the network to another device."""
        self.metric.to(device)
        return self

    def __call__(self, clean: Tensor, images: Sequence[Tensor]) -> list[float]:
        """LPIPS of each image, float32, (1, 3, H, W), clamped to [0, 1], to `clean`; NaN if a side is below 32."""
        if min(clean.shape[-2:]) < SMALLEST:
            return [float("nan")] * len(images)
        device = self.metric.device
        values = []
        with torch.inference_mode():
            for image in images:
                values.append(self.metric(clean.to(device), image.to(device).clamp(0, 1)).item())
                # The metric keeps every value until it is reset.
                self.metric.reset()
        return values
