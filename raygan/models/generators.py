"""Generators: their settings, and the networks that these build."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from raygan.config.kinds import Generator
from raygan.config.section import Count, Fraction, Positive
from raygan.models.blocks import (
    Down,
    FullResolution,
    NormalizedNetwork,
    ResidualBlock,
    UpConcat,
    Upsampling,
    build_upsampling,
    initialize,
)


@dataclass(frozen=True, kw_only=True)
class _UNetSettings(NormalizedNetwork, Generator):
    depth: Annotated[int, (">=", 2), ("<=", 6)] = 6
    """Number of times that height and width are halved, 2 to 6."""
    upsampling: Upsampling = "transposed"
    """How they are doubled again: 4x4 transposed convolutions (as in the paper), or resizing and 3x3 convolutions,
    which leave no checkerboard artifacts (Odena et al., 2016)."""
    residual: bool = False
    """Add the output to the input, so that the network predicts the noise (Zhang et al., 2017)."""

    @property
    def stride(self) -> int:
        """See `Generator.stride`."""
        return 1 << self.depth


@dataclass(frozen=True, kw_only=True)
class UNet(_UNetSettings):
    """The paper's U-Net: 29,247,491 trainable parameters with the default settings."""

    initial_deviation: Positive = 0.02
    """Standard deviation of the normal distribution of the initial weights."""
    inference_statistics: Literal["moving", "image"] = "moving"
    """Statistics of batch normalization at inference: moving statistics, or those of each image (as in the pix2pix code
    that the paper built on)."""
    dropout: Fraction = 0.0
    """Dropout rate of the first three decoder blocks in training (0.5 in the pix2pix code)."""

    def build(self) -> GeneratorNetwork:
        """See `Generator.build`."""
        return UNetNetwork(self)


@dataclass(frozen=True, kw_only=True)
class ResidualUNet(_UNetSettings):
    """A U-Net of residual blocks (the family of DRUNet, Zhang et al., 2021).

    Weights start from torch's defaults, which depend on each layer's width (He et al., 2015).
    """

    blocks: Count = 2
    """Residual blocks per resolution, in the encoder and again in the decoder."""
    unshuffle: Literal[1, 2, 4] = 1
    """Factor by which height and width are divided before the first layer, by moving pixels into channels (Shi et al.,
    2016): 1 (full resolution), 2 or 4, which take fewer operations."""

    @property
    def stride(self) -> int:
        """See `Generator.stride`."""
        return super().stride * self.unshuffle

    def build(self) -> GeneratorNetwork:
        """See `Generator.build`."""
        return ResidualUNetNetwork(self)


class GeneratorNetwork(nn.Module, ABC):
    """Base of this package's generators: the value range of images, and how the last layer's output becomes an image.

    The output lies within [0, 1] by tanh, except for a residual network, which starts as the identity. It is not
    clamped, because clamped values have no gradient: whoever measures or shows it clamps.
    """

    def __init__(self, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoised images of the same shape; height and width must be multiples of the generator's stride."""
        output = self.output_of(2 * noisy - 1).float()
        if self.residual:
            # The sum in the network's own [-1, 1], back in [0, 1].
            return noisy + output / 2
        return (torch.tanh(output) + 1) / 2

    @abstractmethod
    def output_of(self, features: Tensor) -> Tensor:
        """The last layer's output for images in [-1, 1]."""


class UNetNetwork(GeneratorNetwork):
    """The network of `UNet`."""

    def __init__(self, config: UNet) -> None:
        super().__init__(residual=config.residual)
        *widths, deepest = (config.base_width * min(2**level, 8) for level in range(config.depth))

        def norm(channels: int) -> nn.Module:
            return config.norm(channels, by_image=config.inference_statistics == "image")

        self.encoder = nn.ModuleList(
            Down(inputs, outputs, norm(outputs) if index else nn.Identity())
            for index, (inputs, outputs) in enumerate(zip([3, *widths[:-1]], widths, strict=True))
        )
        self.bottleneck = nn.Sequential(nn.Conv2d(widths[-1], deepest, 4, stride=2, padding=1), nn.ReLU())
        outputs = widths[::-1]
        # Each block's output is concatenated with the encoder's, which has as many channels.
        inputs = [deepest, *(2 * output for output in outputs)]
        self.decoder = nn.ModuleList(
            UpConcat(build_upsampling(into, out, config.upsampling), norm(out), config.dropout if index < 3 else 0.0)
            for index, (into, out) in enumerate(zip(inputs[:-1], outputs, strict=True))
        )
        self.output = build_upsampling(inputs[-1], 3, config.upsampling)
        initialize(self, config.initial_deviation)
        if config.residual:
            # Batch normalization's outputs are near 1: other weights would add noise of deviation 0.13 at the paper's
            # width, as strong as the noise to remove.
            for weight in self.output.parameters():
                nn.init.zeros_(weight)

    def output_of(self, features: Tensor) -> Tensor:
        """See `GeneratorNetwork`."""
        skipped = []
        for down in self.encoder:
            features = down(features)
            skipped.append(features)
        features = self.bottleneck(features)
        for up in self.decoder:
            features = up(features, skipped.pop())
        output: Tensor = self.output(features)
        return output


class ResidualUNetNetwork(GeneratorNetwork):
    """The network of `ResidualUNet`. Widths double with each halving, up to eight times `base_width`."""

    def __init__(self, config: ResidualUNet) -> None:
        super().__init__(residual=config.residual)
        widths = [config.base_width * min(2**level, 8) for level in range(config.depth + 1)]
        steps = list(itertools.pairwise(widths))

        def blocks(width: int) -> nn.Sequential:
            kind = FullResolution if width == widths[0] else nn.Sequential
            return kind(*(ResidualBlock(width, config) for _ in range(config.blocks)))

        values = 3 * config.unshuffle**2
        self.input = FullResolution(nn.PixelUnshuffle(config.unshuffle), nn.Conv2d(values, widths[0], 3, padding=1))
        self.encoder = nn.ModuleList(blocks(width) for width in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(shallow, deep, 2, stride=2) for shallow, deep in steps)
        self.bottleneck = blocks(widths[-1])
        self.up = nn.ModuleList(build_upsampling(deep, shallow, config.upsampling) for shallow, deep in steps)
        self.decoder = nn.ModuleList(blocks(width) for width in widths[:-1])
        last = nn.Conv2d(widths[0], values, 3, padding=1)
        self.output = FullResolution(last, nn.PixelShuffle(config.unshuffle))
        if config.residual:
            for weight in last.parameters():
                nn.init.zeros_(weight)

    def output_of(self, features: Tensor) -> Tensor:
        """See `GeneratorNetwork`."""
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
