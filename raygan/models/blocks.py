"""The layers that both networks are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from raygan.config import DiscriminatorConfig, GeneratorConfig

NetworkConfig = GeneratorConfig | DiscriminatorConfig


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation as the configuration says: in evaluation mode by moving statistics or each image's own."""

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__(channels, eps=config.batch_norm_epsilon, momentum=config.batch_norm_momentum)
        self.by_image = isinstance(config, GeneratorConfig) and config.inference_statistics == "image"

    def forward(self, features: Tensor) -> Tensor:
        """Normalised features of the same shape."""
        if self.by_image and not self.training:
            return functional.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)
        return super().forward(features)


class Down(nn.Sequential):
    """Divides height and width by `stride`: 4x4 convolution, batch norm unless `norm` is false, LeakyReLU 0.2."""

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig, *, norm: bool = True, stride: int = 2) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1)]
        if norm:
            layers.append(BatchNorm(outputs, config))
        layers.append(nn.LeakyReLU(0.2))
        super().__init__(*layers)


class UpConcat(nn.Module):
    """Doubles height and width: 4x4 transposed convolution of stride 2, batch norm, dropout, concatenation, ReLU."""

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        self.norm = BatchNorm(outputs, config)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, skipped: Tensor) -> Tensor:
        """Features (B, inputs, H, W) and the encoder's (B, C, 2H, 2W) to (B, outputs + C, 2H, 2W)."""
        upsampled = self.dropout(self.norm(self.convolution(features)))
        return torch.relu(torch.cat([upsampled, skipped], dim=1))


def initialise(network: nn.Module, deviation: float) -> None:
    """Draw convolution and dense weights from N(0, deviation) and zero their biases (paper, networks)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, std=deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
