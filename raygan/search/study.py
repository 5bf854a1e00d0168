"""A study: a search, the winner's training, its evaluation, and the folder that records them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from torch import Tensor

from raygan.config import Config, LossConfig
from raygan.data.download import ASSETS, cache_folder, fetch
from raygan.data.photos import TrainingPhotos, evaluation_photos, find_photos, training_photos
from raygan.evaluate import evaluate, summarise, tabulate
from raygan.losses import read_vgg19_weights
from raygan.report import final_report
from raygan.search.algorithms import EpochOptunaSearch, scheduler
from raygan.search.experiment import Search
from raygan.search.ledger import Ledger, StudyError, package_versions, read_study, write_study
from raygan.search.progress import SearchProgress, epoch_line, time_left, trial_name
from raygan.search.snapshot import KeepState, put_back_state
from raygan.search.space import check_space, point_of
from raygan.section import parse_value, with_values
from raygan.storage import Folder
from raygan.train.checkpoint import DENOISER_FILES
from raygan.train.driver import (
    KEPT_CHECKPOINTS,
    RETRIES,
    Job,
    resolved_device,
    resources,
    run_trial,
    share_photos,
    start_ray,
    train_with_workers,
    trials_at_once,
    with_idle_cores,
)

logger = logging.getLogger(__name__)


class Interrupted(Exception):  # noqa: N818
    """The user stopped the study; running it again goes on where it stopped."""


def run_study(search: Search, storage: str) -> Folder:
    """Search, train the winner, evaluate it, print the result; returns the study's folder, `storage/name`.

    Run again, it goes on where it stopped. Raises `StudyError`, or the error of whichever part refuses its input,
    before anything is spent; raises `Interrupted` on Ctrl-C.
    """
    check_space(search.space, search.config)
    folder = Folder(storage).child(search.name)
    study = _opened(search, folder)
    if study["status"] == "finished":
        print(f"{folder} is finished; run under another --name for a new search\n")
        print(final_report(folder))
        return folder
    sources = [source for source in (search.config.data.photos, search.config.data.evaluate_on) if source != "samples"]
    _check_sources([source for source in sources if source not in ASSETS])
    vgg19_weights, content_loss = _content_loss(search.config.loss)
    _record(study, "content_loss", content_loss)
    _check_sources([source for source in sources if source in ASSETS])
    print(f"Study {search.name} in {folder}")
    print(f"Content loss: {study['content_loss']}")

    start_ray()
    config = resolved_device(search.config)
    concurrent = min(search.concurrent or search.trials, trials_at_once(config))
    photos = training_photos(config.data)
    _record(study, "photos", _fingerprint(photos))
    print(
        f"Photos: {len(photos.train)} to train, {len(photos.validation)} to validate, from {config.data.photos}; "
        f"evaluation on {config.data.evaluate_on}"
    )
    try:
        write_study(folder, study)
    except OSError as error:
        raise StudyError(f"cannot write to {folder}: {error}; give another --storage") from error
    job = Job(config, share_photos(photos), vgg19_weights, folder.location, search.name)
    del photos

    if study["status"] == "searching":
        _search(search, job, folder, concurrent)
        study |= {"status": "training the winner", "best_trial": _best_trial(search, folder)}
        write_study(folder, study)
    if study["status"] == "training the winner":
        _train_winner(job, folder, study["best_trial"])
        study |= {"status": "evaluating"}
        write_study(folder, study)
    _evaluate(config, folder)
    write_study(folder, study | {"status": "finished", "finished": _now()})
    print(final_report(folder))
    return folder


def _opened(search: Search, folder: Folder) -> dict[str, Any]:
    """The study's record, new or as an earlier start left it."""
    identity = search.identity()
    study = read_study(folder)
    if study is None:
        return {
            "name": search.name,
            "status": "searching",
            "started": _now(),
            "versions": package_versions(),
            **identity,
        }
    differing = [name for name, value in identity.items() if study[name] != value]
    if differing:
        raise StudyError(
            f"{folder} holds a study that differs in {', '.join(differing)} (see its study.json): give the same "
            "options to go on with it, or another --name"
        )
    return study


def _check_sources(sources: list[str]) -> None:
    """Find photos before any work is done: those to evaluate on are needed last."""
    folders = [find_photos(source)[0].location + "/" for source in sources]
    if len(folders) == 2 and (folders[0].startswith(folders[1]) or folders[1].startswith(folders[0])):
        logger.warning("evaluation on %s may see training photos, from %s: its scores would flatter", *folders[::-1])


