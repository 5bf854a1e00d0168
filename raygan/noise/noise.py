"""Noise models and the sampling of their intensities: batched, on any device, with explicit generators.

All images are float32, (B, 3, H, W), in [0, 1]. Each image has a random generator of its own, on the images' device,
so that its noise depends neither on the batch's size nor on how many workers share it. For a given intensity the
distributions are those of scikit-image's `random_noise`; the kinds, their ranges and the two sampling policies are the
paper's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from raygan.config.run import IntensityRange, NoiseConfig, NoiseKind

Level = Literal["low", "mean", "high"]
LEVELS: tuple[Level, ...] = get_args(Level)
QUANTILES = 1 << 16
"""Values that a drawn normal number may have, the farthest of them 4.3 deviations from 0."""


def gaussian(clean: Tensor, variance: float, generator: torch.Generator) -> Tensor:
    """clean + n with n from N(0, variance), of one image."""
    return torch.add(clean, _normal(clean, generator), alpha=math.sqrt(variance))


def salt_and_pepper(clean: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Each value of one image becomes 0 with probability share / 2 and 1 with probability share / 2."""
    if share == 0:
        return clean
    count = clean.numel()
    places = _chosen(count, share, generator)
    values = torch.empty(len(places), dtype=clean.dtype, device=clean.device).random_(2, generator=generator)
    # A place more, where those beyond the last one end.
    noisy = torch.cat([clean.flatten(), clean.new_zeros(1)])
    return noisy.scatter_(0, places, values)[:count].reshape(clean.shape)


def speckle(clean: Tensor, variance: float, generator: torch.Generator) -> Tensor:
    """clean + clean * n with n from N(0, variance), of one image."""
    return torch.addcmul(clean, clean, _normal(clean, generator), value=math.sqrt(variance))


NOISES: dict[NoiseKind, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "gaussian": gaussian,
    "salt_and_pepper": salt_and_pepper,
    "speckle": speckle,
}


def add_noise(
    clean: Tensor, kinds: Sequence[NoiseKind], intensities: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:
    """The noisy version of each image, clipped to [0, 1]; `kinds`, `intensities` and `generators` have one an image."""
    noisy = torch.empty(clean.shape, dtype=clean.dtype, device=clean.device)
    images = zip(noisy, clean, kinds, intensities.tolist(), generators, strict=True)
    for result, image, kind, intensity, generator in images:
        torch.clamp(NOISES[kind](image, intensity, generator), 0, 1, out=result)
    return noisy


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


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers from N(0, 1), of the image's shape: 16 random bits each, by which a quantile is looked up.

    On one core that takes 2 ns a number, and torch's own 4.
    """
    count = like.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device)
    # From the least number on, all 64 bits are random.
    bits.random_(-(2**63), None, generator=generator)
    indices = bits.view(torch.int16)[:count].int() + QUANTILES // 2
    return _quantiles(like.device).index_select(0, indices).reshape(like.shape)


@functools.cache
def _quantiles(device: torch.device) -> Tensor:
    """The normal distribution in `QUANTILES` parts of equal odds: each one's middle, scaled to a variance of 1."""
    middles = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    values: Tensor = torch.special.ndtri(middles)
    return (values / values.square().mean().sqrt()).float().to(device)


def _chosen(count: int, share: float, generator: torch.Generator) -> Tensor:
    """The places, of `count`, that are chosen with probability `share`, each by itself; by the gaps between them.

    After them come some of `count` itself, so that nobody needs to wait for how many there are.
    """
    # So many that all places lie before the last gap's end, but for once in 10^15 times.
    enough = math.ceil(count * share + 8 * math.sqrt(count * share) + 40)
    uniform = torch.empty(enough, dtype=torch.float64, device=generator.device).uniform_(generator=generator)
    # By inversion, since torch's own `geometric_` takes 23 ns for each.
    gaps = uniform.neg_().log1p_().div_(math.log1p(-share) if share < 1 else -math.inf).floor_() + 1
    return (gaps.cumsum(0) - 1).clamp_(max=count).long()
