"""A study: its trials, the winner's training, the evaluation, and the folder that records them."""

from __future__ import annotations

import dataclasses
import math
import time
import uuid
from collections.abc import Mapping
from typing import Any

import ray
from pyarrow import ArrowException

from raygan.config.run import Config
from raygan.data.crops import Photos
from raygan.data.download import ASSETS
from raygan.data.photos import StoredPhotos, evaluation_photos, fixed_crops, training_photos
from raygan.evaluation.evaluate import Task, write_evaluation
from raygan.progress import time_left
from raygan.report.terminal import final_report
from raygan.search.constraint import constraint_of
from raygan.search.drivers import Drivers
from raygan.search.experiment import Comparison, Experiment, Search
from raygan.search.inputs import check_sources, content_losses, fingerprint, with_absolute_start
from raygan.study.ledger import Ledger, StudyError, package_versions, read_study, write_study
from raygan.study.lock import locked, refuse_if_held
from raygan.search.optuna_record import open_study, optuna_storage, record_of_files
from raygan.search.preflight import check_machines, check_photos, wait_for_room
from raygan.search.progress import epoch_line
from raygan.search.tuner import check_room, run_trials
from raygan.search.warm_start import warm_start
from raygan.config.section import parse_value, with_values
from raygan.study.storage import Folder
from raygan.train.checkpoint import DENOISER_FILES, starting_weights
from raygan.train.cluster import (
    photo_memory,
    resolved_device,
    share_photos,
    start_ray,
    trials_at_once,
    with_idle_cores,
)
from raygan.train.driver import Job, Vgg19Weights, train_with_workers


def run_study(experiment: Experiment, storage: str, wait: float = 120, optuna_url: str | None = None) -> Folder:
    """Run the trials, train a search's winner, evaluate, print the result; returns the study's folder, `storage/name`.

    Run again, it goes on where it stopped. `wait` is how many seconds an autoscaler has to make room for one trial, and
    `optuna_url` a database that records the trials for Optuna's tools (none: a journal file in a local folder), in
    which drivers that search together meet. A search of `trials_only` ends before its winner's training.
    Raises `StudyError`, or the error of whichever part refuses its input, before anything is spent; raises
    `Interrupted` on Ctrl-C.
    """
    experiment.check()
    experiment = dataclasses.replace(experiment, config=with_absolute_start(experiment.config))
    search = experiment if isinstance(experiment, Search) else None
    if search is not None and search.together is not None and optuna_url is None:
        raise StudyError("--together needs the database in which drivers share their trials: give --optuna-storage URL")
    try:
        folder = Folder(storage).child(experiment.name)
        refuse_if_held(folder)
        study = _opened(experiment, folder)
    except (OSError, ArrowException) as error:
        raise StudyError(f"--storage {storage} cannot be read: {error}") from error
    if study["status"] == "finished":
        print(f"{folder} is finished; run under another --name for a new one\n")
        print(final_report(folder))
        return folder
    trials_only = search is not None and search.trials_only
    if trials_only and study["status"] != "running trials":
        print(f"The trials of {folder} have ended; the same command without --trials-only goes on to the winner")
        return folder
    points = experiment.points()
    if search is not None and search.warm_start is not None and not folder.exists("study.json"):
        points = warm_start(search).points + points
    drivers = None
    if search is not None and search.together is not None and optuna_url is not None:
        drivers = Drivers(optuna_url, search, points, folder)
    elif optuna_url is not None:
        open_study(optuna_url, experiment.name, folder, experiment.objectives)
    if search is not None and not folder.exists("study.json") and (limits := constraint_of(search)) is not None:
        limits.check(search.points())
    data = experiment.config.data
    sources = [source for source in (data.photos, data.evaluate_on) if source != "samples"]
    check_sources([source for source in sources if source not in ASSETS])
    for config in _configs(experiment).values():
        starting_weights(config)
    vgg19_weights, content_loss = content_losses(config.loss for config in _configs(experiment).values())
    _record(study, "content_loss", content_loss)
    print(f"Study {experiment.name} in {folder}")
    print(f"Content loss: {content_loss}")

    start_ray()
    config = resolved_device(experiment.config)
    concurrent = min(wait_for_room(config, experiment.concurrent, wait), max(1, experiment.trials))
    check_room(experiment, concurrent)
    # These are downloaded, gigabytes perhaps: not for a search that does not fit.
    check_sources([source for source in sources if source in ASSETS])
    with locked(folder):
        check_machines(folder)
        optuna_place = optuna_storage(folder, optuna_url)
        _run(experiment, config, study, folder, vgg19_weights, concurrent, optuna_place, drivers)
    if study["status"] == "trials only":
        print(f"\nThe trials of {folder} have ended; the same command without --trials-only goes on to the winner")
    else:
        print(final_report(folder))
    return folder


