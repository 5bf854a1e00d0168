"""Discriminators: their settings, and the networks that these build."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from raygan.config.kinds import Discriminator
from raygan.config.section import Positive
from raygan.models.blocks import Down, NormalizedNetwork, initialize


@dataclass(frozen=True, kw_only=True)
class _DiscriminatorSettings(NormalizedNetwork, Discriminator):
    initial_deviation: Positive = 0.02
    """Standard deviation of the normal distribution of the initial weights."""

    def downs(self, widths: list[int], halvings: int) -> list[nn.Module]:
        """A convolution for each width, of which the first few halve height and width; the first has no norm."""
        return [
            Down(inputs, outputs, self.norm(outputs) if index else nn.Identity(), stride=2 if index < halvings else 1)
            for index, (inputs, outputs) in enumerate(itertools.pairwise([3, *widths]))
        ]


@dataclass(frozen=True, kw_only=True)
class SingleScore(_DiscriminatorSettings):
    """The paper's discriminator, one score per image: 20,585,921 trainable parameters for crops of 256x256."""

    def build(self, crop_size: int) -> nn.Module:
        """See `Discriminator.build`; logits have the shape (B,)."""
        widths = [self.base_width * factor for factor in (1, 2, 4, 4, 8)]
        values, hidden = (crop_size // 2**5) ** 2 * widths[-1], 8 * self.base_width
        head = (nn.Flatten(), nn.Linear(values, hidden), nn.Linear(hidden, 1), nn.Flatten(0))
        return DiscriminatorNetwork([*self.downs(widths, halvings=5), *head], self.initial_deviation)


@dataclass(frozen=True, kw_only=True)
class PatchGAN(_DiscriminatorSettings):
    """PatchGAN (Isola et al., 2017), one score per patch; 2,766,529 parameters with the default settings."""

    layers: Annotated[int, (">=", 1), ("<=", 4)] = 3
    """Layers that halve height and width, 1 to 4, for patches of 16, 34, 70 (pix2pix) or 142 pixels."""

    @property
    def smallest_crop(self) -> int:
        """See `Discriminator.smallest_crop`."""
        return int(3 * 2**self.layers)

    def build(self, crop_size: int) -> nn.Module:  # noqa: ARG002
        """See `Discriminator.build`; logits have the shape (B, 1, P, P) with P = S / 2**layers - 2."""
        widths = [self.base_width * min(2**level, 8) for level in range(self.layers + 1)]
        scores = nn.Conv2d(widths[-1], 1, 4, padding=1)
        return DiscriminatorNetwork([*self.downs(widths, halvings=self.layers), scores], self.initial_deviation)


class DiscriminatorNetwork(nn.Module):
    """The network of a discriminator: its layers, for images in [-1, 1]."""

    def __init__(self, layers: list[nn.Module], deviation: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        initialize(self, deviation)

    def forward(self, images: Tensor) -> Tensor:
        """See `Discriminator.build`. The paper's sigmoid is in the loss, where it is numerically stable."""
        scores: Tensor = self.layers(2 * images - 1)
        return scores.float()
