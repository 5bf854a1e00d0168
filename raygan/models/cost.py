"""What a configuration costs, exactly: trainable parameters, and operations of denoising and of training."""

from __future__ import annotations

import functools
import math

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from raygan.config.kinds import ContentLoss, Discriminator, Generator
from raygan.config.run import Config

STEP_CROPS = 2
"""Crops with which a step is counted: batch normalization needs more than one value."""


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


def training_operations(config: Config, epochs: float) -> float:
    """Floating-point operations of so many epochs, as in `operations_per_pixel`: all passes of both networks, and of
    the content loss's, forward and backward."""
    alone, both, first = _epoch_operations(config)
    return min(epochs, first) * alone + max(0.0, epochs - first) * both


def epochs_within(config: Config, operations: float) -> float:
    """How many epochs have so many operations: the inverse of `training_operations`."""
    alone, both, first = _epoch_operations(config)
    return operations / alone if operations <= first * alone else first + (operations - first * alone) / both


def _epoch_operations(config: Config) -> tuple[float, float, float]:
    """Operations of an epoch with the pixel loss alone, and with both networks, and how many epochs are of the first
    kind."""
    training, size = config.training, config.data.crop_size
    crops = config.data.train_photos if training.steps_per_epoch is None else training.steps_per_epoch
    crops *= 1 if training.steps_per_epoch is None else training.batch_size
    alone = crops * _generator_operations(config.generator, size)
    both = alone + crops * _adversary_operations(config.discriminator, config.loss.content, size)
    return alone, both, math.inf if training.pixel_epochs is None else training.pixel_epochs


@functools.cache
def _generator_operations(generator: Generator, size: int) -> float:
    """Operations per crop of the generator's passes in a step."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        generator.build()(torch.rand(STEP_CROPS, 3, size, size)).sum().backward()
    return float(counter.get_total_flops()) / STEP_CROPS


@functools.cache
def _adversary_operations(discriminator: Discriminator, content: ContentLoss, size: int) -> float:
    """Operations per crop of the discriminator's and the content loss's passes in a step."""
    weights = content.read_weights()
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        network, distance = discriminator.build(size), content.build(weights)
        clean = torch.rand(STEP_CROPS, 3, size, size)
        denoised = torch.rand_like(clean, requires_grad=True)
        (network(clean).sum() + network(denoised.detach()).sum()).backward()
        network.requires_grad_(False)
        (network(denoised).sum() + distance(clean, denoised)).backward()
    return float(counter.get_total_flops()) / STEP_CROPS
