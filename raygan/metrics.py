"""PSNR and SSIM, one value an image, equal to scikit-image's on images in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

SSIM_WINDOW = 7


def psnr(clean: Tensor, denoised: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, shape (B,), for images (B, C, H, W) and a data range of 1.

    `denoised` is clamped to [0, 1]. Identical images give infinity. The precision is the images' own.
    """
    error = (clean - denoised.clamp(0, 1)).square().mean(dim=(1, 2, 3))
    return -10 * error.log10()


def ssim(clean: Tensor, denoised: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004), shape (B,), for images (B, C, H, W) and a data range of 1.

    scikit-image's default form: a 7x7 uniform window, sample covariance, the mean over channels and over the
    windows that lie inside the image. `denoised` is clamped to [0, 1]. Raises `ValueError` for images smaller
    than the window.
    """
    height, width = clean.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs both sides >= {SSIM_WINDOW}, but the images are {height}x{width}")
    denoised = denoised.clamp(0, 1)
    size = SSIM_WINDOW**2
    mean_clean, mean_denoised, clean_squared, denoised_squared, product = _window_means(
        torch.stack([clean, denoised, clean.square(), denoised.square(), clean * denoised])
    )
    sample = size / (size - 1)
    variance_clean = sample * (clean_squared - mean_clean.square())
    variance_denoised = sample * (denoised_squared - mean_denoised.square())
    covariance = sample * (product - mean_clean * mean_denoised)
    c1, c2 = 0.01**2, 0.03**2
    similarity: Tensor = ((2 * mean_clean * mean_denoised + c1) * (2 * covariance + c2)) / (
        (mean_clean.square() + mean_denoised.square() + c1) * (variance_clean + variance_denoised + c2)
    )
    return similarity.mean(dim=(1, 2, 3))


def _window_means(maps: Tensor) -> Tensor:
    """The mean over every 7x7 window inside the maps (…, H, W), as one pass a direction."""
    return _sliding_sums(_sliding_sums(maps, -2), -1) / SSIM_WINDOW**2


def _sliding_sums(maps: Tensor, dim: int) -> Tensor:
    """Sums of 7 neighbours along `dim`, built from sums of 2 and of 4."""
    size = maps.shape[dim]
    twos = maps.narrow(dim, 0, size - 1) + maps.narrow(dim, 1, size - 1)
    fours = twos.narrow(dim, 0, size - 3) + twos.narrow(dim, 2, size - 3)
    sixes = fours.narrow(dim, 0, size - 6) + twos.narrow(dim, 4, size - 6)
    return sixes + maps.narrow(dim, 6, size - 6)
