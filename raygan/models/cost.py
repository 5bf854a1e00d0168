"""What a generator costs, exactly: trainable parameters and operations per pixel."""

from __future__ import annotations

import functools

import torch
from torch.utils.flop_counter import FlopCounterMode

from raygan.config.kinds import Generator
from raygan.config.run import Config


@functools.cache
def parameters(generator: Generator) -> int:
    """Number of trainable parameters."""
    with torch.device("meta"):
        network = generator.build()
    return sum(weight.numel() for weight in network.parameters())


def discriminator_parameters(config: Config) -> int:
    """Number of trainable parameters of a configuration's discriminator."""
    with torch.device("meta"):
        network = config.discriminator.build(config.data.crop_size)
    return sum(weight.numel() for weight in network.parameters())


@functools.cache
def operations_per_pixel(generator: Generator) -> float:
    """Floating-point operations of the convolutions and matrix products per pixel: two per multiply-add."""
    side = 256
    with torch.device("meta"):
        network = generator.build().eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.inference_mode():
            network(torch.empty(1, 3, side, side))
    return counter.get_total_flops() / side**2
