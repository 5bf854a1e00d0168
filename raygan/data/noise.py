"""Noise models and the sampling of their intensities: batched, on any device, with explicit generators.

All images are float32, (B, 3, H, W), in [0, 1]. Each image has a random generator of its own, on the images' device,
so that its noise depends neither on the batch's size nor on how many workers share it. For a given intensity the
distributions are those of scikit-image's `random_noise`; the kinds, their ranges and the two sampling policies are the
paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from raygan.config import IntensityRange, NoiseConfig, NoiseKind

Level = Literal["low", "mean", "high"]
LEVELS: tuple[Level, ...] = get_args(Level)


def gaussian(clean: Tensor, variance: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """clean + n with n from N(0, variance); `variance` has shape (B, 1, 1, 1)."""
    return clean + _drawn(clean, generators, Tensor.normal_) * variance.sqrt()


def salt_and_pepper(clean: Tensor, share: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Each value becomes 0 with probability share / 2 and 1 with probability share / 2."""
    uniform = _drawn(clean, generators, Tensor.uniform_)
    noisy = torch.where(uniform < share / 2, 0.0, clean)
    return torch.where(uniform >= 1 - share / 2, 1.0, noisy)


def speckle(clean: Tensor, variance: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """clean + clean * n with n from N(0, variance)."""
    return clean + clean * _drawn(clean, generators, Tensor.normal_) * variance.sqrt()


NOISES: dict[NoiseKind, Callable[[Tensor, Tensor, Sequence[torch.Generator]], Tensor]] = {
    "gaussian": gaussian,
    "salt_and_pepper": salt_and_pepper,
    "speckle": speckle,
}


def add_noise(
    clean: Tensor, kinds: Sequence[NoiseKind], intensities: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:
    """The noisy version of each image, clipped to [0, 1]; `kinds`, `intensities` and `generators` have one an image."""
    noisy = torch.empty_like(clean)
    intensities = intensities.to(clean.device, clean.dtype).reshape(-1, 1, 1, 1)
    for kind, add in NOISES.items():
        rows = [row for row, one in enumerate(kinds) if one == kind]
        if rows:
            noisy[rows] = add(clean[rows], intensities[rows], [generators[row] for row in rows])
    return noisy.clamp_(0, 1)


def sample_noise(config: NoiseConfig, count: int, generator: torch.Generator) -> tuple[list[NoiseKind], Tensor]:
    """A kind for each of `count` images, with equal odds, and an intensity by the configured policy.

    The generator is on the CPU, so that a seed draws the same kinds and intensities whatever the device.
    """
    choices = torch.randint(len(config.kinds), (count,), generator=generator).tolist()
    kinds = [config.kinds[choice] for choice in choices]
    positions = _positions(config, count, generator)
    ranges = [config.range_of(kind) for kind in kinds]
    low = torch.tensor([one.low for one in ranges])
    high = torch.tensor([one.high for one in ranges])
    return kinds, low + positions * (high - low)


def level_intensity(intensity_range: IntensityRange, level: Level) -> float:
    """The intensity that validation and evaluation use for a level: the range's low end, mean or high end."""
    return {"low": intensity_range.low, "mean": intensity_range.mean, "high": intensity_range.high}[level]


def _positions(config: NoiseConfig, count: int, generator: torch.Generator) -> Tensor:
    """Where in its range each intensity lies, in [0, 1]."""
    uniform = torch.rand(count, generator=generator)
    if config.policy == "uniform":
        return uniform
    # Inverse of the normal distribution's cumulative, between the range's ends: truncated without rejection.
    normal = torch.distributions.Normal(0.5, config.normal_deviation)
    lowest, highest = normal.cdf(torch.tensor([0.0, 1.0]))  # type: ignore[no-untyped-call]
    positions: Tensor = normal.icdf(lowest + uniform * (highest - lowest))  # type: ignore[no-untyped-call]
    return positions.clamp(0, 1)


def _drawn(like: Tensor, generators: Sequence[torch.Generator], draw: Callable[..., Tensor]) -> Tensor:
    """Random values of the images' shape, each image's from its own generator; `draw` is the method that fills it."""
    # Not empty_like, which would keep the images' memory layout: the order of filling, and so the noise, would follow.
    values = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    for image, generator in zip(values, generators, strict=True):
        draw(image, generator=generator)
    return values
