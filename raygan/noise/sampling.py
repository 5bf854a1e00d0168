"""Drawing noises and intensities, and adding them to batches of images.

Each image has a random generator of its own, on the images' device: its noise depends neither on the batch size nor on
the number of workers, except for rounding in models that compute a batch at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raygan.config.kinds import Noise, SamplingPolicy
from raygan.config.run import Config
from raygan.config.section import Positive


@dataclass(frozen=True, kw_only=True)
class UniformPolicy(SamplingPolicy):
    """Intensities uniform over the range (the paper's final choice)."""

    def positions(self, uniform: Tensor) -> Tensor:
        """See `SamplingPolicy.positions`."""
        return uniform


@dataclass(frozen=True, kw_only=True)
class NormalPolicy(SamplingPolicy):
    """Intensities from a normal distribution around the middle of the range, truncated to it (the paper's first)."""

    deviation: Positive = 1 / 6
    """Standard deviation as a fraction of the range's width (the paper names none)."""

    def positions(self, uniform: Tensor) -> Tensor:
        """See `SamplingPolicy.positions`."""
        # Inverse of the cumulative distribution, between the ends of the range: truncated without rejection.
        normal = torch.distributions.Normal(0.5, self.deviation)
        lowest, highest = normal.cdf(torch.tensor([0.0, 1.0]))  # type: ignore[no-untyped-call]
        positions: Tensor = normal.icdf(lowest + uniform * (highest - lowest))  # type: ignore[no-untyped-call]
        return positions.clamp(0, 1)


def sample_noise(config: Config, count: int, generator: torch.Generator) -> tuple[list[Noise], list[float]]:
    """A noise for each of `count` images, by the noises' odds, and its intensity.

    The generator is on the CPU, so that a seed draws the same on every device.
    """
    noises = config.noises
    odds = torch.tensor([noise.odds for noise in noises])
    drawn = torch.multinomial(odds, count, replacement=True, generator=generator).tolist()
    positions = config.sampling.positions(torch.rand(count, generator=generator)).tolist()
    intensities = [
        noises[index].low + position * (noises[index].high - noises[index].low)
        for index, position in zip(drawn, positions, strict=True)
    ]
    return [noises[index] for index in drawn], intensities


def add_noise(
    clean: Tensor,
    noises: Sequence[Noise | None],
    intensities: Sequence[float],
    generators: Sequence[torch.Generator],
    *,
    clip: bool = True,
) -> Tensor:
    """The noisy version of each image, clipped to [0, 1] if `clip`: float32, (B, 3, H, W), like `clean`.

    `noises`, `intensities` and `generators` have one element per image; where the noise is None, the image stays clean.
    """
    if not len(clean) == len(noises) == len(intensities) == len(generators):
        counts = [len(noises), len(intensities), len(generators)]
        raise ValueError(f"give a noise, an intensity and a generator for each of {len(clean)} images, not {counts}")
    noisy = clean.clone()
    for noise in dict.fromkeys(noises):
        rows = [row for row, other in enumerate(noises) if other == noise]
        if noise is not None:
            chosen = [(intensities[row], generators[row]) for row in rows]
            noisy[rows] = noise.add_to_batch(clean[rows], *zip(*chosen, strict=True))
    return noisy.clamp_(0, 1) if clip else noisy