def _run(
    experiment: Experiment,
    config: Config,
    study: dict[str, Any],
    folder: Folder,
    vgg19_weights: Vgg19Weights,
    concurrent: int,
    optuna_place: str | None,
    drivers: Drivers | None,
) -> None:
    """All that needs the study's folder to oneself."""
    photos = training_photos(config.data, photo_memory())
    check_photos(photos)
    if isinstance(photos.train, StoredPhotos):
        config = with_values(config, {"data/cache": "stream"})
        concurrent = min(concurrent, trials_at_once(config))
        check_room(experiment, concurrent)
    _record(study, "photos", fingerprint(photos))
    kept = "in memory" if isinstance(photos.train, Photos) else "streamed"
    print(
        f"Photos: {len(photos.train)} to train, {len(photos.validation)} to validate, from {config.data.photos}, "
        f"{kept}; evaluation on {config.data.evaluate_on}"
    )
    write_study(folder, study)
    if drivers is not None:
        drivers.join(study["driver"], study["photos"])
    job = Job(config, share_photos(photos), vgg19_weights, folder.location)
    del photos

    if study["status"] == "running trials":
        run_trials(experiment, job, folder, concurrent, optuna_place, drivers)
        if isinstance(experiment, Search):
            if drivers is not None and optuna_place is not None:
                # Whatever the database missed while it did not answer.
                record_of_files(folder, optuna_place, study, experiment.together)
            study |= {"status": "trials only"}
        else:
            study |= {"status": "evaluating"}
        write_study(folder, study)
    if study["status"] == "trials only" and isinstance(experiment, Search):
        if experiment.trials_only:
            return
        study |= {"status": "training the winner", "best_trial": _best_trial(experiment, folder, drivers)}
        write_study(folder, study)
    if study["status"] == "training the winner":
        _train_winner(job, folder, study["best_trial"])
        study |= {"status": "evaluating"}
        write_study(folder, study)
    if isinstance(experiment, Search):
        tasks: list[Task] = [(config.noise, {"raygan": folder.child("best")})]
    else:
        tasks = _denoisers_of_the_arms(experiment, folder)
    _evaluate(job, tasks, folder)
    write_study(folder, study | {"status": "finished", "finished": _now()})


def _configs(experiment: Experiment) -> dict[str, Config]:
    """The configurations that the study is about, by name: a search's own, or each arm's."""
    if isinstance(experiment, Search):
        return {experiment.name: experiment.config}
    return {arm: with_values(experiment.config, values) for arm, values in experiment.arms.items()}


def _opened(experiment: Experiment, folder: Folder) -> dict[str, Any]:
    """The study's record, new or as an earlier start left it."""
    identity = experiment.identity()
    study = read_study(folder)
    if study is None:
        study = {
            "name": experiment.name,
            "status": "running trials",
            "started": _now(),
            "versions": package_versions(),
            **identity,
        }
        if isinstance(experiment, Search) and experiment.together is not None:
            # So that drivers on other machines, with a folder of the same name, are told apart.
            study |= {"driver": uuid.uuid4().hex}
        if not experiment.trials:
            study |= {"status": "training the winner", "best_trial": {"values": {}}}
        return study
    differing = [name for name, value in identity.items() if study.get(name) != value]
    if differing:
        raise StudyError(
            f"{folder} holds a study that differs in {', '.join(differing)} (see its study.json): give the same "
            "options to go on with it, or another --name"
        )
    return study


