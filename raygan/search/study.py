"""A study: its phases, prepare, trials, winner and evaluation, each of which can be resumed."""

from __future__ import annotations

import contextlib
import errno
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from pyarrow import ArrowException
from ray.exceptions import RayError
from ray.tune import TuneError

from raygan.config.section import differing_places, differing_values, with_values
from raygan.data.pairs import held_out_pairs
from raygan.data.photos import evaluation_photos, fixed_crops
from raygan.evaluation.evaluate import write_evaluation
from raygan.evaluation.job import EvaluationSettings, EvaluationTask
from raygan.models.cost import epochs_of_equal_computation
from raygan.report.tables import counted
from raygan.report.terminal import final_report
from raygan.report.track import TrackerName, open_tracker, tracking
from raygan.search.experiment import Experiment
from raygan.search.prepare import Inputs, Prepared, prepare, read_inputs
from raygan.search.progress import epoch_line, time_left
from raygan.search.tuner import run_trials
from raygan.storage import Folder
from raygan.study.ledger import SCHEMA, Ledger, StudyError, package_versions, read_study, write_study
from raygan.study.lock import locked, refuse_if_held
from raygan.study.reader import WINNER_RUN, StudyFiles
from raygan.study.trials import Trials, open_database
from raygan.train.checkpoint import keep_denoiser
from raygan.train.cluster import start_ray, with_idle_cores
from raygan.train.denoisers import DENOISER_FILES, load_weights
from raygan.train.driver import Run, RunError, epochs_with_workers
from raygan.train.loop import DivergedError
from raygan.weights import denoiser_folder

NO_SPACE = re.compile(rf"\[Errno ({errno.ENOSPC}|{errno.EDQUOT})\][^\n]*")
"""How Python tells that a disk, or a user's share of it, is full."""
TRIALS, WINNER, EVALUATION, FINISHED = "running trials", "training the winner", "evaluating", "finished"
"""The statuses of a study, in order."""


@dataclass
class _Study:
    """A study while it runs."""

    experiment: Experiment
    folder: Folder
    record: dict[str, Any]
    """`study.json`."""
    inputs: Inputs
    prepared: Prepared
    optuna_storage: str | None


def run_study(
    experiment: Experiment,
    storage: str,
    wait: float = 120,
    optuna_storage: str | None = None,
    track: TrackerName | None = None,
) -> Folder:
    """Run an experiment to its end and print the result; returns the study's folder, `storage/name`.

    Run again, it resumes where it stopped. `wait` is how many seconds an autoscaler has to make room for one trial,
    `optuna_storage` a database that holds the trials (None: a journal file in the study's folder), `track` an
    experiment tracker that shows the study while it runs. Raises `StudyError`, or the error of whichever part refuses
    its input, before anything is spent; raises `KeyboardInterrupt` on Ctrl-C.
    """
    experiment.check()
    tracker = open_tracker(track) if track is not None else None
    try:
        folder = Folder(storage).child(experiment.name)
        refuse_if_held(folder)
        record = _open(experiment, folder)
    except (OSError, ArrowException) as error:
        raise StudyError(f"--storage {storage} cannot be read: {error}") from error
    if record["status"] == FINISHED:
        print(f"{folder} is finished; run under another --name for a new one\n\n{final_report(folder)}")
        return folder
    if optuna_storage is not None:
        open_database(optuna_storage)
    inputs = read_inputs(experiment, resumed="photos" in record)
    _note(record, "trial_storage", "the study's folder" if optuna_storage is None else "a database")
    _note(record, "content_loss", inputs.content_loss)
    _note(record, "starting_weights", inputs.starting_weights)
    print(f"Study {experiment.name} in {folder}\nContent loss: {inputs.content_loss}")
    if inputs.known.summary and "photos" not in record:
        print(inputs.known.summary)
    start_ray(dashboard=True)
    with locked(folder), _disk_full_explained(folder):
        prepared = prepare(experiment, inputs, folder, wait)
        _note(record, "photos", prepared.photos)
        _note(record, "evaluation_photos", prepared.evaluation_photos)
        record["resolved"] = prepared.resolved
        write_study(folder, record)
        study = _Study(experiment, folder, record, inputs, prepared, optuna_storage)
        with tracking(folder, tracker):
            while record["status"] != FINISHED:
                record |= PHASES[record["status"]](study)
                write_study(folder, record)
    print(final_report(folder))
    return folder


