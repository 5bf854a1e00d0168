"""How Ray runs the training loop: inside a Tune trial's own process, or as the workers of a TorchTrainer."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from pyarrow import fs
from ray import train as ray_train
from ray import tune
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from raygan.config.run import Config
from raygan.data.crops import CachedCrops, CropSource, validation_crops
from raygan.data.photos import StoredPhotos, TrainingPhotos
from raygan.data.stream import StreamedCrops
from raygan.config.section import with_values
from raygan.study.storage import Folder
from raygan.train.checkpoint import DENOISER_FILES, CheckpointError, verify_checkpoint
from raygan.train.cluster import resources
from raygan.train.loop import DivergedError, Place, RunLog, train

KEPT_CHECKPOINTS = 2
"""How many of a run's newest checkpoints Ray keeps, so that one is left where the newest is damaged."""
RETRIES = 8
"""How often a run may go on from its last checkpoint after losing a process: spot machines go away more than once."""

DECIDING = (
    *("epoch", "val_psnr", "val_ssim", "val_milliseconds", "val_psnr_noisy"),
    *("best_epoch", "best_val_psnr", "best_val_ssim", "best_val_milliseconds"),
    *("discriminator_accuracy_clean", "discriminator_accuracy_denoised"),
)
"""The metrics that searchers, schedulers and stoppers look at."""

CHECKPOINT_LIST = "checkpoint_manager_snapshot.json"
"""Ray Train's name for its list of a run's checkpoints."""

logger = logging.getLogger(__name__)

Vgg19Weights = dict[str | None, dict[str, Tensor]]
"""Weights as `raygan.losses.read_vgg19_weights` gives them, by the `loss/vgg19_weights` that names them."""


@dataclass(frozen=True)
class Job:
    """What all runs of a study share."""

    config: Config
    photos: ray.ObjectRef
    """Of a `TrainingPhotos` in the object store."""
    vgg19_weights: Vgg19Weights
    folder: str
    """The study's folder."""

    def run_log(self, run: str, values: Mapping[str, object]) -> RunLog:
        """Where a run's own records go."""
        return RunLog(run, self.folder, values)


@dataclass(frozen=True)
class Run:
    """One training: a study's trial, or its winner."""

    job: Job
    config: Config
    log: RunLog
    varying: tuple[str, ...] = ()
    """Paths whose values may differ from those of the checkpoint that it goes on from."""


def run_trial(
    point: dict[str, Any], job: Job, values_at: Callable[[dict[str, Any]], dict[str, Any]], varying: Collection[str]
) -> None:
    """One Tune trial: train `job.config` with the values at the trial's (nested) point of the search space.

    Reports every epoch with its checkpoint to Tune. `varying` are the paths whose values the scheduler changes on the
    way.
    """
    flat = values_at(flattened(point))
    config = with_values(job.config, flat)
    name = tune.get_context().get_trial_name()
    run = Run(job, config, job.run_log(name, flat), tuple(varying))

    def report(metrics: dict[str, float], checkpoint: Path) -> None:
        tune.report(_for_tune(metrics), checkpoint=tune.Checkpoint.from_directory(checkpoint))

    start_from = tune.get_checkpoint()
    with _usable(start_from) as folder:
        if folder is not None:
            last = json.loads((folder / "metrics.json").read_text())
            if last["epoch"] == config.training.epochs:
                # Killed between its last report and Tune's record of it: Tune needs to hear it again.
                report(last, folder)
                return
        if config.hardware.workers == 1:
            _train(run, Place(device=torch.device(config.hardware.device)), report, folder)
            return
    workers = Folder(job.folder).child("workers")
    # What an earlier start of this trial left there is in Tune's checkpoint.
    workers.child(name).clear()
    for metrics, checkpoint in _epochs_of(run, name, workers, start_from):
        tune.report(_for_tune(metrics), checkpoint=tune.Checkpoint(checkpoint.path, checkpoint.filesystem))
    workers.child(name).clear()


def _for_tune(metrics: Mapping[str, float]) -> dict[str, Any]:
    """What Tune, which keeps every number's history (55 KB a trial of all), is told: those that decide, and a text."""
    return {name: metrics[name] for name in DECIDING} | {"metrics": json.dumps(metrics)}


