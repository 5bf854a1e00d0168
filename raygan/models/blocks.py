"""The layers that generators and discriminators are made of."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from raygan.config.section import Count, Positive, Section

Upsampling = Literal["transposed", "resize"]


@dataclass(frozen=True, kw_only=True)
class NormalizedNetwork(Section):
    """Settings that the convolutional networks share."""

    base_width: Count = 64
    """Channels of the first layer; all other widths are multiples of it."""
    normalization: Literal["batch", "none"] = "batch"
    """Normalization layers: batch normalization (as in the paper) or none."""
    batch_norm_momentum: Annotated[float, (">", 0), ("<=", 1)] = 0.01
    """Weight of the newest batch in the moving statistics (Keras writes the same as momentum 0.99)."""
    batch_norm_epsilon: Positive = 1e-3
    """Term added to the variance in batch normalization (Keras's default)."""

    def norm(self, channels: int, *, by_image: bool = False) -> nn.Module:
        """The normalization layer for `channels` channels; see `BatchNorm`."""
        if self.normalization == "none":
            return nn.Identity()
        return BatchNorm(channels, self.batch_norm_epsilon, self.batch_norm_momentum, by_image=by_image)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization; in evaluation mode with moving statistics or, if `by_image`, with those of each image."""

    def __init__(self, channels: int, epsilon: float, momentum: float, *, by_image: bool) -> None:
        super().__init__(channels, eps=epsilon, momentum=momentum)
        self.by_image = by_image
        self.workers = 1
        """Training workers whose parts of a batch are normalized together."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalized features of the same shape."""
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
            batches = self.get_buffer("num_batches_tracked").add_(1)
            # Without a momentum, statistics are the means of all batches, as in torch.
            share = 1 / batches.item() if self.momentum is None else self.momentum
            self.get_buffer("running_mean").lerp_(mean, share)
            self.get_buffer("running_var").lerp_(variance * count / (count - 1), share)
        scale = (variance + self.eps).rsqrt() * self.weight
        normalized: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalized.type_as(features)


class _Sum(torch.autograd.Function):
    """The sum over all training workers; so is its gradient's."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total: Tensor = _Sum.apply(gradient)
        return total


def normalize_over_workers(network: nn.Module, workers: int) -> None:
    """Let batch norm take its statistics over all workers' parts of a batch, of equal size."""
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            layer.workers = workers


class Down(nn.Sequential):
    """Divides height and width by `stride`: 4x4 convolution, the given normalization, LeakyReLU 0.2."""

    def __init__(self, inputs: int, outputs: int, norm: nn.Module, *, stride: int = 2) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1), norm, nn.LeakyReLU(0.2))


def build_upsampling(inputs: int, outputs: int, upsampling: Upsampling) -> nn.Module:
    """A convolution that doubles height and width.

    "transposed" is a 4x4 transposed convolution (the paper's); "resize" repeats the nearest neighbor and convolves 3x3,
    which leaves no checkerboard artifacts (Odena et al., 2016).
    """
    if upsampling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inputs, outputs, 3, padding=1))


class UpConcat(nn.Module):
    """Doubles height and width: upsampling convolution, normalization, dropout, concatenation, ReLU."""

    def __init__(self, convolution: nn.Module, norm: nn.Module, dropout: float) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = norm
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, skipped: Tensor) -> Tensor:
        """Features (B, inputs, H, W) and the encoder's (B, C, 2H, 2W) to (B, outputs + C, 2H, 2W)."""
        upsampled = self.dropout(self.norm(self.convolution(features)))
        return torch.relu(torch.cat([upsampled, skipped], dim=1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each with normalization, a ReLU between them, added to the input."""

    def __init__(self, width: int, config: NormalizedNetwork) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            config.norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            config.norm(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape, (B, width, H, W)."""
        added: Tensor = self.layers(features)
        return features + added


class FullResolution(nn.Sequential):
    """Layers at a network's highest resolution: in evaluation mode they compute in float32, under autocast too.

    Of what bfloat16 costs a residual U-Net, most is lost here (see `docs/explanation/denoiser.md`).
    """

    def forward(self, features: Tensor) -> Tensor:
        """The last layer's result."""
        kind = features.device.type
        reduced = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        exact = reduced and not self.training
        with torch.autocast(kind, enabled=False) if exact else contextlib.nullcontext():
            result: Tensor = super().forward(features.float() if exact else features)  # type: ignore[no-untyped-call]
        return result


def initialize(network: nn.Module, deviation: float) -> None:
    """Draw convolution and dense weights from N(0, deviation) and zero their biases (paper, networks)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, std=deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
