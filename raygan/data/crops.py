"""Square crops for training and validation."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raygan.config.run import Config, DataConfig, TrainingConfig
from raygan.data.photos import Photos, StoredPhotos, TrainingPhotos
from raygan.data.sources import PhotosError
from raygan.seeds import derived_seed, torch_generator

UNREADABLE = re.compile(r"PhotosError: (.+)")
BATCHES_A_TASK = 16
"""Batches that one task reads at most: enough that starting it costs little."""


@dataclass(frozen=True)
class CachedCrops:
    """Random crops of photos, usually in memory; each epoch has a different order and different positions.

    The workers share the epoch's order, and each takes its own part of every batch: their number changes no crop.
    """

    photos: Photos | StoredPhotos
    data: DataConfig
    training: TrainingConfig
    rank: int = 0
    workers: int = 1
    pairs: Photos | None = None
    """Pairs from which `data/pairs_share` of each batch is cut."""
    clean_share: float = 0.0
    """Share of the crops that will get no noise, and keep their size."""

    @property
    def steps(self) -> int:
        """Batches per epoch, the same on every worker: as configured, or enough for one pass over the photos."""
        return self.training.steps_per_epoch or max(1, len(self.photos) // self.training.batch_size)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """One epoch's batches of this worker: uint8, (batch, 3, crop_size, crop_size), on the CPU.

        With pairs, there are 6 channels: the clean crop, then the noisy one, which is 0 except where `pairs_in_batch`.
        """
        for step in range(self.steps):
            yield _as_tensor(self.batch(epoch, step))

    def batch(self, epoch: int, step: int) -> NDArray[np.uint8]:
        """The batch of one step, from 0: (batch, crop_size, crop_size, 3 or 6)."""
        seed, share = self.training.seed, self.training.batch_size // self.workers
        first = step * self.training.batch_size
        stays_clean = clean_in_batch(self.clean_share, self.training, epoch, step)
        crops = []
        for row in range(self.rank * share, (self.rank + 1) * share):
            random = np.random.default_rng(derived_seed("crops", seed, epoch, first + row))
            crop = self._crop(epoch, first + row, random, keeps_size=stays_clean[row])
            if self.data.augmentation != "none" and random.integers(2):
                crop = crop[:, ::-1]
            if self.data.augmentation == "flips_and_rotations":
                crop = np.rot90(crop, int(random.integers(4)))
            crops.append(crop)
        return np.stack(crops)

    def _crop(self, epoch: int, position: int, random: np.random.Generator, *, keeps_size: bool) -> NDArray[np.uint8]:
        """The crop at a position of the epoch, before augmentation."""
        batch_size = self.training.batch_size
        is_pair = self.pairs is not None and pairs_in_batch(self.data, batch_size)[position % batch_size]
        source = self.pairs if self.pairs is not None and is_pair else self.photos
        order = _epoch_order(self.training.seed, epoch, len(source), self.steps * batch_size)
        size, least, most = self.data.crop_size, self.data.min_enlargement, self.data.max_enlargement
        if is_pair or keeps_size or most == 1:
            crop = source.crop(order[position], size, random)
        else:
            factor = least * (most / least) ** random.random()
            small = source.crop(order[position], round(size / factor), random)
            crop = np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))
        return crop if self.pairs is None or is_pair else np.concatenate([crop, np.zeros_like(crop)], axis=2)


class StreamedCrops:
    """The crops that `CachedCrops` would give, of photos in a folder or bucket, cut by Ray Data ahead of training.

    Each worker has a Ray Data pipeline of its own part of every batch, so that all take the same number of steps. It
    runs from the first epoch asked for to the last, ahead of training as far as Ray Data's memory allows. Its tasks ask
    Ray for no core, since the worker has reserved `hardware/reading_cpus_per_worker` for them: they can never wait for
    cores that training holds. There is one task more than these cores, since Ray Data takes 0.2 s to start the next one
    after one has ended.
    """

    def __init__(
        self, photos: StoredPhotos, config: Config, *, rank: int = 0, workers: int = 1, paired: Any = None
    ) -> None:
        """`paired` refers to the `TrainingPhotos` in the object store whose pairs, if there are any, are cut too."""
        self.config = config
        self.paired = paired
        pairs = _pairs_of(paired)
        self.cut = CachedCrops(photos, config.data, config.training, rank, workers, pairs, config.clean_share)
        self.steps = self.cut.steps
        self._pipeline: Iterator[Any] = iter(())
        self._next_epoch = 0
        """The epoch whose first batch the pipeline gives next; 0 where it gives none."""

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """One epoch's batches; see `CachedCrops.batches`. Raises `PhotosError` if a photo cannot be read any more."""
        if epoch != self._next_epoch:
            self._pipeline = self._start(epoch)
        self._next_epoch = 0
        for _ in range(self.steps):
            yield _as_tensor(self._next_crops())
        self._next_epoch = epoch + 1

    def _next_crops(self) -> NDArray[np.uint8]:
        from ray.exceptions import RayError

        try:
            crops: NDArray[np.uint8] = next(self._pipeline)["crop"]
        except RayError as error:
            # Ray tells the error of a task in the text of its own.
            if told := UNREADABLE.findall(str(error)):
                raise PhotosError(told[-1]) from error
            raise
        return crops

    def _start(self, epoch: int) -> Iterator[Any]:
        import ray.data

        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        steps = (self.config.training.epochs - epoch + 1) * self.steps
        # Otherwise, every task would carry the pairs.
        read = partial(_read_steps, crops=replace(self.cut, pairs=None), paired=self.paired, first_epoch=epoch)
        tasks = self.config.hardware.reading_cpus_per_worker + 1
        with ray.data.DataContext.current(context):
            parts = _parts(steps)
            counted = ray.data.from_items(parts, override_num_blocks=len(parts))
            crops = counted.map_batches(read, batch_size=None, num_cpus=0, concurrency=tasks)
        share = self.config.training.batch_size // self.cut.workers
        return iter(crops.iter_batches(batch_size=share, prefetch_batches=2))