@contextlib.contextmanager
def _disk_full_explained(folder: Folder) -> Iterator[None]:
    """Tell, where something could not be written for want of space, what to do about it."""
    try:
        yield
    # Tune and Ray tell the error of what they called in the text of theirs.
    except (OSError, TuneError, RayError, RunError) as error:
        if (full := NO_SPACE.search(str(error))) is None:
            raise
        message = f"the disk is full ({full.group()}): free some in {folder}, and resume with the same command"
        raise StudyError(message) from error


def _run_trials(study: _Study) -> dict[str, Any]:
    experiment, prepared = study.experiment, study.prepared
    # Its own name: the folder may have been renamed since.
    trials = Trials(study.folder, study.record["name"], experiment.settings.objectives, study.optuna_storage)
    run_trials(experiment, prepared.config, prepared.job, trials, study.inputs.known, prepared.concurrent)
    if not experiment.has_winner:
        return {"status": EVALUATION}
    row = StudyFiles(study.folder).best_trial()
    params = {trial.user_attrs["trial"]: trial.params for trial in trials.started()}
    scores = {name: float(row[name]) for name in ("val_psnr", "val_ssim", "seconds")}
    best = {"trial": row["trial"], "checkpoint": row["checkpoint"], **scores}
    return {"status": WINNER, "best_trial": best | {"values": experiment.values_at(params[row["trial"]])}}


def _train_winner(study: _Study) -> dict[str, Any]:
    """Train the best trial's configuration at the full budget, and keep its best epoch in `best/`."""
    best, folder = study.record["best_trial"], study.folder
    base = study.prepared.config
    config = with_values(base, best["values"])
    epochs = base.training.epochs
    if study.experiment.settings.equal_compute:
        epochs = epochs_of_equal_computation(config, base, epochs)
    config = with_idle_cores(with_values(config, {"training/epochs": epochs}))
    which = f"Winner: {best['trial']} of the search" if "trial" in best else "The base configuration"
    # An earlier start may have ended just after the training, which leaves no checkpoint to resume from.
    if not any(folder.exists(f"{done}/metrics.json") for done in ("checkpoints/winner/denoiser", "best")):
        print(f"\n{which}, trained for {counted(epochs, 'epoch')} with all workers")
        _train_to_the_end(Run(study.prepared.job, WINNER_RUN, config, best["values"]))
    _keep_denoiser(folder, WINNER_RUN, "best")
    folder.child("checkpoints/winner").clear()
    folder.child("ray").clear()
    return {"status": EVALUATION}


def _train_to_the_end(run: Run) -> None:
    """Train the winner, and show and record its epochs; if it diverges, its best epoch remains."""
    ledger, epochs = Ledger(run.job.folder.child("best")), run.config.training.epochs
    started = time.monotonic()
    try:
        for epoch in epochs_with_workers(run):
            done = int(epoch.metrics["epoch"])
            if done not in ledger.epochs.get(WINNER_RUN, {}):
                ledger.add_epoch(WINNER_RUN, epoch.metrics)
                left = time_left((epochs - done) * epoch.metrics["seconds"])
                print(f"winner {epoch_line(epoch.metrics, epochs)}   [{left}]")
    except DivergedError:
        if not (trained := len(ledger.epochs_of(WINNER_RUN))):
            raise
        print(f"winner diverged after epoch {trained}; its best epoch is kept")
    print(f"winner trained in {time.monotonic() - started:.0f} s")


