"""Generators: networks that map noisy images to denoised ones, both float32, (B, 3, H, W), in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raygan.config import GeneratorConfig
from raygan.models.blocks import Down, UpConcat, initialise


class UNet(nn.Module):
    """The paper's U-Net: 29,247,491 trainable parameters at base width 64."""

    stride = 64
    """Height and width must be multiples of this."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width = config.base_width
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.encoder = nn.ModuleList(
            Down(inputs, outputs, config, norm=index > 0)
            for index, (inputs, outputs) in enumerate(zip([3, *widths[:-1]], widths, strict=True))
        )
        self.bottleneck = nn.Sequential(nn.Conv2d(8 * width, 8 * width, 4, stride=2, padding=1), nn.ReLU())
        skipped = widths[::-1]
        outputs = [8 * width, *skipped[1:]]
        inputs = [8 * width, *(up + skip for up, skip in zip(outputs, skipped, strict=True))]
        self.decoder = nn.ModuleList(
            UpConcat(into, out, config, config.dropout if index < 3 else 0.0)
            for index, (into, out) in enumerate(zip(inputs[:-1], outputs, strict=True))
        )
        self.output = nn.ConvTranspose2d(inputs[-1], 3, 4, stride=2, padding=1)
        initialise(self, config.initial_deviation)

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
        return (torch.tanh(self.output(features).float()) + 1) / 2


GENERATORS: dict[str, type[UNet]] = {"unet": UNet}


def build_generator(config: GeneratorConfig) -> UNet:
    """The configured generator, with fresh weights drawn from torch's global generator."""
    return GENERATORS[config.architecture](config)