def train_with_workers(
    job: Job,
    config: Config,
    name: str,
    values: Mapping[str, object],
    on_epoch: Callable[[dict[str, float]], None],
) -> dict[str, bytes]:
    """Train one run under a TorchTrainer, in `job.folder/name`; returns the files of its best epoch's denoiser.

    `on_epoch` gets each epoch's metrics, in this process, as they come. Called again with the same name, it goes
    on from the last checkpoint, after telling of the epochs that have one. A run that diverges keeps the epochs
    before; raises `DivergedError` if there are none, and what else made training fail.
    """
    run = Run(job, config, job.run_log(name, values))
    folder = Folder(job.folder)
    start_from = _mended(folder.child(name))
    for file in _epoch_files(folder.child(name)):
        # An earlier start may have been killed before it told of its last epochs. (A damaged one is trained again.)
        with contextlib.suppress(json.JSONDecodeError):
            on_epoch(json.loads(folder.child(name).read(file)))
    try:
        for metrics, _ in _epochs_of(run, name, folder, start_from):
            on_epoch(metrics)
    except DivergedError:
        if not _epoch_files(folder.child(name)):
            raise
        # It diverged late: the epochs before are kept.
    # Where all was trained before the list was torn, Ray Train had no checkpoint to begin a new one with.
    listed = folder.child(name).exists(CHECKPOINT_LIST)
    last = ray_train.Result.from_path(folder.child(name).location).checkpoint if listed else start_from
    with _usable(last) as checkpoint:
        if checkpoint is None:
            raise CheckpointError(f"no checkpoint of {folder.child(name)} can be read: start under another name")
        return {file: (checkpoint / "denoiser" / file).read_bytes() for file in DENOISER_FILES}


def _epoch_files(run: Folder) -> list[str]:
    """The metrics of the epochs whose checkpoints are there."""
    return [file for file in run.files() if re.fullmatch(r"checkpoint_[^/]*/metrics\.json", file)]


def _mended(run: Folder) -> ray_train.Checkpoint | None:
    """Remove Ray's list of a run's checkpoints if it is torn, and give back the newest one, to go on from.

    Ray Train writes that list in place, and cannot start where a kill has torn it.
    """
    try:
        json.loads(run.read(CHECKPOINT_LIST))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:
        run.delete(CHECKPOINT_LIST)
        names = [file.partition("/")[0] for file in _epoch_files(run)]
        return ray_train.Checkpoint(f"{run.path}/{max(names)}", run.filesystem) if names else None
    return None


