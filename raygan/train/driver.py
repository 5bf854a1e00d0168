"""How Ray runs the training loop: inside a Tune trial's own process, or as the workers of a TorchTrainer."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data
import torch
from ray import train as ray_train
from ray import tune
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.queue import Empty, Queue
from torch import Tensor

from raygan.config import Config
from raygan.data.crops import CachedCrops, validation_crops
from raygan.data.photos import TrainingPhotos
from raygan.errors import InputError
from raygan.section import with_values
from raygan.storage import Folder
from raygan.train.checkpoint import CheckpointError, verify_checkpoint
from raygan.train.worker import DivergedError, Place, RunLog, train

SCORE = "val_psnr"
"""The metric that tells a run's best epoch."""
KEPT_CHECKPOINTS: dict[str, Any] = {
    "num_to_keep": 1,
    "checkpoint_score_attribute": SCORE,
    "checkpoint_score_order": "max",
}
"""Which checkpoints of a run Ray keeps: the best epoch's and, in any case, the last."""
RETRIES = 2
"""How often a run may go on from its last checkpoint after losing a process."""


logger = logging.getLogger(__name__)


class HardwareError(InputError):
    """The cluster cannot hold what was asked for."""


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
    study: str
    """The study's name."""

    def run_log(self, run: str, values: Mapping[str, object]) -> RunLog:
        """Where a run's own records go."""
        return RunLog(run, self.folder, values)


