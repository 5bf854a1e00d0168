"""Noise models, and how training draws noises and intensities.

For a given intensity, the distributions of the paper's three noises are those of scikit-image's `random_noise`. Noises
are added one after the other with `+`: `Gaussian() + Jpeg()`.
"""

from raygan.config.kinds import NoiseChain
from raygan.noise.camera import Camera
from raygan.noise.correlated import GreyGaussian, SmoothGaussian
from raygan.noise.jpeg import Jpeg
from raygan.noise.paper import Gaussian, SaltAndPepper, Speckle
from raygan.noise.photons import Poisson, PoissonGaussian
from raygan.noise.sampling import NormalPolicy, UniformPolicy, add_noise, sample_noise

__all__ = [
    "Camera",
    "Gaussian",
    "GreyGaussian",
    "Jpeg",
    "NoiseChain",
    "NormalPolicy",
    "Poisson",
    "PoissonGaussian",
    "SaltAndPepper",
    "SmoothGaussian",
    "Speckle",
    "UniformPolicy",
    "add_noise",
    "sample_noise",
]