def _record(study: dict[str, Any], name: str, found: object) -> None:
    """Note in the study what its input is; refuse to go on with another."""
    if study.setdefault(name, found) != found:
        raise StudyError(
            f"study {study['name']} began with another {name.replace('_', ' ')}: {study[name]} then, {found} now; "
            "restore it, or start under another --name"
        )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _content_loss(loss: LossConfig) -> tuple[dict[str, Tensor] | None, str]:
    """The VGG19 weights, if the content loss needs them, and the loss in words."""
    if loss.content == "mse":
        return None, "mean squared error of the pixels (loss/content=mse; no VGG19 weights are used)"
    file = fetch(ASSETS["vgg19"], cache_folder()) if loss.vgg19_weights is None else Path(loss.vgg19_weights)
    weights = read_vgg19_weights(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    scale = f"loss/feature_scale={loss.feature_scale}"
    return (
        weights,
        f"mean squared error of VGG19's conv2_2 features, {scale}, weights {file} (SHA-256 {digest}…)",
    )


def _fingerprint(photos: TrainingPhotos) -> dict[str, Any]:
    names = json.dumps([photos.train.names, photos.validation.names])
    return {
        "train": len(photos.train),
        "validation": len(photos.validation),
        "names_sha256": hashlib.sha256(names.encode()).hexdigest(),
    }


def _search(search: Search, job: Job, folder: Folder, concurrent: int) -> None:
    """Run, or go on with, the Tune experiment in the study's folder."""
    config = job.config
    epochs = search.trial_epochs
    trial_job = dataclasses.replace(job, config=with_values(config, {"training/epochs": epochs}))
    # A trial with workers of its own waits for them without holding a core: else it could starve them.
    asked = resources(config) if config.hardware.workers == 1 else {"CPU": 0, "memory": 1}
    trainable = tune.with_resources(tune.with_parameters(run_trial, job=trial_job), asked)
    path = folder.child("tune").location
    print(f"Search: {search.trials} trials of at most {epochs} epochs, {concurrent} at once\n")
    if put_back_state(folder, "tune"):
        tuner = tune.Tuner.restore(path, trainable=trainable, resume_unfinished=True)
    else:
        points = [point_of(point, search.space) for point in search.first_points]
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=EpochOptunaSearch(search.space, points, search.seed, epochs),
                scheduler=scheduler(epochs),
                num_samples=search.trials,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_name_creator=trial_name,
                trial_dirname_creator=trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder.location,
                checkpoint_config=tune.CheckpointConfig(**KEPT_CHECKPOINTS),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[SearchProgress(folder.location, search.trials, epochs), KeepState(folder.location)],
                verbose=0,
            ),
        )
    # Tune answers Ctrl-C by stopping all trials as if they had ended, and keeps the signal to itself afterwards.
    on_interrupt = signal.getsignal(signal.SIGINT)
    tuner.fit()
    signal.signal(signal.SIGINT, on_interrupt)
    if Ledger(folder).trials_ended() < search.trials:
        raise Interrupted


def _best_trial(search: Search, folder: Folder) -> dict[str, Any]:
    """The best trial's name, scores, and values at the space's paths."""
    row = Ledger(folder).best_trial()
    values = {path: parse_value(search.config, path, row[path]) for path in search.space}
    scores = {name: float(row[name]) for name in ("val_psnr", "val_ssim", "seconds")}
    return {"trial": row["trial"], "checkpoint": row["checkpoint"], **scores, "values": values}


def _train_winner(job: Job, folder: Folder, best_trial: Mapping[str, Any]) -> None:
    """Train the best trial's configuration at the full budget, and keep its best epoch in `best/`."""
    values = best_trial["values"]
    config = with_idle_cores(with_values(job.config, values))
    epochs = config.training.epochs
    print(f"\nWinner: {best_trial['trial']} of the search, trained for {epochs} epochs with all workers")
    record = Ledger(folder.child("best"))
    started = time.monotonic()

    def show(metrics: dict[str, float]) -> None:
        record.add_epoch("winner", metrics)
        done = int(metrics["epoch"])
        left = (epochs - done) * metrics["seconds"]
        print(f"winner {epoch_line(metrics, epochs)}   [{time_left(left)}]")

    best = train_with_workers(job, config, "winner", values, show)
    with best.as_directory() as checkpoint:
        for name in DENOISER_FILES:
            folder.write(f"best/{name}", (Path(checkpoint) / name).read_bytes())
    if len(record.epochs) < epochs:
        print(f"winner diverged after epoch {len(record.epochs)}; its best epoch is kept")
    print(f"winner trained in {time.monotonic() - started:.0f} s")


def _evaluate(config: Config, folder: Folder) -> None:
    """Evaluate `best/` and write `evaluation/`."""
    photos = evaluation_photos(config.data.evaluate_on)
    count = photos.count()
    print(f"\nEvaluation: {count} photos of {config.data.evaluate_on}, each noise kind at three levels")
    one_worker = with_values(config, {"hardware/workers": 1})
    # As a task, so that the job runs, and writes its logs, on the cluster.
    job = ray.remote(num_cpus=0, num_returns="streaming")(evaluate)
    actors = min(trials_at_once(one_worker), count)
    done = job.remote(photos, folder.child("best"), config.noise, resources(config), actors)
    table, pictures = tabulate(_shown(done, count), config.noise)
    folder.write("evaluation/per_image.csv", table.to_csv(index=False))
    folder.write("evaluation/summary.csv", summarise(table).to_csv(index=False))
    for name, png in pictures.items():
        folder.write(f"evaluation/pictures/{name}", png)


def _shown(photos: Iterable[ray.ObjectRef], count: int) -> Iterator[list[dict[str, Any]]]:
    """What the evaluation job yields, showing now and then how far it is."""
    started = shown = time.monotonic()
    for done, rows in enumerate(photos, start=1):
        now = time.monotonic()
        if now - shown > 20 or done == count:
            shown = now
            print(f"evaluation {done}/{count} photos   [{time_left((count - done) * (now - started) / done)}]")
        yield ray.get(rows)
