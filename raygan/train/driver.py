"""How Ray runs the training loop: inside a Tune trial's own process, or on the workers of a TorchTrainer."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import torch
from ray import cloudpickle, tune
from ray import train as ray_train
from ray.exceptions import RayError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from raygan.config.run import Config
from raygan.config.section import ConfigError, with_values
from raygan.data.crops import CachedCrops, CropSource, StreamedCrops, validation_crops
from raygan.data.photos import StoredPhotos, TrainingPhotos
from raygan.errors import InputError
from raygan.storage import Folder
from raygan.train.cluster import resources
from raygan.train.loop import Epoch, RunRecord, Worker, train

RETRIES = 8
"""How often a run may resume after it lost a process: spot machines are taken away more than once."""
LOST_PEER = ("closed by peer", "reset by peer", "gloo", "NCCL")
"""Words in torch's messages about another worker that is gone."""
DISK_FULL = "the disk is full"
"""How the message of a run begins for which there is no room."""
HALF_BATCH = "half-batch.txt"
"""Of a run that was out of memory: its existence says that it runs with half the batch size, its content with which."""
ERROR = "error"
"""Key of the message of a run that cannot go on, in what it reports."""
DECIDING = (
    "epoch",
    "val_psnr_noisy",
    "best_val_psnr",
    "best_val_ssim",
    "best_operations_per_pixel",
    "discriminator_accuracy_clean",
    "discriminator_accuracy_denoised",
)
"""The metrics that search algorithms, schedulers and stoppers look at."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What all runs of a study share."""

    folder: Folder
    """The study's folder."""
    photos: ray.ObjectRef
    """Of a `TrainingPhotos` in the object store."""
    content_weights: Mapping[str, dict[str, Tensor]]
    """The content losses' pretrained weights by `ContentLoss.weights_source`."""


@dataclass(frozen=True)
class Run:
    """One training: a study's trial or its winner."""

    job: Job
    name: str
    config: Config
    values: Mapping[str, object]
    """What TensorBoard shows as its hyperparameters."""

    def epochs(self, worker: Worker) -> Iterator[Epoch]:
        """Train on this worker; see `raygan.train.loop.train`."""
        config, photos = self.config, ray.get(self.job.photos)
        assert isinstance(photos, TrainingPhotos)
        crops: CropSource
        if isinstance(photos.train, StoredPhotos):
            crops = StreamedCrops(
                photos.train, config, rank=worker.rank, workers=worker.workers, paired=self.job.photos
            )
        else:
            workers = worker.rank, worker.workers
            crops = CachedCrops(
                photos.train, config.data, config.training, *workers, photos.train_pairs, config.clean_share
            )
        val_crops = validation_crops(photos.validation, config.data, photos.validation_pairs)
        source = config.loss.content.weights_source
        weights = self.job.content_weights[source] if source is not None else {}
        record = RunRecord(self.job.folder, self.name, self.values)
        return train(config, crops, val_crops, weights, worker=worker, record=record)


class RunError(InputError):
    """What a run cannot go on after, unlike the loss of a process."""


class OutOfMemoryError(RunError):
    """The memory does not hold the networks with a batch of this size."""


def run_trial(point: dict[str, Any], job: Job, config_at: Callable[[Mapping[str, Any]], Config]) -> None:
    """One Tune trial: train the configuration at its point of the search space, and report every epoch to Tune.

    `point` has the trial's name, `trial`, its parameters, `params`, its `epochs` and its `seed`. A run that cannot go
    on reports why, as `error`: an exception would make Tune start it again, as if it had lost its process.
    """
    try:
        run = Run(job, point["trial"], config_at(point), point["params"])
        for epoch in epochs_here(run) if run.config.hardware.workers == 1 else epochs_with_workers(run):
            # Tune keeps the history of every number: it gets those that decide, and the others as text.
            deciding = {name: epoch.metrics[name] for name in DECIDING}
            more = {"epochs": run.config.training.epochs, "metrics": json.dumps(epoch.metrics)}
            tune.report(deciding | more)
    except Exception as error:
        if _is_loss(error, job.folder):
            raise
        # Tune insists on the metrics that its schedulers look at.
        tune.report(dict.fromkeys(DECIDING, math.nan) | {"epoch": 0, ERROR: str(_explained(error))})


def _is_loss(error: Exception, folder: Folder) -> bool:
    """Whether an error comes from a lost process or machine, or from a bucket that does not answer: it is retried."""
    if isinstance(error, InputError) and not isinstance(error, RayError):
        # Its text may name anything.
        return False
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    is_bucket = isinstance(error, OSError) and not folder.is_local and not is_full
    return isinstance(error, RayError) or is_bucket or any(words in str(error) for words in LOST_PEER)


