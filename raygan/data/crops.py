"""Square crops for training and validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raygan.config.run import DataConfig, TrainingConfig
from raygan.data.photos import Photos, random_crop
from raygan.seeds import derived_seed


class CropSource(Protocol):
    """What a training worker draws its crops from."""

    steps: int
    """Batches an epoch, the same on every worker."""

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """One epoch's batches of this worker: uint8, (batch, 3, crop_size, crop_size), on the CPU."""
        ...


class CachedCrops:
    """Random crops of photos in memory; each epoch has a different order and different positions.

    The workers share the epoch's order, and each takes its own part of every batch: their number changes no crop.
    """

    def __init__(
        self, photos: Photos, data: DataConfig, training: TrainingConfig, *, rank: int = 0, workers: int = 1
    ) -> None:
        self.photos = photos
        self.data = data
        self.seed = training.seed
        self.rank = rank
        self.batch_size = training.batch_size
        self.share = training.batch_size // workers
        self.steps = steps_per_epoch(len(photos), training)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """One epoch's batches; see `CropSource`."""
        indices = epoch_order(self.seed, epoch, len(self.photos), self.steps * self.batch_size)
        for step in range(self.steps):
            start = step * self.batch_size + self.rank * self.share
            yield as_batch(
                [
                    self._crop(self.photos.pixels[indices[position]], crop_stream(self.seed, epoch, position))
                    for position in range(start, start + self.share)
                ]
            )

    def _crop(self, pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        return augmented(random_crop(pixels, self.data.crop_size, random), self.data, random)


def validation_crops(photos: Photos, data: DataConfig) -> Tensor:
    """The fixed crops that every run of this data configuration is validated on: uint8, (val_crops, 3, S, S)."""
    crops = []
    for index in range(data.val_crops):
        random = np.random.default_rng(derived_seed("validation crops", data.seed, index))
        crops.append(random_crop(photos.pixels[index % len(photos)], data.crop_size, random))
    return as_batch(crops)


def steps_per_epoch(photos: int, training: TrainingConfig) -> int:
    """The configured steps of an epoch, or as many as pass once over the photos."""
    return training.steps_per_epoch or max(1, photos // training.batch_size)


def epoch_order(seed: int, epoch: int, photos: int, crops: int) -> NDArray[np.int64]:
    """Which photo each crop of an epoch is cut from: all in random order, then all again."""
    random = np.random.default_rng(derived_seed("photo order", seed, epoch))
    return np.concatenate([random.permutation(photos) for _ in range(-(-crops // photos))])[:crops]


def crop_stream(seed: int, epoch: int, position: int) -> np.random.Generator:
    """Where the crop at a position (from 0) in an epoch's order is cut."""
    return np.random.default_rng(derived_seed("crops", seed, epoch, position))


def to_unit_range(pixels: Tensor, device: torch.device | str) -> Tensor:
    """uint8 pixels as float32 in [0, 1] on `device`."""
    return pixels.to(device, non_blocking=True).float().div_(255)


def augmented(crop: NDArray[np.uint8], data: DataConfig, random: np.random.Generator) -> NDArray[np.uint8]:
    """The crop, (S, S, 3), turned and flipped as `data.augmentation` says."""
    if data.augmentation != "none" and random.integers(2):
        crop = crop[:, ::-1]
    if data.augmentation == "flips_and_rotations":
        crop = np.rot90(crop, int(random.integers(4)))
    return crop


def as_batch(crops: list[NDArray[np.uint8]]) -> Tensor:
    """Crops (S, S, 3) as one tensor, uint8 (B, 3, S, S)."""
    # np.stack copies, so that torch never holds the object store's read-only memory.
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
