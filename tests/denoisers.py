"""Small denoisers as training keeps them, and images to denoise."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raygan.config.kinds import Generator
from raygan.config.section import with_values
from raygan.models import ResidualUNet
from raygan.presets import PAPER_V1
from raygan.storage import Folder

SMALL = ResidualUNet(base_width=4, depth=2, blocks=1, residual=True, normalization="none")


@dataclass(frozen=True, kw_only=True)
class Blur(Generator):
    """A user's own generator, of stride 1."""

    size: int = 3

    def build(self) -> nn.Module:
        return BlurNetwork(self.size)


class BlurNetwork(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, size, padding=size // 2, groups=3)
        nn.init.constant_(self.layer.weight, 1 / size**2)
        nn.init.zeros_(self.layer.bias)

    def forward(self, noisy: Tensor) -> Tensor:
        blurred: Tensor = self.layer(noisy)
        return blurred


def save_denoiser(folder: Path, generator: Generator = SMALL, *, identity: bool = False) -> Folder:
    """A denoiser's folder. With `identity`, `SMALL` returns its input; otherwise its last layer is random."""
    config = with_values(PAPER_V1, {"generator": generator})
    torch.manual_seed(0)
    network = generator.build()
    if generator == SMALL and not identity:
        nn.init.normal_(network.output[0].weight, std=0.1)  # type: ignore[index, union-attr, arg-type]
    folder.mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(), folder / "generator.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    return Folder(folder)


def image_of(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    random = np.random.default_rng(0)
    if np.dtype(kind).kind == "f":
        return random.random(shape).astype(kind)
    return random.integers(0, np.iinfo(kind).max, shape, endpoint=True).astype(kind)


def smooth_of(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    """A picture without noise: slopes, one for each channel."""
    full = np.iinfo(kind).max
    slope = np.add.outer(3 * np.arange(shape[0]), 2 * np.arange(shape[1])) * (full // 255)
    channels = [(slope + 40 * channel) % full for channel in range(shape[2] if len(shape) > 2 else 1)]
    return np.stack(channels, axis=2).reshape(shape).astype(kind)
