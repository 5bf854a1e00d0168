"""The layers that both networks are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from raygan.config.run import DiscriminatorConfig, GeneratorConfig

NetworkConfig = GeneratorConfig | DiscriminatorConfig


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation as the configuration says: in evaluation mode by moving statistics or each image's own."""

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__(channels, eps=config.batch_norm_epsilon, momentum=config.batch_norm_momentum)
        self.by_image = isinstance(config, GeneratorConfig) and config.inference_statistics == "image"
        self.new_share = config.batch_norm_momentum
        self.workers = 1
        """Training workers whose parts of a batch are normalised together."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalised features of the same shape."""
        if self.by_image and not self.training:
            return functional.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)
        if self.workers > 1 and self.training:
            return self._over_workers(features)
        return super().forward(features)

    def _over_workers(self, features: Tensor) -> Tensor:
        # torch's own SyncBatchNorm refuses tensors on the CPU.
        values = features.float()
        mean = _Sum.apply(values.mean((0, 2, 3))) / self.workers
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().mean((0, 2, 3))) / self.workers
        count = values.numel() // len(mean) * self.workers
        with torch.no_grad():
            self.get_buffer("running_mean").lerp_(mean, self.new_share)
            self.get_buffer("running_var").lerp_(variance * count / (count - 1), self.new_share)
            self.get_buffer("num_batches_tracked").add_(1)
        scale = (variance + self.eps).rsqrt() * self.weight
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised.type_as(features)


class _Sum(torch.autograd.Function):
    """The sum over all training workers; so is its gradient's."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


def normalise_over_workers(network: nn.Module, workers: int) -> None:
    """Let batch norm take its statistics over all workers' parts of a batch, of equal size."""
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            layer.workers = workers


def build_norm(channels: int, config: NetworkConfig) -> nn.Module:
    """The configured normalisation of `channels` channels."""
    return BatchNorm(channels, config) if config.normalization == "batch" else nn.Identity()


class Down(nn.Sequential):
    """Divides height and width by `stride`: 4x4 convolution, normalisation unless `norm` is false, LeakyReLU 0.2."""

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig, *, norm: bool = True, stride: int = 2) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1)]
        if norm:
            layers.append(build_norm(outputs, config))
        layers.append(nn.LeakyReLU(0.2))
        super().__init__(*layers)


def build_upsampling(inputs: int, outputs: int, config: GeneratorConfig) -> nn.Module:
    """The configured convolution that doubles height and width (see `GeneratorConfig.upsampling`)."""
    if config.upsampling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inputs, outputs, 3, padding=1))


class UpConcat(nn.Module):
    """Doubles height and width: upsampling convolution, normalisation, dropout, concatenation, ReLU."""

    def __init__(self, inputs: int, outputs: int, config: GeneratorConfig, dropout: float) -> None:
        super().__init__()
        self.convolution = build_upsampling(inputs, outputs, config)
        self.norm = build_norm(outputs, config)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, skipped: Tensor) -> Tensor:
        """Features (B, inputs, H, W) and the encoder's (B, C, 2H, 2W) to (B, outputs + C, 2H, 2W)."""
        upsampled = self.dropout(self.norm(self.convolution(features)))
        return torch.relu(torch.cat([upsampled, skipped], dim=1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each with normalisation, a ReLU between them, added to what they were given."""

    def __init__(self, width: int, config: GeneratorConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            build_norm(width, config),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            build_norm(width, config),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape, (B, width, H, W)."""
        added: Tensor = self.layers(features)
        return features + added


def initialise(network: nn.Module, deviation: float) -> None:
    """Draw convolution and dense weights from N(0, deviation) and zero their biases (paper, networks)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, std=deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
