"""A run's validation crops, noisy, denoised and clean: to be looked at."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor, nn

from raygan.config.run import Config
from raygan.train.validation import noisy_validation_crops

CROPS = 4


def before_and_after(generator: nn.Module, crops: Tensor, config: Config, device: torch.device) -> dict[str, Tensor]:
    """A picture for each noise kind, at its mean intensity: float32, (3, rows * S, 3 * S), in [0, 1].

    A row for each of the first validation crops, in columns noisy, denoised and clean.
    """
    rows = range(min(CROPS, len(crops)))
    pictures: dict[str, Tensor] = {}
    for kind in config.noise.kinds:
        clean, noisy = noisy_validation_crops(crops, config, kind, "mean", rows)
        with torch.inference_mode():
            denoised = generator(noisy.to(device)).cpu().clamp(0, 1)
        pictures[kind] = torch.cat(list(torch.cat([noisy, denoised, clean], dim=3)), dim=1)
    return pictures


def first_crop_png(pictures: dict[str, Tensor], size: int) -> bytes:
    """The first row, of crops of `size` pixels, of each kind's picture, as one PNG file."""
    joined = torch.cat([picture[:, :size] for picture in pictures.values()], dim=1).permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray((joined.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(file, "PNG")
    return file.getvalue()
