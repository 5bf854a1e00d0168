"""What a user's own noise, network, loss or photo source must provide.

Each is a frozen dataclass (`@dataclass(frozen=True, kw_only=True)`) that derives from one of these classes. Its fields
are its settings: they are validated, recorded, and searched over by path.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from raygan.config.section import Kind, Positive, require

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raygan.storage import Folder

Level = Literal["low", "mean", "high"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True, kw_only=True)
class Noise(Kind, ABC):
    """A noise model with a range of intensities, in the model's own unit."""

    low: float
    """Intensity at the level "low", the weakest noise."""
    high: float
    """Intensity at the level "high", the strongest noise."""
    odds: Positive = 1.0
    """How often training draws it, relative to the other noises."""
    name: str | None = None
    """Name in tables and paths; None: the class name in snake case."""

    @abstractmethod
    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """The noisy version of one image, float32, (3, H, W), in [0, 1]; the caller clips it to [0, 1].

        `generator` is on the image's device and is the only source of randomness.
        """

    def add_to_batch(
        self, clean: Tensor, intensities: Sequence[float], generators: Sequence[torch.Generator]
    ) -> Tensor:
        """The noisy versions of images, (B, 3, H, W), with one intensity and one generator each; see `add`.

        A model may override this to compute all images at once.
        """
        import torch

        drawn = zip(clean, intensities, generators, strict=True)
        return torch.stack([self.add(image, intensity, generator) for image, intensity, generator in drawn])

    def __add__(self, other: Noise) -> NoiseChain:
        """Chain this noise and the other, in this order, with the odds of this one."""
        links = [one.noises if isinstance(one, NoiseChain) and one.is_plain else (one,) for one in (self, other)]
        return NoiseChain(noises=(*links[0], *links[1]), odds=self.odds)

    @property
    def key(self) -> str:
        """The name in tables and paths."""
        return self.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def mean(self) -> float:
        """The middle of the range."""
        return (self.low + self.high) / 2

    def intensity(self, level: Level) -> float:
        """The intensity at which validation and evaluation add this noise."""
        return {"low": self.low, "mean": self.mean, "high": self.high}[level]


@dataclass(frozen=True, kw_only=True)
class NoiseChain(Noise):
    """Noises that are added one after the other, with clipping to [0, 1] after each: `Gaussian() + Jpeg()`.

    The intensity is the position in the range of each noise: 0 is its low, 1 its high.
    """

    noises: tuple[Noise, ...]
    """The noises, in their order."""
    low: float = 0.0
    high: float = 1.0

    def _check(self) -> None:
        names = [noise.key for noise in self.noises]
        require("noises not empty, with different names", 0 < len(names) == len(set(names)), noises=names)
        require_range(self, most=1)

    @property
    def is_plain(self) -> bool:
        """Whether it has the whole range and no name of its own, and so can be a part of a longer chain."""
        return (self.low, self.high, self.name) == (0.0, 1.0, None)

    @property
    def key(self) -> str:
        """See `Noise.key`; by default, the names of its noises."""
        return self.name or "_then_".join(noise.key for noise in self.noises)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        return self.add_to_batch(clean[None], [intensity], [generator])[0]

    def add_to_batch(
        self, clean: Tensor, intensities: Sequence[float], generators: Sequence[torch.Generator]
    ) -> Tensor:
        """See `Noise.add_to_batch`."""
        noisy = clean
        for noise in self.noises:
            own = [noise.low + position * (noise.high - noise.low) for position in intensities]
            noisy = noise.add_to_batch(noisy, own, generators).clamp(0, 1)
        return noisy


@dataclass(frozen=True, kw_only=True)
class SamplingPolicy(Kind, ABC):
    """How training draws intensities from a noise's range."""

    @abstractmethod
    def positions(self, uniform: Tensor) -> Tensor:
        """Positions in the range, in [0, 1], from numbers uniform in [0, 1), of the same shape."""


@dataclass(frozen=True, kw_only=True)
class Generator(Kind, ABC):
    """A denoising network."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, with weights from torch's global random generator.

        It maps noisy images to denoised ones, both float32, (B, 3, H, W), in [0, 1], and need not clamp its output.
        """

    @property
    def stride(self) -> int:
        """What the height and width of its input must be multiples of."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Discriminator(Kind, ABC):
    """A network that distinguishes clean from denoised images."""

    frozen_statistics: Literal["batch", "moving"] = "batch"
    """Statistics of batch normalization while the generator trains against the frozen discriminator: those of the
    batch, or the moving statistics, which Keras uses for layers that are not trainable."""

    @property
    def smallest_crop(self) -> int:
        """The smallest side, in pixels, of crops that it has scores for."""
        return 1

    @abstractmethod
    def build(self, crop_size: int) -> nn.Module:
        """The network, with weights from torch's global random generator.

        It maps images, float32, (B, 3, S, S), in [0, 1], with S = `crop_size`, to float32 logits of any shape (B, …):
        above 0 means clean.
        """


@dataclass(frozen=True, kw_only=True)
class ContentLoss(Kind, ABC):
    """A distance between clean and denoised images."""

    @property
    def weights_source(self) -> str | None:
        """What names the pretrained weights that it needs; None: it needs none."""
        return None

    def read_weights(self) -> dict[str, Tensor]:
        """The pretrained weights, read once, where the study runs, and sent to all workers."""
        return {}

    @abstractmethod
    def build(self, weights: dict[str, Tensor]) -> nn.Module:
        """A module that maps `(clean, denoised)`, float32, (B, 3, H, W), in [0, 1], to a scalar.

        `weights` are those of `read_weights`.
        """

    def describe(self) -> str:
        """The loss in words, for the terminal and the records."""
        return self.key


@dataclass(frozen=True, kw_only=True)
class PhotoSource(Kind, ABC):
    """Where clean photos come from."""

    @abstractmethod
    def find(self) -> tuple[Folder, list[str]]:
        """The folder, downloaded if need be, and the names of its image files.

        Raises `PhotosError` if there are none, and `DownloadError`.
        """


@dataclass(frozen=True, kw_only=True)
class PairSource(Kind, ABC):
    """Where pairs of noisy and clean photos of the same scenes come from."""

    @abstractmethod
    def find(self) -> tuple[Folder, list[tuple[str, str]]]:
        """The folder, and the names of each pair's files in it: noisy, clean. Several pairs may share a clean file.

        Raises `PhotosError` if there are none.
        """


def require_range(noise: Noise, most: float | None = None) -> None:
    """Raise `ConfigError` unless 0 <= low <= high, and high <= `most` if that is given."""
    require("0 <= low <= high", 0 <= noise.low <= noise.high, low=noise.low, high=noise.high)
    require(f"high <= {most}", most is None or noise.high <= most, high=noise.high)