def _epochs_of(
    run: Run, name: str, storage: Folder, start_from: tune.Checkpoint | None
) -> Iterator[tuple[dict[str, Any], ray_train.Checkpoint]]:
    """Run a TorchTrainer in `storage/name`; yields each epoch's metrics and checkpoint as they come.

    Raises `DivergedError`, and what else made training fail.
    """
    # Of one place, so that workers wait for whoever copies their checkpoints; without a core of its own, since the
    # workers may ask for all; and on this machine, so that no other takes it along when it goes.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reports = Queue(maxsize=1, actor_options={"num_cpus": 0, "scheduling_strategy": here})
    trainer = _trainer(run, name, storage.location, _QueueCallback(reports), start_from)
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  (it is raised again below, in the caller's thread)
            errors.append(error)

    # In a thread, so that epochs can be shown, and Ctrl-C heard, while it trains.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive() or not reports.empty():
        try:
            yield reports.get(timeout=0.5)
        except Empty:
            continue
    reports.shutdown()
    if errors:
        raise errors[0]
    if _failures(run.job).exists(f"{run.log.run}.txt"):
        raise DivergedError(_failures(run.job).read(f"{run.log.run}.txt").decode())


class _QueueCallback(UserCallback):  # type: ignore[misc]
    """Sends rank 0's metrics, which all workers share, and its checkpoint to the process that waits for the run."""

    def __init__(self, reports: Queue) -> None:
        self.reports = reports

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        self.reports.put((metrics[0], checkpoint))


def _trainer(
    run: Run, name: str, storage: str, callback: UserCallback, start_from: tune.Checkpoint | None
) -> TorchTrainer:
    hardware = run.config.hardware
    return TorchTrainer(
        partial(_train_worker, run=run, start_from=start_from),
        train_loop_config={},
        scaling_config=ScalingConfig(
            num_workers=hardware.workers,
            use_gpu=hardware.device == "cuda",
            resources_per_worker=resources(run.config),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            # More than what the run itself needs: a checkpoint must outlast its being copied.
            checkpoint_config=CheckpointConfig(num_to_keep=2 * KEPT_CHECKPOINTS),
            failure_config=FailureConfig(max_failures=RETRIES, controller_failure_limit=RETRIES),
            callbacks=[callback],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _train_worker(_: dict[str, Any], run: Run, start_from: tune.Checkpoint | None) -> None:
    """What each worker of a TorchTrainer runs."""
    context = ray_train.get_context()
    place = Place(
        rank=context.get_world_rank(),
        workers=context.get_world_size(),
        device=ray_train.torch.get_device() if run.config.hardware.device == "cuda" else torch.device("cpu"),
    )

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        saved = None if checkpoint is None else ray_train.Checkpoint.from_directory(checkpoint)
        ray_train.report(dict(metrics), checkpoint=saved)

    with _usable(ray_train.get_checkpoint() or start_from) as folder:
        if place.workers > 1:
            # All must go on from the same epoch, 0 where there is no checkpoint.
            epoch = json.loads((folder / "metrics.json").read_text())["epoch"] if folder else 0
            epochs = torch.tensor([epoch, -epoch], device=place.device)
            torch.distributed.all_reduce(epochs, torch.distributed.ReduceOp.MAX)
            if epochs[0] != -epochs[1]:
                raise CheckpointError(f"workers read checkpoints of different epochs, {-epochs[1]} to {epochs[0]}")
        # Else it would be started again as often as one that lost its machine; `_epochs_of` fails in its stead.
        with contextlib.suppress(DivergedError):
            _train(run, place, report, folder)


def _failures(job: Job) -> Folder:
    """Where runs that diverged say so, a file each."""
    return Folder(job.folder).child("failures")


@contextlib.contextmanager
def _usable(checkpoint: ray_train.Checkpoint | None) -> Iterator[Path | None]:
    """The checkpoint's folder on this machine, or the one before where it is gone or damaged; none if none is left.

    A run killed between writing a checkpoint and recording it is restored to one that may be deleted by then.
    """
    if checkpoint is None:
        yield None
        return
    parent, _, newest = checkpoint.path.rpartition("/")
    infos = checkpoint.filesystem.get_file_info(fs.FileSelector(parent, allow_not_found=True))
    # Their names sort by age.
    names = sorted((info.base_name for info in infos if info.base_name.startswith("checkpoint_")), reverse=True)
    with contextlib.ExitStack() as stack:
        for name in [newest, *(name for name in names if name < newest)]:
            try:
                candidate = ray_train.Checkpoint(f"{parent}/{name}", checkpoint.filesystem)
                folder = Path(stack.enter_context(candidate.as_directory()))
                verify_checkpoint(folder)
            except (FileNotFoundError, CheckpointError) as error:
                logger.warning("cannot go on from %s, trying the one before: %s", name, error)
                continue
            yield folder
            return
        yield None


def _train(run: Run, place: Place, report: Any, resume_from: Path | None) -> None:
    # A run that diverged would diverge again: what a retry, which Ray makes of any failure, is told at once.
    job, config = run.job, run.config
    failures, name = _failures(job), f"{run.log.run}.txt"
    if failures.exists(name):
        raise DivergedError(failures.read(name).decode())
    photos: TrainingPhotos = ray.get(job.photos)
    crops: CropSource
    if isinstance(photos.train, StoredPhotos):
        crops = StreamedCrops(photos.train, config, rank=place.rank, workers=place.workers)
    else:
        crops = CachedCrops(photos.train, config.data, config.training, rank=place.rank, workers=place.workers)
    val_crops = validation_crops(photos.validation, config.data)
    vgg19_weights = job.vgg19_weights[config.loss.vgg19_weights] if config.loss.content == "vgg19" else None
    try:
        train(
            config,
            crops,
            val_crops,
            vgg19_weights,
            report,
            place=place,
            resume_from=resume_from,
            varying=run.varying,
            run_log=run.log,
        )
    except DivergedError as error:
        failures.write(name, str(error))
        raise


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tune's nested values as a flat dictionary of paths."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flattened(value, f"{prefix}{name}/"))
        else:
            flat[prefix + name] = value
    return flat