def start_ray() -> None:
    """Connect to the cluster that `RAY_ADDRESS` names or that runs here, or start Ray on this machine."""
    # Tune writes no log files of its own (the study's folder has them), and saves its state after every epoch.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not ray.is_initialized():
        # Ray Train polls its workers; its own interval of seconds would be longer than a small epoch.
        variables = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
        ray.init(log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": variables})
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def resolved_device(config: Config) -> Config:
    """The configuration with `hardware/device` settled: cuda if the running cluster has GPUs, unless it says."""
    if config.hardware.device != "auto":
        return config
    device = "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"
    return with_values(config, {"hardware/device": device})


def resources(config: Config) -> dict[str, float]:
    """What one worker asks Ray for."""
    asked: dict[str, float] = {"CPU": config.hardware.cpus_per_worker}
    if config.hardware.device == "cuda":
        asked["GPU"] = config.hardware.gpus_per_worker
    return asked


def trials_at_once(config: Config) -> int:
    """How many runs fit the cluster side by side; raises `HardwareError` if not even one does."""
    asked, workers = resources(config), config.hardware.workers
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # A worker lies on one node, a run's workers perhaps on several.
    places = sum(min(int(node.get(name, 0) / amount + 1e-9) for name, amount in asked.items()) for node in nodes)
    if places < workers:
        each = " and ".join(f"{amount:g} {name}" for name, amount in asked.items())
        have = "; ".join(" and ".join(f"{node.get(name, 0):g} {name}" for name in asked) for node in nodes)
        raise HardwareError(
            f"one trial asks for {workers} workers of {each} each, but the cluster's nodes have {have}: lower "
            "--workers, hardware/cpus_per_worker or hardware/gpus_per_worker, or start a larger cluster"
        )
    return places // workers


def share_photos(photos: TrainingPhotos) -> ray.ObjectRef:
    """Put decoded photos into the object store, once for all runs; raises `HardwareError` if they do not fit."""
    size = sum(pixels.nbytes for part in (photos.train, photos.validation) for pixels in part.pixels)
    room = min(node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"])
    if size > room:
        raise HardwareError(
            f"the decoded photos take {size / 1e9:.1f} GB, but a node's object store holds {room / 1e9:.1f} GB: lower "
            "data/train_photos, or start Ray with a larger --object-store-memory"
        )
    return ray.put(photos)


def with_idle_cores(config: Config) -> Config:
    """For a run that has the cluster to itself: on CPUs, each worker gets its share of the largest node's cores."""
    if config.hardware.device == "cuda":
        return config
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    share = max(config.hardware.cpus_per_worker, largest // config.hardware.workers)
    return with_values(config, {"hardware/cpus_per_worker": share})


def run_trial(point: dict[str, Any], job: Job, values_at: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """One Tune trial: train `job.config` with the values at the trial's (nested) point of the search space.

    Reports every epoch to Tune.
    """
    flat = values_at(flattened(point))
    config = with_values(job.config, flat)
    name = tune.get_context().get_trial_name()
    if config.hardware.workers > 1:
        _trainer(
            job,
            config,
            job.run_log(name, flat),
            f"{job.study}-{name}",
            Folder(job.folder).child("workers").location,
            TuneReportCallback(),
        ).fit()
        return
    device = torch.device(config.hardware.device)

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        saved = tune.Checkpoint.from_directory(checkpoint)
        tune.report(dict(metrics), checkpoint=saved)

    with _usable(tune.get_checkpoint()) as folder:
        if folder is not None:
            last = json.loads((folder / "metrics.json").read_text())
            if last["epoch"] == config.training.epochs:
                # Killed between its last report and Tune's record of it: Tune needs to hear it again.
                report(last, folder)
                return
        _train(job, config, Place(device=device), report, folder, job.run_log(name, flat))


def train_with_workers(
    job: Job,
    config: Config,
    name: str,
    values: Mapping[str, object],
    on_epoch: Callable[[dict[str, float]], None],
) -> ray_train.Checkpoint:
    """Train one run under a TorchTrainer, in `job.folder/name`; returns its best epoch's verified checkpoint.

    `on_epoch` gets each epoch's metrics, in this process, as they come. Called again with the same name, it goes
    on from the last checkpoint. A run that diverges keeps the epochs before; raises `DivergedError` if there are none,
    and what else made training fail.
    """
    # Without a core of its own: the workers may ask for all.
    reports = Queue(actor_options={"num_cpus": 0})
    trainer = _trainer(job, config, job.run_log(name, values), name, job.folder, _QueueCallback(reports))
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            outcome["result"] = trainer.fit()
        except BaseException as error:  # noqa: BLE001  (it is raised again below, in the caller's thread)
            outcome["error"] = error

    # In a thread, so that epochs can be shown, and Ctrl-C heard, while it trains.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive() or not reports.empty():
        try:
            on_epoch(reports.get(timeout=0.5))
        except Empty:
            continue
    reports.shutdown()
    if "error" in outcome:
        if not _failures(job).exists(f"{name}.txt"):
            raise outcome["error"]
        run = Folder(job.folder).child(name)
        if not run.exists("checkpoint_manager_snapshot.json"):
            raise DivergedError(_failures(job).read(f"{name}.txt").decode())
        # It diverged late: the epochs before are kept.
        outcome["result"] = ray_train.Result.from_path(run.location)
    best, _ = max(outcome["result"].best_checkpoints, key=lambda pair: float(pair[1][SCORE]))
    with best.as_directory() as folder:
        verify_checkpoint(Path(folder))
    return best


class _QueueCallback(UserCallback):  # type: ignore[misc]
    """Sends rank 0's metrics, which all workers share, to the process that waits for the run."""

    def __init__(self, reports: Queue) -> None:
        self.reports = reports

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        self.reports.put(metrics[0])


def _trainer(
    job: Job, config: Config, run_log: RunLog, name: str, storage: str, callback: UserCallback
) -> TorchTrainer:
    return TorchTrainer(
        partial(_train_worker, job=job, config=config, run_log=run_log),
        train_loop_config={},
        scaling_config=ScalingConfig(
            num_workers=config.hardware.workers,
            use_gpu=config.hardware.device == "cuda",
            resources_per_worker=resources(config),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            checkpoint_config=CheckpointConfig(**KEPT_CHECKPOINTS),
            failure_config=FailureConfig(max_failures=RETRIES, controller_failure_limit=RETRIES),
            callbacks=[callback],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _train_worker(_: dict[str, Any], job: Job, config: Config, run_log: RunLog) -> None:
    """What each worker of a TorchTrainer runs."""
    context = ray_train.get_context()
    place = Place(
        rank=context.get_world_rank(),
        workers=context.get_world_size(),
        device=ray_train.torch.get_device() if config.hardware.device == "cuda" else torch.device("cpu"),
    )

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        saved = None if checkpoint is None else ray_train.Checkpoint.from_directory(checkpoint)
        ray_train.report(dict(metrics), checkpoint=saved)

    with _usable(ray_train.get_checkpoint()) as folder:
        if place.workers > 1:
            # All go on from the checkpoint, or none.
            usable = torch.tensor(int(folder is not None), device=place.device)
            torch.distributed.all_reduce(usable, torch.distributed.ReduceOp.MIN)
            folder = folder if usable else None
        _train(job, config, place, report, folder, run_log)


def _failures(job: Job) -> Folder:
    """Where runs that diverged say so, a file each."""
    return Folder(job.folder).child("failures")


@contextlib.contextmanager
def _usable(checkpoint: ray_train.Checkpoint | None) -> Iterator[Path | None]:
    """The checkpoint's folder on this machine, or none where there is none or it is gone or damaged.

    A run killed between writing a checkpoint and recording it is restored to one that may be deleted by then.
    """
    if checkpoint is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(checkpoint.as_directory()))
            verify_checkpoint(folder)
        except (FileNotFoundError, CheckpointError) as error:
            logger.warning("cannot go on from %s, starting over: %s", checkpoint.path, error)
            yield None
            return
        yield folder


def _train(job: Job, config: Config, place: Place, report: Any, resume_from: Path | None, run_log: RunLog) -> None:
    # A run that diverged would diverge again: what a retry, which Ray makes of any failure, is told at once.
    failures, name = _failures(job), f"{run_log.run}.txt"
    if failures.exists(name):
        raise DivergedError(failures.read(name).decode())
    photos: TrainingPhotos = ray.get(job.photos)
    crops = CachedCrops(photos.train, config.data, config.training, rank=place.rank, workers=place.workers)
    val_crops = validation_crops(photos.validation, config.data)
    vgg19_weights = job.vgg19_weights[config.loss.vgg19_weights] if config.loss.content == "vgg19" else None
    try:
        train(config, crops, val_crops, vgg19_weights, report, place=place, resume_from=resume_from, run_log=run_log)
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
