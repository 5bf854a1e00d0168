"""PSNR and SSIM, equal to scikit-image's on images in [0, 1], and two distances that they miss: one value an image."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from raygan.losses import Vgg19

SSIM_WINDOW = 7
VGG_LAYERS = {"conv1_2": 1, "conv2_2": 2}
"""The layers whose features `vgg_distance` compares, and how many pixels each of their positions advances by."""
CACHED_BYTES = 300_000
"""Of each image that `ssim` works on at a time on the CPU: as many rows as stay in its cache with all that is made of
them."""
BAND = 128
"""Rows that `vgg_distance` computes at a time, so that large photos fit into memory; even, as is `MARGIN`."""
MARGIN = 6
"""Rows above and below on which a feature of conv2_2 still depends."""


def psnr(clean: Tensor, denoised: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, shape (B,), for images (B, C, H, W) and a data range of 1.

    `denoised` is clamped to [0, 1]. Identical images give infinity. The precision is the images' own.
    """
    error = denoised.clamp(0, 1).sub_(clean).square_().mean(dim=(1, 2, 3))
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
    windows = height - SSIM_WINDOW + 1
    rows = windows
    if clean.device.type == "cpu":
        rows = max(SSIM_WINDOW, CACHED_BYTES * height // (clean.numel() * clean.element_size()))
    total = torch.zeros(len(clean), dtype=clean.dtype, device=clean.device)
    for top in range(0, windows, rows):
        band = slice(top, top + rows + SSIM_WINDOW - 1)
        total += _similarities(clean[:, :, band], denoised[:, :, band]).sum(dim=(1, 2, 3))
    return total / (clean.shape[1] * windows * (width - SSIM_WINDOW + 1))


def _similarities(clean: Tensor, denoised: Tensor) -> Tensor:
    """SSIM of every window inside the images."""
    size = SSIM_WINDOW**2
    sample = size / (size - 1)
    means = _window_means(torch.stack([clean, denoised, clean.square() + denoised.square(), clean * denoised]))
    mean_clean, mean_denoised, squares, product = means
    mean_product, mean_squares = mean_clean * mean_denoised, mean_clean.square() + mean_denoised.square()
    covariance = sample * (product - mean_product)
    variances = sample * (squares - mean_squares)
    c1, c2 = 0.01**2, 0.03**2
    similarity: Tensor = ((2 * mean_product + c1) * (2 * covariance + c2)) / ((mean_squares + c1) * (variances + c2))
    return similarity


def colour_drift(clean: Tensor, denoised: Tensor) -> Tensor:
    """How far the mean colour has moved, shape (B,), of images (B, 3, H, W) in [0, 1]: 0 for not at all.

    The absolute difference of a channel's means over all pixels, averaged over the channels; 1/255 is a step of 8 bits.
    `denoised` is clamped to [0, 1].
    """
    return (denoised.clamp(0, 1) - clean).mean(dim=(2, 3)).abs().mean(dim=1)


def vgg_distance(clean: Tensor, denoised: Tensor, vgg19: Vgg19) -> Tensor:
    """Perceptual distance, shape (B,), of images (B, 3, H, W) to `clean`, (1, 3, H, W): 0 for equal ones, at most 2.

    The idea of LPIPS (Zhang et al., 2018), without its learned weights and its deeper layers: features after conv1_2
    and conv2_2 and their ReLUs, scaled to unit length over the channels at each position; the squared differences
    summed over channels, averaged over positions, and over the two layers. Computed in the precision of `vgg19`'s
    weights, whose two conventions give different values. `denoised` is clamped to [0, 1].
    """
    height, width = clean.shape[-2:]
    dtype = vgg19.get_buffer("mean").dtype
    total = torch.zeros(len(denoised), dtype=torch.float64, device=denoised.device)
    for top in range(0, height, BAND):
        start, stop = max(0, top - MARGIN), min(height, top + BAND)
        band = slice(start, stop + MARGIN)
        clean_features = list(_unit_features(vgg19, clean[:, :, band].to(dtype)))
        for index, image in enumerate(denoised):
            features = _unit_features(vgg19, image[None, :, band].clamp(0, 1).to(dtype))
            for (stride, ours), (_, theirs) in zip(features, clean_features, strict=True):
                rows = slice((top - start) // stride, stop // stride - start // stride)
                positions = (height // stride) * (width // stride)
                total[index] += (ours[..., rows, :] - theirs[..., rows, :]).square().sum().double() / positions
    return total / len(VGG_LAYERS)


def _unit_features(vgg19: Vgg19, images: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The strides of `VGG_LAYERS`, and their features as unit vectors; 0 where no feature is active."""
    # In one layout, since another rounds differently, and equal images are to have a distance of 0.
    for name, features in vgg19.features_by_layer(images.contiguous()):
        if name in VGG_LAYERS:
            yield VGG_LAYERS[name], functional.normalize(features, dim=1, eps=1e-10)


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
