"""Generators, discriminators, and the blocks they share."""

from raygan.models.discriminators import PatchGAN, SingleScore
from raygan.models.generators import ResidualUNet, UNet

__all__ = ["PatchGAN", "ResidualUNet", "SingleScore", "UNet"]
