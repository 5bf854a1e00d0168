"""Generators: networks that map noisy images in [0, 1] to denoised ones, both float32, (B, 3, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raygan.config import GeneratorConfig
from raygan.models.blocks import Down, UpConcat, build_upsampling, initialise


class UNet(nn.Module):
    """The paper's U-Net: 29,247,491 trainable parameters at base width 64 and depth 6.

    Its output is within [0, 1], by tanh; not so a residual network's, which starts as the identity and may leave that
    range a little. It is not clamped, since what a clamp cuts off would have no gradient to come back by: the losses
    see it as it is, and whoever measures or shows it clamps.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.stride = 2**config.depth
        """Height and width must be multiples of this."""
        self.residual = config.residual
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

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoised images of the same shape; height and width must be multiples of `stride`."""
        features = 2 * noisy - 1
        skipped = []
        for down in self.encoder:
            features = down(features)
            skipped.append(features)
        features = self.bottleneck(features)
        for up in self.decoder:
            features = up(features, skipped.pop())
        output: Tensor = self.output(features).float()
        if self.residual:
            # The sum in the network's own [-1, 1], back in [0, 1].
            return noisy + output / 2
        return (torch.tanh(output) + 1) / 2


GENERATORS: dict[str, type[UNet]] = {"unet": UNet}


def build_generator(config: GeneratorConfig) -> UNet:
    """The configured generator, with fresh weights drawn from torch's global generator."""
    return GENERATORS[config.architecture](config)
