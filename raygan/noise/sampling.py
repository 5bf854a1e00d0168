"""Drawing noises and intensities, and adding them to batches of images.

Each image has a random generator of its own, on the images' device: its noise depends neither on the batch size nor on
the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raygan.config.kinds import Noise, SamplingPolicy
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


def sample_noise(
    noises: Sequence[Noise], policy: SamplingPolicy, count: int, generator: torch.Generator
) -> tuple[list[Noise], list[float]]:
    """A noise for each of `count` images, by the noises' odds, and its intensity.

    The generator is on the CPU, so that a seed draws the same on every device.
    """
    odds = torch.tensor([noise.odds for noise in noises])
    drawn = torch.multinomial(odds, count, replacement=True, generator=generator)
    chosen = [noises[index] for index in drawn.tolist()]
    positions = policy.positions(torch.rand(count, generator=generator)).tolist()
    return chosen, [
        noise.low + position * (noise.high - noise.low) for noise, position in zip(chosen, positions, strict=True)
    ]


def add_noise(
    clean: Tensor, noises: Sequence[Noise], intensities: Sequence[float], generators: Sequence[torch.Generator]
) -> Tensor:
    """The noisy version of each image, clipped to [0, 1]: float32, (B, 3, H, W), like `clean`.

    `noises`, `intensities` and `generators` have one element per image.
    """
    drawn = zip(clean, noises, intensities, generators, strict=True)
    return torch.stack([noise.add(image, intensity, stream) for image, noise, intensity, stream in drawn]).clamp_(0, 1)