def _evaluate(study: _Study) -> dict[str, Any]:
    """Evaluate the denoisers on the evaluation photos and on crops of the others, and write `evaluation/`."""
    config, folder = study.prepared.config, study.folder
    photos = evaluation_photos(config.data.evaluate_on, config.data.max_megapixels)
    trained_on = ray.get(study.prepared.job.photos)
    parts = [photos, *fixed_crops(trained_on, config.data)]
    if (pairs := held_out_pairs(trained_on)) is not None:
        parts.append(pairs)
    if study.experiment.has_winner:
        best = with_values(config, study.record["best_trial"]["values"])
        folders = {"raygan": folder.child("best")}
        if (start := best.training.start_from) is not None:
            folders["start"] = Folder(denoiser_folder(start))
        stride = best.generator.stride
        denoisers = {name: (load_weights(one, best.generator), stride) for name, one in folders.items()}
        tasks = [EvaluationTask(best.judged_noises, denoisers)]
    else:
        tasks = _arm_tasks(study)
    everything = parts[0].union(*parts[1:]).materialize()
    write_evaluation(everything, tasks, EvaluationSettings(), config, folder.child("evaluation"))
    return {"status": FINISHED, "finished": _now()}


PHASES: dict[str, Callable[[_Study], dict[str, Any]]] = {
    TRIALS: _run_trials,
    WINNER: _train_winner,
    EVALUATION: _evaluate,
}
"""What each status runs; returns what it adds to the record, the next status included."""


def _arm_tasks(study: _Study) -> list[EvaluationTask]:
    """Keep each successful trial's best epoch in `denoisers/`; one task for each choice of noises among the arms.

    Raises `StudyError` if no trial was successful.
    """
    configs = study.experiment.configs()
    denoisers: dict[Any, dict[str, Any]] = {config.judged_noises: {} for config in configs.values()}
    files = StudyFiles(study.folder)
    if (good := files.good_trials()).empty:
        raise files.without_good_trials()
    for row in sorted(good.to_dict("records"), key=lambda row: (list(configs).index(row["arm"]), row["seed"])):
        name, config = row["trial"], configs[row["arm"]]
        _keep_denoiser(study.folder, name, f"denoisers/{name}")
        network = load_weights(study.folder.child(f"denoisers/{name}"), config.generator)
        denoisers[config.judged_noises][name] = (network, config.generator.stride)
    return [EvaluationTask(noises, group) for noises, group in denoisers.items()]


def _keep_denoiser(folder: Folder, run: str, where: str) -> None:
    """Copy the denoiser of an ended run to a folder of the study."""
    checkpoints = folder.child(f"checkpoints/{run}")
    keep_denoiser(checkpoints)
    if not checkpoints.exists("denoiser/config.json"):
        if folder.exists(f"{where}/config.json"):
            return
        raise StudyError(f"no checkpoint of {checkpoints} can be read: start under another --name")
    for name in DENOISER_FILES:
        folder.write(f"{where}/{name}", checkpoints.read(f"denoiser/{name}"))


def _open(experiment: Experiment, folder: Folder) -> dict[str, Any]:
    """The study's record, new or as an earlier start left it."""
    identity = experiment.identity()
    record = read_study(folder)
    if record is None:
        started = {"status": TRIALS} if experiment.settings.trials else {"status": WINNER, "best_trial": {"values": {}}}
        made = {"started": _now(), "versions": package_versions()}
        return {"schema": SCHEMA, "name": experiment.name} | started | made | identity
    recorded = {name: record.get(name) for name in identity}
    differing = differing_values(recorded, identity)
    # Time that is added or taken away changes no trial.
    if differing := [path for path in differing if path != "time_budget"]:
        raise StudyError(
            f"{folder} holds a study that differs in {', '.join(differing)} (see its study.json): give the same "
            "options to resume it, or another --name"
        )
    # Whether these have the same content is not looked up where nothing is left to do.
    if record["status"] == FINISHED and (moved := differing_places(recorded, identity)):
        raise StudyError(
            f"{folder} is finished, and differs in {', '.join(moved)} (see its study.json): give the same options to "
            "show its result again, or another --name"
        )
    if record["status"] == TRIALS and "time_budget" in identity:
        record["time_budget"] = identity["time_budget"]
    return record


def _note(record: dict[str, Any], name: str, found: object) -> None:
    """Note in the record what the study's input is; refuse to resume with another."""
    if record.setdefault(name, found) != found:
        raise StudyError(
            f"study {record['name']} began with another {name.replace('_', ' ')}: {record[name]} then, {found} now; "
            "restore it, or start under another --name"
        )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
