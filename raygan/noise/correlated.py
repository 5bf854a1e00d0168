"""Gaussian noise that is correlated between channels or between neighboring pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raygan.config.section import Count, require
from raygan.noise.paper import Gaussian


@dataclass(frozen=True, kw_only=True)
class GreyGaussian(Gaussian):
    """Gaussian noise that is the same in the three channels; the intensity is its variance."""

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        drawn = torch.randn(clean[:1].shape, generator=generator, device=clean.device)
        return clean + math.sqrt(intensity) * drawn


@dataclass(frozen=True, kw_only=True)
class SmoothGaussian(Gaussian):
    """Gaussian noise after a mean filter, correlated like noise that a camera has processed.

    The intensity is its variance.
    """

    size: Count = 3
    """Side of the mean filter in pixels, odd."""

    def _check(self) -> None:
        super()._check()
        require("size odd", self.size % 2 == 1, size=self.size)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        channels, height, width = clean.shape
        shape = (channels, height + self.size - 1, width + self.size - 1)
        drawn = torch.randn(shape, generator=generator, device=clean.device)
        # The mean of size² numbers has 1 / size of their standard deviation.
        return clean + self.size * math.sqrt(intensity) * functional.avg_pool2d(drawn, self.size, stride=1)
