"""Crops of photos that do not fit into memory: read, decoded and cut by Ray Data while training goes on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raygan.config.run import Config
from raygan.data.crops import augmented, crop_stream, epoch_order, steps_per_epoch
from raygan.data.photos import StoredPhotos, decode_photo, random_corner
from raygan.data.sources import PhotosError

BATCHES_A_TASK = 4
"""Batches that one task reads: enough that starting it costs little, few enough that the first ones come soon."""


class StreamedCrops:
    """The crops that `CachedCrops` would give, of photos in a folder or bucket; see `CropSource`.

    Each worker has a Ray Data pipeline of its own part of every batch, so that all take the same number of steps. It
    runs from the first epoch asked for to the last, ahead of training as far as Ray Data's memory allows. Its tasks ask
    Ray for no core, since the worker has reserved `hardware/reading_cpus_per_worker` for them: they can never wait for
    cores that training holds.
    """

    def __init__(self, photos: StoredPhotos, config: Config, *, rank: int = 0, workers: int = 1) -> None:
        self.photos = photos
        self.config = config
        self.rank = rank
        self.share = config.training.batch_size // workers
        self.steps = steps_per_epoch(len(photos), config.training)
        self._pipeline: Iterator[Any] = iter(())
        self._next_epoch = 0
        """The epoch whose first batch the pipeline gives next; 0 where it gives none."""

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """One epoch's batches; see `CropSource`."""
        if epoch != self._next_epoch:
            self._pipeline = self._start(epoch)
        self._next_epoch = 0
        for _ in range(self.steps):
            crops = next(self._pipeline)["crop"]
            # A copy, so that torch never holds the object store's read-only memory.
            yield torch.from_numpy(crops.transpose(0, 3, 1, 2).copy())
        self._next_epoch = epoch + 1

    def _start(self, epoch: int) -> Iterator[Any]:
        import ray.data

        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        steps = (self.config.training.epochs - epoch + 1) * self.steps
        read = partial(
            _crops_of_steps,
            photos=self.photos,
            config=self.config,
            rank=self.rank,
            share=self.share,
            first_epoch=epoch,
            steps_per_epoch=self.steps,
        )
        with ray.data.DataContext.current(context):
            crops = ray.data.from_items(
                [{"step": step} for step in range(steps)], override_num_blocks=-(-steps // BATCHES_A_TASK)
            ).map_batches(read, batch_size=None, num_cpus=0, concurrency=self.config.hardware.reading_cpus_per_worker)
        return iter(crops.iter_batches(batch_size=self.share, prefetch_batches=2))


def _crops_of_steps(
    batch: dict[str, NDArray[Any]],
    photos: StoredPhotos,
    config: Config,
    rank: int,
    share: int,
    first_epoch: int,
    steps_per_epoch: int,
) -> dict[str, Any]:
    """One worker's crops of some steps, which are counted from the first epoch's first."""
    data, training = config.data, config.training
    crops = []
    for count in batch["step"].tolist():
        epoch, step = first_epoch + count // steps_per_epoch, count % steps_per_epoch
        order = epoch_order(training.seed, epoch, len(photos), steps_per_epoch * training.batch_size)
        first = step * training.batch_size + rank * share
        for position in range(first, first + share):
            name = photos.names[order[position]]
            photo, problem = decode_photo(photos.folder, name, data.crop_size)
            if problem:
                raise PhotosError(f"{photos.folder}/{name} was usable when the study began, but is {problem} now")
            random = crop_stream(training.seed, epoch, position)
            top, left = random_corner(photo.height, photo.width, data.crop_size, random)
            square = photo.crop((left, top, left + data.crop_size, top + data.crop_size))
            crops.append(augmented(np.asarray(square), data, random))
    return {"crop": np.stack(crops)}
