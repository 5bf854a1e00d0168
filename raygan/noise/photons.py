"""Photon noise, which depends on brightness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raygan.config.kinds import Noise
from raygan.config.section import NonNegative, require


@dataclass(frozen=True, kw_only=True)
class Poisson(Noise):
    """Photon noise: Poisson counts with mean clean / intensity, times the intensity, which is 1 / photons at white."""

    low: float = 1 / 60
    high: float = 1 / 8

    def _check(self) -> None:
        require("0 < low <= high", 0 < self.low <= self.high, low=self.low, high=self.high)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        return torch.poisson(clean / intensity, generator=generator) * intensity


@dataclass(frozen=True, kw_only=True)
class PoissonGaussian(Poisson):
    """Photon noise and the sensor's own noise, of variance intensity * clean + read (Foi et al., 2008)."""

    read: NonNegative = 1e-3
    """Variance of the Gaussian noise that does not depend on brightness."""

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        normal = torch.randn(clean.shape, generator=generator, device=clean.device)
        return super().add(clean, intensity, generator) + math.sqrt(self.read) * normal