def _explained(error: Exception) -> InputError:
    """An error of a run for the user; its traceback goes to the worker's log."""
    if isinstance(error, InputError):
        return error
    logger.error("a run cannot go on", exc_info=error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"{DISK_FULL}: {error}")
    if _is_out_of_memory(error):
        return OutOfMemoryError("out of memory: lower training/batch_size, data/crop_size or the networks' base_width")
    return RunError(f"{type(error).__name__}: {error}")


def _is_out_of_memory(error: Exception) -> bool:
    # The processor's allocator raises a RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def epochs_here(run: Run) -> Iterator[Epoch]:
    """Train a run in this process; raises the run's own errors as they are, but for `OutOfMemoryError`."""
    return _with_half_batch(run, _epochs_in_process)


def epochs_with_workers(run: Run) -> Iterator[Epoch]:
    """Train a run under a TorchTrainer; yields its epochs as they come, those before a lost process again.

    Raises what a worker raised, such as `DivergedError`, and Ray's own error if processes are lost too often.
    """
    return _with_half_batch(run, _epochs_despite_losses)


def _with_half_batch(run: Run, epochs: Callable[[Run], Iterator[Epoch]]) -> Iterator[Epoch]:
    """A run's epochs: with half the batch, if the memory does not hold it and `training/halve_batch` allows that."""
    checkpoints, halved = run.job.folder.child(f"checkpoints/{run.name}"), _halved(run)
    if not checkpoints.exists(HALF_BATCH):
        try:
            yield from epochs(run)
            return
        except OutOfMemoryError:
            if halved is None or checkpoints.files():
                raise
        before, now = (one.config.training.batch_size for one in (run, halved))
        logger.warning("%s is out of memory with batches of %d: it starts again with half", run.name, before)
        # What a resumed run needs to know.
        checkpoints.write(HALF_BATCH, f"training/batch_size {now} instead of {before}\n")
    yield from epochs(halved or run)


def _halved(run: Run) -> Run | None:
    """The run with half the batch; None where that is not allowed, or breaks a rule."""
    half, rest = divmod(run.config.training.batch_size, 2)
    if not run.config.training.halve_batch or rest:
        return None
    try:
        return replace(run, config=with_values(run.config, {"training/batch_size": half}))
    except ConfigError:
        # Workers would get unequal parts, or a batch no pair.
        return None


def _epochs_in_process(run: Run) -> Iterator[Epoch]:
    try:
        yield from run.epochs(Worker(device=torch.device(run.config.hardware.device)))
    except (MemoryError, RuntimeError) as error:
        if _is_out_of_memory(error):
            raise _explained(error) from error
        raise


def _epochs_despite_losses(run: Run) -> Iterator[Epoch]:
    for _ in range(RETRIES):
        with contextlib.suppress(WorkerGroupError):
            yield from _epochs_until_lost(run)
            return
    yield from _epochs_until_lost(run)


def _epochs_until_lost(run: Run) -> Iterator[Epoch]:
    """The epochs up to the first loss of a process."""
    storage = run.job.folder.child("ray")
    # What Ray Train keeps of an earlier start is of no use: the run's own checkpoints are what it resumes from.
    storage.child(run.name).clear()
    # Of size 1, so that workers wait for whoever records their epochs; without a core of its own, since the workers may
    # need all; and on this machine, so that no other takes it along when it goes.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reports = Queue(maxsize=1, actor_options={"num_cpus": 0, "scheduling_strategy": here})
    hardware, asked = run.config.hardware, resources(run.config)
    gpu = hardware.device == "cuda"
    trainer = TorchTrainer(
        partial(_train_worker, run, reports),
        scaling_config=ScalingConfig(num_workers=hardware.workers, use_gpu=gpu, resources_per_worker=asked),
        run_config=RunConfig(
            name=run.name,
            storage_path=storage.location,
            # Not of workers' failures: Ray Train would also retry those that are the run's own fault.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=RETRIES),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    own, errors = list[InputError](), list[BaseException]()

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  (it is raised again below, in the caller's thread)
            errors.append(error)

    # In a thread, so that epochs can be shown, and Ctrl-C handled, while it trains.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive() or not reports.empty():
        try:
            report = cloudpickle.loads(reports.get(timeout=0.5))
        except Empty:
            continue
        if isinstance(report, InputError):
            own.append(report)
        else:
            yield report
    reports.shutdown()
    storage.child(run.name).clear()
    # A worker's own error made Ray's, and those of the workers that waited for it.
    for error in (*own, *errors):
        raise error


def _train_worker(run: Run, reports: Queue) -> None:
    """What each worker of a TorchTrainer runs; the one of rank 0 reports the epochs, which all share.

    Reports are bytes: the queue's process would import torch for an epoch.
    """
    context = ray_train.get_context()
    device = ray_train.torch.get_device() if run.config.hardware.device == "cuda" else torch.device("cpu")
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    try:
        for epoch in run.epochs(worker):
            if worker.rank == 0:
                reports.put(cloudpickle.dumps(epoch))
    except Exception as error:
        if not _is_loss(error, run.job.folder):
            reports.put(cloudpickle.dumps(_explained(error)))
        raise
