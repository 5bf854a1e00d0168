"""Generators, discriminators, and the blocks they share."""

from raygan.models.architectures import NAFNet, SCUNet
from raygan.models.discriminators import PatchGAN, SingleScore
from raygan.models.generators import ResidualUNet, UNet

__all__ = ["NAFNet", "PatchGAN", "ResidualUNet", "SCUNet", "SingleScore", "UNet"]
