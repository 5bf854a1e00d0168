"""What networks and their training cost, against counts by hand and of the steps themselves."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from raygan.config.kinds import ContentLoss, Discriminator, Generator
from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.losses import MeanSquaredError, Vgg19Features
from raygan.models import PatchGAN, ResidualUNet, SingleScore, UNet
from raygan.models.architectures import NAFNet, SCUNet
from raygan.models.cost import (
    BYTE,
    epochs_of_equal_computation,
    operations_per_pixel,
    parameters,
    training_computation,
)
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


@dataclass(frozen=True, kw_only=True)
class AtAThird(Generator):
    """One that works at a third of the resolution."""

    @property
    def stride(self) -> int:
        return 3

    def build(self) -> nn.Module:
        return nn.Sequential(nn.PixelUnshuffle(3), nn.Conv2d(27, 27, 3, padding=1), nn.PixelShuffle(3))


def test_operations_of_an_own_network() -> None:
    assert operations_per_pixel(Convolution()) == 2 * 25 * 3 * 3
    assert parameters(Convolution()) == 25 * 9 + 3
    assert operations_per_pixel(AtAThird()) == pytest.approx(convolution(3, 27, 27, 1 / 9))


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
    content = config.loss.content
    gan = Gan(generator, discriminator, discriminator, *optimizers, content.build(content.read_weights()), config)
    clean = torch.rand(config.training.batch_size, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        step(gan, clean, clean)
    return counter.get_total_flops()


@dataclass(frozen=True, kw_only=True)
class Vgg19(Vgg19Features):
    """With weights of VGG19's shapes, which cost what its own do."""

    def read_weights(self) -> dict[str, torch.Tensor]:
        shapes = {"conv1_1": (64, 3), "conv1_2": (64, 64), "conv2_1": (128, 64), "conv2_2": (128, 128)}
        weights = {f"{name}_weight": torch.zeros(*shape, 3, 3) for name, shape in shapes.items()}
        weights |= {f"{name}_bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
        colours = {"colour_matrix": torch.zeros(3, 3, 1, 1), "mean": torch.zeros(1, 3, 1, 1)}
        return weights | colours | {"deviation": torch.ones(1, 3, 1, 1)}


@pytest.mark.parametrize("discriminator", [SingleScore(base_width=4), PatchGAN(base_width=4)])
@pytest.mark.parametrize("content", [MeanSquaredError(), Vgg19()])
def test_the_computation_of_training_holds_all_operations(discriminator: Discriminator, content: ContentLoss) -> None:
    values = {"loss/content": content, "discriminator": discriminator, "training/batch_size": 4, "data/val_crops": 1}
    config = with_values(quick(PAPER_V1), values)
    pixels, both = counted(config, pixel_step), counted(config, train_step)
    alone = with_values(config, {"training/pixel_epochs": None})
    steps = config.training.steps_per_epoch
    assert steps is not None
    for one, operations in ((config, both), (alone, pixels)):
        # Bytes come on top.
        assert 5 * steps * operations < training_computation(one, 5) < 20 * 5 * steps * operations
    more = training_computation(config, 5) - training_computation(alone, 5)
    assert more > 5 * steps * (both - pixels)
    for first in (2, 9):
        mixed = training_computation(with_values(config, {"training/pixel_epochs": first}), 5)
        share = max(0, 5 - first) / 5
        assert mixed == pytest.approx(training_computation(alone, 5) + share * more)


def test_the_computation_of_an_own_network_by_hand() -> None:
    values = {"generator": Convolution(), "training/pixel_epochs": None, "data/val_crops": 4, "training/batch_size": 4}
    config = with_values(quick(PAPER_V1), values | {"training/steps_per_epoch": 10})
    pixels, weights = 4 * 3 * 64 * 64, 25 * 9 + 3
    operations = 4 * 64 * 64 * 2 * 25 * 9
    # Forward: image, weights and result. Backward: the result's gradient, image, weights and theirs.
    step = 2 * operations + BYTE * 4 * (2 * pixels + weights + 2 * pixels + 2 * weights + 7 * weights)
    # Three noises at three levels.
    validation = 9 * (operations + BYTE * 4 * (2 * pixels + weights))
    assert training_computation(config, 3) == pytest.approx(3 * (10 * step + validation), rel=1e-3)


def test_equal_computation_gives_cheap_networks_more_epochs() -> None:
    base = with_values(quick(PAPER_V1), {"training/pixel_epochs": None})
    assert epochs_of_equal_computation(base, base, 5) == 5
    twice = with_values(base, {"training/steps_per_epoch": 120, "data/val_crops": 32})
    assert epochs_of_equal_computation(base, twice, 5) == 10
    assert epochs_of_equal_computation(with_values(base, {"training/pixel_epochs": 0}), base, 5) < 5
    # Normalization has no operations that count, but moves as much as a convolution.
    plain = with_values(base, {"generator/normalization": "none"})
    assert epochs_of_equal_computation(plain, base, 20) > 20
    assert epochs_of_equal_computation(with_values(base, {"training/steps_per_epoch": 9000}), base, 5) == 1


@pytest.mark.parametrize("generator", [NAFNet(width=4), SCUNet(blocks=1)])
def test_the_computation_of_other_networks(generator: Generator) -> None:
    config = with_values(quick(PAPER_V1), {"generator": generator, "training/pixel_epochs": None})
    assert training_computation(config, 2) == 2 * training_computation(config, 1) > 0
