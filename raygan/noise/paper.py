"""The paper's three noises, with its ranges (noise table)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raygan.config.kinds import Noise, require_range


@dataclass(frozen=True, kw_only=True)
class Gaussian(Noise):
    """clean + n with n from N(0, variance); the intensity is the variance."""

    low: float = 0.005
    high: float = 0.08

    def _check(self) -> None:
        require_range(self)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        return clean + math.sqrt(intensity) * torch.randn(clean.shape, generator=generator, device=clean.device)


@dataclass(frozen=True, kw_only=True)
class SaltAndPepper(Noise):
    """Each value becomes 0 or 1 with probability intensity / 2 each."""

    low: float = 0.02
    high: float = 0.07

    def _check(self) -> None:
        require_range(self, most=1)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        uniform = torch.rand(clean.shape, generator=generator, device=clean.device)
        # One draw decides both whether a value is replaced and by what.
        replaced = torch.where(uniform < intensity / 2, 0.0, 1.0)
        return torch.where(uniform < intensity, replaced, clean)


@dataclass(frozen=True, kw_only=True)
class Speckle(Noise):
    """clean + clean * n with n from N(0, variance); the intensity is the variance."""

    low: float = 0.005
    high: float = 0.2

    def _check(self) -> None:
        require_range(self)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        normal = torch.randn(clean.shape, generator=generator, device=clean.device)
        return clean + math.sqrt(intensity) * clean * normal
