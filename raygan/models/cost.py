"""What a configuration costs: trainable parameters, operations of denoising, and computation of training."""

from __future__ import annotations

import functools
import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from raygan.config.kinds import LEVELS, ContentLoss, Discriminator, Generator
from raygan.config.run import Config

BYTE = 80.0
"""Operations that take as long as reading or writing a byte.

Fitted to the seconds of the steps of twelve networks, on a core of an AMD EPYC in bfloat16: it predicts 0.8 to 1.3
times their seconds, operations alone 0.3 to 1.5 times.
"""

Shape = tuple[int, int, int, int]


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
    side = math.lcm(256, generator.stride)
    with torch.device("meta"):
        network = generator.build().eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.inference_mode():
            network(torch.empty(1, 3, side, side))
    return counter.get_total_flops() / side**2


def epochs_of_equal_computation(config: Config, base: Config, epochs: int) -> int:
    """The number of epochs in which `config` takes as much computation as `base` in `epochs`; at least 1."""
    computation = training_computation(base, epochs)
    alone, both, first = _epoch_computation(config)
    if computation <= first * alone:
        return max(1, round(computation / alone))
    return max(1, round(first + (computation - first * alone) / both))


def training_computation(config: Config, epochs: float) -> float:
    """What so many epochs take: the steps of both networks and the content loss, the optimizers and validation.

    In operations, as in `operations_per_pixel`, where each byte that is read or written counts as `BYTE`. Exact for a
    configuration, and the same on all machines; near their time on some.
    """
    alone, both, first = _epoch_computation(config)
    return min(epochs, first) * alone + max(0.0, epochs - first) * both


def _epoch_computation(config: Config) -> tuple[float, float, float]:
    """Computation of an epoch with the pixel loss alone, and of one with both networks, and how many are the former."""
    training, data = config.training, config.data
    shape = (training.batch_size, 3, data.crop_size, data.crop_size)
    steps = training.steps_per_epoch or max(1, data.train_photos // training.batch_size)
    noises = len(config.noises)
    # With pairs, noises are validated at their mean level alone.
    scores = noises * len(LEVELS) if data.pairs is None else noises + 1
    validated = data.val_crops * scores / training.batch_size
    alone = steps * _generator_step(config.generator, shape) + validated * _generator_pass(config.generator, shape)
    if training.pixel_epochs is None:
        return alone, alone, math.inf
    adversary = _discriminator_step(config.discriminator, shape) + _content_pass(config.loss.content, shape)
    return alone, alone + steps * adversary, training.pixel_epochs


@functools.cache
def _generator_step(generator: Generator, shape: Shape) -> float:
    """Computation of the generator's part of a step."""
    with torch.device("meta"):
        network = generator.build()
        with _Computation() as counted:
            _forward_and_back(network, torch.empty(shape))
    return counted.total + _optimizer_step(network)


@functools.cache
def _generator_pass(generator: Generator, shape: Shape) -> float:
    """Computation of the generator's result for a batch."""
    with torch.device("meta"), torch.no_grad():
        network = generator.build().eval()
        with _Computation() as counted:
            network(torch.empty(shape))
    return counted.total


@functools.cache
def _discriminator_step(discriminator: Discriminator, shape: Shape) -> float:
    """Computation of the discriminator's part of a step: for both kinds of images, then for the generator."""
    with torch.device("meta"):
        network, images = discriminator.build(shape[-1]), torch.empty(shape)
        with _Computation() as counted:
            _forward_and_back(network, images)
            _forward_and_back(network, images)
            network.requires_grad_(False)
            _forward_and_back(network, images.requires_grad_())
    return counted.total + _optimizer_step(network)


@functools.cache
def _content_pass(content: ContentLoss, shape: Shape) -> float:
    """Computation of the content loss and its gradient."""
    weights = {name: tensor.to("meta") for name, tensor in content.read_weights().items()}
    with torch.device("meta"):
        distance, clean = content.build(weights), torch.empty(shape)
        with _Computation() as counted:
            distance(clean, torch.empty(shape).requires_grad_()).backward()
    return counted.total


def _forward_and_back(network: nn.Module, images: Tensor) -> None:
    result = network(images)
    result.backward(torch.empty_like(result))


def _optimizer_step(network: nn.Module) -> float:
    """Computation of Adam, which reads a weight, its gradient and both moments, and writes all but the gradient."""
    return BYTE * 7 * sum(weight.numel() * weight.element_size() for weight in network.parameters())


class _Computation(TorchDispatchMode):
    """Counts the operations and bytes of all that runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = FlopCounterMode(display=False)
        self.bytes = 0

    @property
    def total(self) -> float:
        """Operations and bytes, as operations."""
        return float(self.operations.get_total_flops()) + BYTE * self.bytes

    def __enter__(self) -> Self:
        self.operations.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.operations.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view and function.overloadpacket not in (torch.ops.aten.empty, torch.ops.aten.empty_like):
            tensors = (one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor))
            self.bytes += sum(one.numel() * one.element_size() for one in tensors)
        return result
