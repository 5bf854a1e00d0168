"""Noise that no denoiser here is trained on, to see where one ends: each kind at three levels.

Images are float32, (1, 3, H, W), in [0, 1]; so are the noisy ones.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from raygan.config.run import NoiseConfig, NoiseKind
from raygan.noise.noise import LEVELS, NOISES, Level, gaussian, salt_and_pepper, speckle


@dataclass(frozen=True)
class Unseen:
    """A kind of noise, and how strong it is at the three levels."""

    add: Callable[[Tensor, float, torch.Generator], Tensor]
    """Gives the noisy version of an image, at an intensity, before it is clipped."""
    intensities: tuple[float, float, float]
    """At low, mean and high level."""


def add_unseen_noise(clean: Tensor, kind: str, level: Level, generator: torch.Generator) -> Tensor:
    """The noisy version of an image, clipped to [0, 1]."""
    return UNSEEN[kind].add(clean, unseen_intensity(kind, level), generator).clamp(0, 1)


def unseen_intensity(kind: str, level: Level) -> float:
    """How strong a kind is at a level, in its own unit."""
    return UNSEEN[kind].intensities[LEVELS.index(level)]


def poisson(clean: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    """Counted light: each value is Poisson's of mean clean * photons, divided by photons."""
    return torch.poisson(clean * photons, generator=generator) / photons


def jpeg(clean: Tensor, quality: float, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """What a JPEG file of a quality loses; the same each time."""
    file = io.BytesIO()
    pixels = (clean[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(quality))
    decoded = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]
    return decoded.float() / 255


def grey_gaussian(clean: Tensor, variance: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise that is the same in the three channels."""
    drawn = torch.randn(clean[:, :1].shape, generator=generator)
    return clean + drawn * math.sqrt(variance)


def smooth_gaussian(clean: Tensor, variance: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise that neighbouring pixels share, as in what a camera has made of its sensor's: a 3x3 mean of it."""
    *shape, height, width = clean.shape
    drawn = functional.avg_pool2d(torch.randn(*shape, height + 2, width + 2, generator=generator), 3, stride=1)
    # The mean of nine has a third of the deviation.
    return clean + drawn * (3 * math.sqrt(variance))


def two_kinds(clean: Tensor, position: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise, clipped, and then salt and pepper, each at a position, 0 to 1, of the paper's range."""
    noise = NoiseConfig()
    noisy = clean
    kinds: tuple[NoiseKind, ...] = ("gaussian", "salt_and_pepper")
    for kind in kinds:
        between = noise.range_of(kind)
        noisy = NOISES[kind](noisy, between.low + position * (between.high - between.low), generator).clamp(0, 1)
    return noisy


UNSEEN: dict[str, Unseen] = {
    # Variances, shares: above the paper's ranges.
    "stronger_gaussian": Unseen(gaussian, (0.1, 0.13, 0.16)),
    "stronger_salt_and_pepper": Unseen(salt_and_pepper, (0.1, 0.2, 0.3)),
    "stronger_speckle": Unseen(speckle, (0.25, 0.32, 0.4)),
    # Photons at white.
    "poisson": Unseen(poisson, (60, 20, 8)),
    # Quality, as JPEG's writers count it.
    "jpeg": Unseen(jpeg, (40, 20, 10)),
    # Positions in both ranges.
    "gaussian_then_salt_and_pepper": Unseen(two_kinds, (0.0, 0.5, 1.0)),
    # Variances, as the paper's for Gaussian noise.
    "grey_gaussian": Unseen(grey_gaussian, (0.005, 0.0425, 0.08)),
    "smooth_gaussian": Unseen(smooth_gaussian, (0.005, 0.0425, 0.08)),
}
"""By name."""