def _record(study: dict[str, Any], name: str, found: object) -> None:
    """Note in the study what its input is; refuse to go on with another."""
    if study.setdefault(name, found) != found:
        raise StudyError(
            f"study {study['name']} began with another {name.replace('_', ' ')}: {study[name]} then, {found} now; "
            "restore it, or start under another --name"
        )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _best_trial(search: Search, folder: Folder, drivers: Drivers | None) -> dict[str, Any]:
    """The best trial's name, scores, and values at the space's paths; with its `folder` where another driver ran it."""
    ledger = Ledger(folder)
    theirs = drivers.best_of_others() if drivers is not None else None
    mine = max((float(row["val_psnr"]) for row in ledger.good_trials()), default=-math.inf)
    if theirs is not None and theirs["val_psnr"] > mine:
        return theirs
    row = ledger.best_trial(search.objectives)
    values = {path: parse_value(search.config, path, row[path]) for path in search.space if row[path]}
    scores = {name: float(row[name]) for name in ("val_psnr", "val_ssim", "seconds")}
    return {"trial": row["trial"], "checkpoint": row["checkpoint"], **scores, "values": values}


def _train_winner(job: Job, folder: Folder, best_trial: Mapping[str, Any]) -> None:
    """Train the best trial's configuration at the full budget, and keep its best epoch in `best/`."""
    values = best_trial["values"]
    config = with_idle_cores(with_values(job.config, values))
    epochs = config.training.epochs
    which = f"Winner: {best_trial['trial']} of the search" if "trial" in best_trial else "The base configuration"
    which += f" in {best_trial['folder']}" if "folder" in best_trial else ""
    print(f"\n{which}, trained for {epochs} epochs with all workers")
    record = Ledger(folder.child("best"))
    started = time.monotonic()

    def show(metrics: dict[str, float]) -> None:
        done = int(metrics["epoch"])
        if record.epochs.get("winner", {}).get(done) == {"trial": "winner", **metrics}:
            return
        record.add_epoch("winner", metrics)
        left = (epochs - done) * metrics["seconds"]
        print(f"winner {epoch_line(metrics, epochs)}   [{time_left(left)}]")

    for name, content in train_with_workers(job, config, "winner", values, show).items():
        folder.write(f"best/{name}", content)
    if (trained := len(record.epochs_of("winner"))) < epochs:
        print(f"winner diverged after epoch {trained}; its best epoch is kept")
    print(f"winner trained in {time.monotonic() - started:.0f} s")


def _denoisers_of_the_arms(comparison: Comparison, folder: Folder) -> list[Task]:
    """Keep each good trial's best epoch in `denoisers/`; returns them by the noise that their arm removes."""
    configs = _configs(comparison)
    noises = {config.noise.task: config.noise for config in reversed(configs.values())}
    denoisers: dict[Any, dict[str, Folder]] = {config.noise.task: {} for config in configs.values()}
    order = list(configs)
    for row in sorted(Ledger(folder).good_trials(), key=lambda row: (order.index(row["arm"]), int(row["seed"]))):
        trained, kept = folder.child(f"{row['checkpoint']}/denoiser"), f"denoisers/{row['trial']}"
        for name in DENOISER_FILES:
            folder.write(f"{kept}/{name}", trained.read(name))
        denoisers[configs[row["arm"]].noise.task][row["trial"]] = folder.child(kept)
    return [(noises[task], group) for task, group in denoisers.items()]


def _evaluate(job: Job, tasks: list[Task], folder: Folder) -> None:
    """Evaluate denoisers on the evaluation photos and on crops of the others, and write `evaluation/`."""
    data = job.config.data
    photos = evaluation_photos(data.evaluate_on).union(*fixed_crops(ray.get(job.photos), data)).materialize()
    # One measure for all denoisers: where arms have several weights, by the first.
    vgg19_weights = next(iter(job.vgg19_weights.values()), None)
    one_worker = with_values(job.config, {"hardware/workers": 1})
    write_evaluation(photos, data.evaluate_on, tasks, one_worker, vgg19_weights, folder.child("evaluation"))
