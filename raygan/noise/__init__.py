"""Noise models, and how training draws kinds and intensities.

For a given intensity, the distributions of the paper's three noises are those of scikit-image's `random_noise`.
"""

from raygan.noise.camera import Camera
from raygan.noise.paper import Gaussian, SaltAndPepper, Speckle
from raygan.noise.sampling import NormalPolicy, UniformPolicy, add_noise, sample_noise

__all__ = [
    "Camera",
    "Gaussian",
    "NormalPolicy",
    "SaltAndPepper",
    "Speckle",
    "UniformPolicy",
    "add_noise",
    "sample_noise",
]