CropSource = CachedCrops | StreamedCrops
"""What a training worker draws its crops from."""


@dataclass(frozen=True)
class ValidationCrops:
    """The fixed crops that a run is validated on, on the CPU."""

    photos: Tensor
    """uint8, (val_crops, 3, S, S)."""
    pairs: Tensor | None = None
    """uint8, (val_crops, 6, S, S): clean, then noisy."""

    def __len__(self) -> int:
        return len(self.photos)


def validation_crops(photos: Photos, data: DataConfig, pairs: Photos | None = None) -> ValidationCrops:
    """The fixed crops that every run of this data configuration is validated on."""

    def cut(photos: Photos) -> Tensor:
        streams = [np.random.default_rng(derived_seed("validation crops", data.seed, i)) for i in range(data.val_crops)]
        crops = [photos.crop(i % len(photos), data.crop_size, random) for i, random in enumerate(streams)]
        return _as_tensor(np.stack(crops))

    return ValidationCrops(cut(photos), None if pairs is None else cut(pairs))


def pairs_in_batch(data: DataConfig, batch_size: int) -> list[bool]:
    """Which positions of a batch are cut from pairs, if there are any: `pairs_share` of them, evenly spread."""
    counts = [round(position * data.pairs_share) for position in range(batch_size + 1)]
    return [later > earlier for earlier, later in itertools.pairwise(counts)]


def clean_in_batch(clean_share: float, training: TrainingConfig, epoch: int, step: int) -> list[bool]:
    """Which positions of a step's batch get no noise: `clean_share` of them, at random, the same on every worker."""
    random = torch_generator("clean crops", training.seed, epoch, step)
    return (torch.rand(training.batch_size, generator=random) < clean_share).tolist()


def to_unit_range(pixels: Tensor, device: torch.device | str) -> Tensor:
    """uint8 pixels as float32 in [0, 1] on `device`."""
    return pixels.to(device, non_blocking=True).float().div_(255)


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, photos: int, crops: int) -> list[int]:
    """Which photo each crop of an epoch is cut from: all in random order, then all again."""
    random = np.random.default_rng(derived_seed("photo order", seed, epoch))
    order: list[int] = np.concatenate([random.permutation(photos) for _ in range(-(-crops // photos))]).tolist()
    return order


def _parts(steps: int) -> list[dict[str, int]]:
    """The steps that each task reads, from the first one on: few at first, so that the first batches come soon."""
    parts, first, size = list[dict[str, int]](), 0, 1
    while first < steps:
        parts.append({"first": first, "end": min(first + size, steps)})
        first, size = first + size, min(2 * size, BATCHES_A_TASK)
    return parts


def _read_steps(
    batch: dict[str, NDArray[Any]], crops: CachedCrops, paired: Any, first_epoch: int
) -> dict[str, NDArray[np.uint8]]:
    """The crops of some steps, counted from the first epoch's first."""
    crops = replace(crops, pairs=_pairs_of(paired))
    parts = zip(batch["first"].tolist(), batch["end"].tolist(), strict=True)
    counted = [divmod(count, crops.steps) for first, end in parts for count in range(first, end)]
    return {"crop": np.concatenate([crops.batch(first_epoch + epochs, step) for epochs, step in counted])}


def _pairs_of(paired: Any) -> Photos | None:
    if paired is None:
        return None
    import ray

    photos = ray.get(paired)
    assert isinstance(photos, TrainingPhotos)
    return photos.train_pairs


def _as_tensor(crops: NDArray[np.uint8]) -> Tensor:
    """Crops (B, S, S, C) as uint8 (B, C, S, S), copied: torch must not hold the object store's read-only memory."""
    return torch.from_numpy(crops.transpose(0, 3, 1, 2).copy())
