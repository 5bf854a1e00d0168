"""Out-of-distribution noise: what no denoiser here is trained on, to show the limits of one."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from raygan.config.kinds import Noise, require_range
from raygan.config.section import require
from raygan.noise import Gaussian, SaltAndPepper, Speckle


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
class Jpeg(Noise):
    """JPEG compression; the intensity is the encoder's quality, of which less is stronger. It is deterministic."""

    low: float = 40
    high: float = 10

    def _check(self) -> None:
        require("1 <= high <= low <= 95", 1 <= self.high <= self.low <= 95, low=self.low, high=self.high)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """See `Noise.add`."""
        file = io.BytesIO()
        pixels = (clean * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(intensity))
        decoded = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        return decoded.to(clean.device).float() / 255


@dataclass(frozen=True, kw_only=True)
class GreyGaussian(Gaussian):
    """Gaussian noise that is the same in the three channels; the intensity is its variance."""

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        drawn = torch.randn(clean[:1].shape, generator=generator, device=clean.device)
        return clean + math.sqrt(intensity) * drawn


@dataclass(frozen=True, kw_only=True)
class SmoothGaussian(Gaussian):
    """Gaussian noise after a 3x3 mean filter, correlated like noise that a camera has processed.

    The intensity is its variance.
    """

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        channels, height, width = clean.shape
        drawn = torch.randn(channels, height + 2, width + 2, generator=generator, device=clean.device)
        # The mean of nine has a third of the standard deviation.
        return clean + 3 * math.sqrt(intensity) * functional.avg_pool2d(drawn, 3, stride=1)


@dataclass(frozen=True, kw_only=True)
class GaussianThenSaltAndPepper(Noise):
    """Gaussian noise, clipped, then salt and pepper; the intensity is the position, 0 to 1, in the paper's ranges."""

    low: float = 0.0
    high: float = 1.0

    def _check(self) -> None:
        require_range(self, most=1)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        noisy = clean
        for noise in (Gaussian(), SaltAndPepper()):
            noisy = noise.add(noisy, noise.low + intensity * (noise.high - noise.low), generator).clamp(0, 1)
        return noisy


OUT_OF_DISTRIBUTION: tuple[Noise, ...] = (
    Gaussian(name="stronger_gaussian", low=0.1, high=0.16),
    SaltAndPepper(name="stronger_salt_and_pepper", low=0.1, high=0.3),
    Speckle(name="stronger_speckle", low=0.25, high=0.4),
    Poisson(),
    Jpeg(),
    GaussianThenSaltAndPepper(),
    GreyGaussian(),
    SmoothGaussian(),
)
"""Beyond the paper's ranges, or of another distribution."""
