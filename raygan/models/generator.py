"""Generators: networks that map noisy images in [0, 1] to denoised ones, both float32, (B, 3, H, W)."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from raygan.config.run import GeneratorConfig
from raygan.models.blocks import Down, ResidualBlock, UpConcat, build_upsampling, initialise


class Generator(nn.Module, ABC):
    """What all generators share: the range of their images, and how their last layer's output becomes one.

    That is within [0, 1], by tanh; not so a residual network's, which starts as the identity and may leave that range a
    little. It is not clamped, since what a clamp cuts off would have no gradient to come back by: the losses see it as
    it is, and whoever measures or shows it clamps.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.stride = config.stride
        """Height and width must be multiples of this."""
        self.residual = config.residual

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoised images of the same shape; height and width must be multiples of `stride`."""
        output = self.output_of(2 * noisy - 1).float()
        if self.residual:
            # The sum in the network's own [-1, 1], back in [0, 1].
            return noisy + output / 2
        return (torch.tanh(output) + 1) / 2

    @abstractmethod
    def output_of(self, features: Tensor) -> Tensor:
        """The last layer's output, of images in [-1, 1]."""


class UNet(Generator):
    """The paper's U-Net: 29,247,491 trainable parameters at base width 64 and depth 6."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        *widths, deepest = (config.base_width * min(2**level, 8) for level in range(config.depth))
        self.encoder = nn.ModuleList(
            Down(inputs, outputs, config, norm=index > 0)
            for index, (inputs, outputs) in enumerate(zip([3, *widths[:-1]], widths, strict=True))
        )
        self.bottleneck = nn.Sequential(nn.Conv2d(widths[-1], deepest, 4, stride=2, padding=1), nn.ReLU())
        outputs = widths[::-1]
        # Each block's output is concatenated with the encoder's, which has as many channels.
        inputs = [deepest, *(2 * output for output in outputs)]
        self.decoder = nn.ModuleList(
            UpConcat(into, out, config, config.dropout if index < 3 else 0.0)
            for index, (into, out) in enumerate(zip(inputs[:-1], outputs, strict=True))
        )
        self.output = build_upsampling(inputs[-1], 3, config)
        initialise(self, config.initial_deviation)
        if config.residual:
            # Batch norm's outputs are near 1: drawn like the others, these weights would add noise as strong as the
            # task's, of deviation 0.13 at the paper's width.
            for weight in self.output.parameters():
                nn.init.zeros_(weight)

    def output_of(self, features: Tensor) -> Tensor:
        """See `Generator`."""
        skipped = []
        for down in self.encoder:
            features = down(features)
            skipped.append(features)
        features = self.bottleneck(features)
        for up in self.decoder:
            features = up(features, skipped.pop())
        output: Tensor = self.output(features)
        return output


class ResidualUNet(Generator):
    """A U-Net of residual blocks that works from full resolution (the family of DRUNet, Zhang et al., 2021).

    At each resolution `blocks` residual blocks on the way down and as many on the way up, where what was there on the
    way down is added. Widths double with each halving, up to eight times `base_width`.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        widths = [config.base_width * min(2**level, 8) for level in range(config.depth + 1)]
        steps = list(itertools.pairwise(widths))

        def blocks(width: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(width, config) for _ in range(config.blocks)))

        values = 3 * config.unshuffle**2
        self.input = nn.Sequential(nn.PixelUnshuffle(config.unshuffle), nn.Conv2d(values, widths[0], 3, padding=1))
        self.encoder = nn.ModuleList(blocks(width) for width in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(shallow, deep, 2, stride=2) for shallow, deep in steps)
        self.bottleneck = blocks(widths[-1])
        self.up = nn.ModuleList(build_upsampling(deep, shallow, config) for shallow, deep in steps)
        self.decoder = nn.ModuleList(blocks(width) for width in widths[:-1])
        last = nn.Conv2d(widths[0], values, 3, padding=1)
        self.output = nn.Sequential(last, nn.PixelShuffle(config.unshuffle))
        if config.residual:
            for weight in last.parameters():
                nn.init.zeros_(weight)

    def output_of(self, features: Tensor) -> Tensor:
        """See `Generator`."""
        features = self.input(features)
        skipped = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            features = blocks(features)
            skipped.append(features)
            features = down(features)
        features = self.bottleneck(features)
        for blocks, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            features = blocks(up(features) + skipped.pop())
        output: Tensor = self.output(features)
        return output


GENERATORS: dict[str, type[Generator]] = {"unet": UNet, "residual_unet": ResidualUNet}


def build_generator(config: GeneratorConfig) -> Generator:
    """The configured generator, with fresh weights drawn from torch's global generator."""
    return GENERATORS[config.architecture](config)
