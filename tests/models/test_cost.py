"""What networks and their training cost, against counts by hand and of the steps themselves."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from raygan.config.kinds import Generator
from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.models import ResidualUNet, UNet
from raygan.models.cost import epochs_within, operations_per_pixel, parameters, training_operations
from raygan.presets import PAPER_V1, quick
from raygan.train.step import Gan, pixel_step, train_step


def convolution(size: int, inputs: int, outputs: int, per_pixel: float) -> float:
    """Operations of a convolution: two per weight and position, of which a pixel of the image has `per_pixel`."""
    return 2 * size**2 * inputs * outputs * per_pixel


@dataclass(frozen=True, kw_only=True)
class Convolution(Generator):
    """A user's own generator."""

    size: int = 5

    def build(self) -> nn.Module:
        return nn.Conv2d(3, 3, self.size, padding=self.size // 2)


def test_operations_of_an_own_network() -> None:
    assert operations_per_pixel(Convolution()) == 2 * 25 * 3 * 3
    assert parameters(Convolution()) == 25 * 9 + 3


@pytest.mark.parametrize("normalization", ["batch", "none"])
@pytest.mark.parametrize(
    ("upsampling", "up"),
    [
        # A transposed convolution works at the resolution that it is given, a resized one at the doubled.
        ("transposed", convolution(4, 8, 4, 1 / 16) + convolution(4, 8, 3, 1 / 4)),
        ("resize", convolution(3, 8, 4, 1 / 4) + convolution(3, 8, 3, 1)),
    ],
)
def test_operations_of_a_unet(upsampling: Any, up: float, normalization: Any) -> None:
    unet = UNet(base_width=4, depth=2, upsampling=upsampling, normalization=normalization)
    assert operations_per_pixel(unet) == convolution(4, 3, 4, 1 / 4) + convolution(4, 4, 8, 1 / 16) + up


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_operations_of_a_residual_unet(unshuffle: int) -> None:
    values, full = 3 * unshuffle**2, 1 / unshuffle**2
    blocks = sum(
        number * 2 * convolution(3, width, width, full / level**2)
        for number, width, level in ((2, 4, 1), (2, 8, 2), (1, 16, 4))
    )
    down = convolution(2, 4, 8, full / 4) + convolution(2, 8, 16, full / 16)
    up = convolution(4, 16, 8, full / 16) + convolution(4, 8, 4, full / 4)
    ends = convolution(3, values, 4, full) + convolution(3, 4, values, full)
    network = ResidualUNet(base_width=4, depth=2, blocks=1, unshuffle=unshuffle, residual=True)
    assert operations_per_pixel(network) == blocks + down + up + ends


@pytest.mark.parametrize(
    ("options", "count"),
    [
        # By layers: 3 to 4, 4 to 8, 8 to 16 channels; 16 to 8, 8 + 8 to 4, 4 + 4 to 3, with biases and batch norm.
        ({}, 196 + (520 + 16) + 2064 + (2056 + 16) + (1028 + 8) + 387),
        ({"normalization": "none"}, 196 + 520 + 2064 + 2056 + 1028 + 387),
        ({"upsampling": "resize"}, 196 + (520 + 16) + 2064 + (1160 + 16) + (580 + 8) + 219),
    ],
)
def test_parameters_of_a_shallow_unet(options: dict[str, Any], count: int) -> None:
    assert parameters(UNet(base_width=4, depth=3, **options)) == count


def test_parameters_of_a_residual_unet() -> None:
    """Widths 4, 8, 16: a block of each, down and up again, between 2x2 convolutions down and 4x4 ones up."""
    config = ResidualUNet(base_width=4, depth=2, blocks=1, normalization="none")
    blocks = {width: 2 * (9 * width**2 + width) for width in (4, 8, 16)}
    down = (4 * 4 * 8 + 8) + (4 * 8 * 16 + 16)
    up = (16 * 16 * 8 + 8) + (16 * 8 * 4 + 4)
    count = (27 * 4 + 4) + (9 * 4 * 3 + 3) + 2 * blocks[4] + 2 * blocks[8] + blocks[16] + down + up
    assert parameters(config) == count
    # Batch norm has two values a channel, after each of a block's convolutions.
    assert parameters(replace(config, normalization="batch")) == count + 4 * (4 + 8 + 16 + 8 + 4)
    # At half resolution, four pixels' values come in and go out together.
    assert parameters(replace(config, unshuffle=2)) == count + 9 * 9 * 4 + 9 * 4 * 9 + 9
    assert parameters(replace(config, blocks=3)) == count + 2 * (2 * blocks[4] + 2 * blocks[8] + blocks[16])


def test_parameters_of_the_papers_generator() -> None:
    assert parameters(UNet()) == 29_247_491


def counted(config: Config, step: Callable[..., object]) -> float:
    """Operations of a step that is run."""
    size = config.data.crop_size
    generator, discriminator = config.generator.build(), config.discriminator.build(size)
    optimizers = [torch.optim.SGD(network.parameters(), 1e-3) for network in (generator, discriminator)]
    gan = Gan(generator, discriminator, discriminator, *optimizers, config.loss.content.build({}), config)
    clean = torch.rand(config.training.batch_size, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        step(gan, clean, clean)
    return counter.get_total_flops()


@pytest.mark.parametrize("normalization", ["batch", "none"])
@pytest.mark.parametrize("residual", [False, True])
def test_training_counts_what_steps_do(residual: bool, normalization: str) -> None:
    values = {"generator/residual": residual, "generator/normalization": normalization}
    config = with_values(quick(PAPER_V1), values | {"training/batch_size": 4, "training/steps_per_epoch": 3})
    pixels, both = counted(config, pixel_step), counted(config, train_step)
    assert training_operations(config, 5) == 5 * 3 * both
    for first in (0, 2, 9):
        mixed = with_values(config, {"training/pixel_epochs": first})
        assert training_operations(mixed, 5) == 3 * (min(5, first) * pixels + max(0, 5 - first) * both)
        assert epochs_within(mixed, training_operations(mixed, 5)) == pytest.approx(5)
    assert training_operations(with_values(config, {"training/pixel_epochs": None}), 5) == 5 * 3 * pixels
