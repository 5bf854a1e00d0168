"""Discriminators: their settings, and the networks that these build."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from raygan.config.kinds import Discriminator
from raygan.config.section import require
from raygan.models.blocks import Down, NormalizedNetwork, initialize


@dataclass(frozen=True, kw_only=True)
class _DiscriminatorSettings(NormalizedNetwork, Discriminator):
    initial_deviation: float = 0.02
    """Standard deviation of the normal distribution of the initial weights."""

    def _check(self) -> None:
        super()._check()
        require("initial_deviation > 0", self.initial_deviation > 0, initial_deviation=self.initial_deviation)


@dataclass(frozen=True, kw_only=True)
class SingleScore(_DiscriminatorSettings):
    """The paper's discriminator, one score per image: 20,585,921 trainable parameters for crops of 256x256."""

    def build(self, crop_size: int) -> nn.Module:
        """See `Discriminator.build`; logits have the shape (B,)."""
        return SingleScoreNetwork(self, crop_size)


@dataclass(frozen=True, kw_only=True)
class PatchGAN(_DiscriminatorSettings):
    """PatchGAN (Isola et al., 2017), one score per patch; 2,766,529 parameters with the default settings."""

    layers: int = 3
    """Layers that halve height and width, 1 to 4, for patches of 16, 34, 70 (pix2pix) or 142 pixels."""

    def _check(self) -> None:
        super()._check()
        require("1 <= layers <= 4", 1 <= self.layers <= 4, layers=self.layers)

    def build(self, crop_size: int) -> nn.Module:  # noqa: ARG002
        """See `Discriminator.build`; logits have the shape (B, 1, P, P) with P = S / 2**layers - 2."""
        return PatchGANNetwork(self)


class SingleScoreNetwork(nn.Module):
    """The network of `SingleScore`."""

    def __init__(self, config: SingleScore, crop_size: int) -> None:
        super().__init__()
        width = config.base_width
        widths = [width, 2 * width, 4 * width, 4 * width, 8 * width]
        self.features = nn.Sequential(
            *(
                Down(inputs, outputs, config.norm(outputs) if index else nn.Identity())
                for index, (inputs, outputs) in enumerate(zip([3, *widths[:-1]], widths, strict=True))
            )
        )
        side = crop_size // 2 ** len(widths)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(side * side * 8 * width, 8 * width), nn.Linear(8 * width, 1))
        initialize(self, config.initial_deviation)

    def forward(self, images: Tensor) -> Tensor:
        """See `Discriminator.build`. The paper's sigmoid is in the loss, where it is numerically stable."""
        scores: Tensor = self.head(self.features(2 * images - 1))
        return scores.squeeze(1).float()


class PatchGANNetwork(nn.Module):
    """The network of `PatchGAN`."""

    def __init__(self, config: PatchGAN) -> None:
        super().__init__()
        halving = config.layers
        widths = [config.base_width * min(2**level, 8) for level in range(halving + 1)]
        self.layers = nn.Sequential(
            *(
                Down(
                    inputs,
                    outputs,
                    config.norm(outputs) if index else nn.Identity(),
                    stride=2 if index < halving else 1,
                )
                for index, (inputs, outputs) in enumerate(zip([3, *widths[:-1]], widths, strict=True))
            ),
            nn.Conv2d(widths[-1], 1, 4, padding=1),
        )
        initialize(self, config.initial_deviation)

    def forward(self, images: Tensor) -> Tensor:
        """See `Discriminator.build`."""
        scores: Tensor = self.layers(2 * images - 1)
        return scores.float()
