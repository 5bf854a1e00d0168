"""Out-of-distribution noise: what the denoiser `baseline` was not trained on, to show its limits."""

from __future__ import annotations

from raygan.config.kinds import Noise
from raygan.noise import Gaussian, GreyGaussian, Jpeg, Poisson, SaltAndPepper, SmoothGaussian, Speckle

OUT_OF_DISTRIBUTION: tuple[Noise, ...] = (
    Gaussian(name="stronger_gaussian", low=0.1, high=0.16),
    SaltAndPepper(name="stronger_salt_and_pepper", low=0.1, high=0.3),
    Speckle(name="stronger_speckle", low=0.25, high=0.4),
    Poisson(),
    Jpeg(),
    Gaussian() + SaltAndPepper(),
    GreyGaussian(),
    SmoothGaussian(),
)
"""Beyond the paper's ranges, or of another distribution."""
