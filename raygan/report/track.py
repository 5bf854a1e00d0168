"""Experiment trackers: a study as runs in MLflow or Weights & Biases, all of it read from the study's folder.

The study is one run, with the epochs of its winner, and each trial another one below it. They can be written while the
study runs, or at any time afterwards, and again: what a tracker has already is not added twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from PIL import Image

from raygan.config.section import flat_values
from raygan.errors import InputError, redacted
from raygan.storage import Folder, reading
from raygan.study.ledger import ENDED, NO_SETTINGS, REMEDY, Ledger, TrialRow
from raygan.study.reader import WINNER_RUN, StudyFiles

TrackerName = Literal["mlflow", "wandb"]
PERIOD = 10.0
"""Seconds between two updates of a tracker while a study runs."""
SHARE = 0.2
"""Share of the time that updates may take: the first one connects, and those of long studies read large tables."""
OUTCOME: tuple[str, ...] = ("state", "error", "repeats")
"""Columns of `trials.csv` that say how a trial ended."""
MARK = "raygan.json"
"""File in the folder of an offline run of wandb that says how much of the run it holds; without it, a part."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker shows as one run."""

    study: StudyFiles
    trial: str
    """Name of the trial; empty for the study itself."""
    values: Mapping[str, Any]
    epochs: list[dict[str, Any]]
    outcome: dict[str, str]
    """A study's `state`, or a trial's `OUTCOME`."""
    has_ended: bool

    @property
    def name(self) -> str:
        """What it is called; not unique."""
        return self.trial or self.study.name

    @property
    def id(self) -> str:
        """The same for the same run, wherever the study's folder lies, and no other's."""
        key = f"{self.study.name} {self.study.record['started']} {self.trial}"
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def parameters(self) -> dict[str, bool | int | float | str]:
        """The values without passwords; kinds by name."""
        values = self.values.items()
        return {path: one if isinstance(one, bool | int | float) else redacted(str(one)) for path, one in values}

    @property
    def steps(self) -> list[tuple[int, int, dict[str, float]]]:
        """Each epoch's number, time in milliseconds since 1970, and metrics.

        Nothing says when a trial began: the time is its training time since the study's start, the same at every call.
        """
        started = datetime.fromisoformat(self.study.record["started"]).timestamp()
        ends = itertools.accumulate((epoch["seconds"] for epoch in self.epochs), initial=started)
        metrics = [
            {name: float(value) for name, value in epoch.items() if name != "trial" and pd.notna(value)}
            for epoch in ({"epoch": 0}, *self.epochs)
        ]
        return [(int(one["epoch"]), round(1000 * end), one) for one, end in zip(metrics, ends, strict=True)]

    @property
    def extent(self) -> list[Any]:
        """Differs whenever there is something new to write."""
        return [len(self.epochs), self.outcome, len(self.values)]

    @property
    def picture(self) -> Image.Image | None:
        """Noisy, denoised and clean crops at the best epoch."""
        folder, file = self.study.folder, f"pictures/{self.trial or WINNER_RUN}.png"
        return Image.open(io.BytesIO(folder.read(file))) if folder.exists(file) else None

    def copy_denoiser(self, target: str) -> bool:
        """Copy the winner's denoiser to this machine; false for trials, and where there is none."""
        best = self.study.folder.child("best")
        files = [] if self.trial or not best.exists("generator.safetensors") else best.files()
        for name in files:
            Folder(target).write(name, best.read(name))
        return bool(files)


def runs_of(study: StudyFiles) -> Iterator[TrackedRun]:
    """The study's run, then those of its trials. Raises `DamagedError` if a file cannot be read."""
    record, folder = study.record, study.folder
    with reading(folder, "", REMEDY):
        options = {name: one for name, one in record.items() if isinstance(one, bool | int | float | str)}
        winner = {f"winner/{path}": one for path, one in record.get("best_trial", {}).get("values", {}).items()}
        shared = {name: one for name, one in options.items() if name not in NO_SETTINGS} | winner
        epochs, status = Ledger(folder.child("best")).epochs_of(WINNER_RUN), record["status"]
        yield TrackedRun(study, "", flat_values(study.config) | shared, epochs, {"state": status}, status == "finished")
        ledger, own = Ledger(folder), {field.name for field in dataclasses.fields(TrialRow)}
        # Otherwise an integer that only some trials have would be read as a float.
        for row in study.trials.convert_dtypes().to_dict("records"):
            known = {str(name): one for name, one in row.items() if pd.notna(one)}
            values = {path: one for path, one in known.items() if path not in own}
            outcome = {name: redacted(str(known[name])) for name in OUTCOME if name in known}
            epochs = ledger.epochs_of(known["trial"])
            yield TrackedRun(study, known["trial"], values, epochs, outcome, known["state"] in ENDED)


class Tracker(ABC):
    """Writes a study's runs, as often as it is asked to."""

    def __init__(self) -> None:
        self.written: dict[str, list[Any]] = {}
        """The extent of each run as it was written last, by id."""

    def update(self, folder: Folder) -> None:
        """Write what is new in a study's folder; raises whatever the tracker's client does."""
        for run in runs_of(StudyFiles(folder)):
            if self.written.get(run.id) != run.extent:
                self.write(run)
                self.written[run.id] = run.extent

    @abstractmethod
    def write(self, run: TrackedRun) -> None:
        """Write what the tracker does not have of a run; the study's run comes first."""

    def close(self) -> None:  # noqa: B027  (MLflow leaves nothing open)
        """End what is open."""


class Mlflow(Tracker):
    """MLflow's server or database, by MLflow's own environment variables."""

    def __init__(self) -> None:
        # Each retry would be a warning: the next update tries again anyway.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        import mlflow.pyfunc

        super().__init__()
        self.mlflow: Any = mlflow
        self.parent: dict[str, str] = {}

    def write(self, run: TrackedRun) -> None:
        """Write a run, which MLflow knows by a tag."""
        experiment = self.mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "raygan")).experiment_id
        client, (start, *epochs) = self.mlflow.MlflowClient(), run.steps
        found = next(iter(client.search_runs([experiment], f"tags.`raygan.id` = '{run.id}'")), None)
        if found is None:
            found = client.create_run(experiment, start[1], {"raygan.id": run.id, **self.parent}, run.name)
        run_id = found.info.run_id
        if not run.trial:
            self.parent = {"mlflow.parentRunId": run_id}
        for name in run.parameters.keys() - found.data.params.keys():
            client.log_param(run_id, name, run.parameters[name])
        for step, moment, metrics in epochs:
            if step > found.data.metrics.get("epoch", 0):
                # Each epoch at once: MLflow has all of it or nothing.
                batch = [self.mlflow.entities.Metric(name, one, moment, step) for name, one in metrics.items()]
                client.log_batch(run_id, batch)
        for name, text in run.outcome.items():
            client.set_tag(run_id, name, text)
        if run.has_ended and found.info.status == "RUNNING":
            self._end(run, run_id)

    def _end(self, run: TrackedRun, run_id: str) -> None:
        """Add the picture, register the winner's denoiser as a model, and end the run."""
        client, loader = self.mlflow.MlflowClient(), "raygan.inference.pyfunc"
        if (picture := run.picture) is not None:
            client.log_image(run_id, picture, "picture.png")
        with tempfile.TemporaryDirectory() as scratch:
            if run.copy_denoiser(f"{scratch}/denoiser"):
                model = {"loader_module": loader, "data_path": f"{scratch}/denoiser", "pip_requirements": ["raygan"]}
                self.mlflow.pyfunc.save_model(f"{scratch}/model", **model)
                client.log_artifacts(run_id, f"{scratch}/model", "model")
                if not client.search_registered_models(f"name = '{run.study.name}'"):
                    client.create_registered_model(run.study.name)
                client.create_model_version(run.study.name, f"runs:/{run_id}/model", run_id)
        failed = run.outcome["state"] == "failed"
        client.set_terminated(run_id, "FAILED" if failed else "FINISHED", run.steps[-1][1])


class Wandb(Tracker):
    """Weights & Biases, by its own environment variables; without WANDB_MODE, in files on this machine."""

    def __init__(self) -> None:
        import wandb

        super().__init__()
        self.wandb: Any = wandb
        self.open: dict[str, tuple[Any, TrackedRun]] = {}

    def write(self, run: TrackedRun) -> None:
        """Write a run, which stays open until it has ended."""
        marks = [folder / MARK for folder in self._offline(run)]
        if any(mark.exists() and json.loads(mark.read_text()) == run.extent for mark in marks):
            return
        handle = self.open[run.id][0] if run.id in self.open else self._begun(run)
        self.open[run.id] = handle, run
        handle.config.update(run.parameters, allow_val_change=True)
        for step, _, metrics in run.steps[1:]:
            # A run on the server goes on where it was left; one in a file is written whole.
            if step >= handle.step:
                handle.log(metrics, step=step, commit=True)
        if run.has_ended and handle.summary.get("state") != run.outcome["state"]:
            self._add_files(handle, run)
        handle.summary.update(run.outcome)
        if run.has_ended:
            self._end(run.id)

    def _add_files(self, handle: Any, run: TrackedRun) -> None:
        """Add the picture, and the winner's denoiser as an artifact."""
        if (picture := run.picture) is not None:
            handle.summary["picture"] = self.wandb.Image(picture)
        with tempfile.TemporaryDirectory() as scratch:
            if run.copy_denoiser(scratch):
                artifact = self.wandb.Artifact(run.study.name, "model")
                artifact.add_dir(scratch)
                handle.log_artifact(artifact)

    def _begun(self, run: TrackedRun) -> Any:
        for folder in self._offline(run):
            shutil.rmtree(folder)
        return self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", "raygan"),
            mode=os.environ.get("WANDB_MODE", "offline"),
            group=run.study.name,
            job_type="trial" if run.trial else "study",
            id=run.id,
            name=run.name,
            resume="allow",
            reinit="create_new",
            # Without the command line and the address of a repository, which may hold passwords.
            settings=self.wandb.Settings(
                x_disable_meta=True, x_disable_stats=True, disable_git=True, console="off", silent=True
            ),
        )

    def _offline(self, run: TrackedRun) -> list[Path]:
        """The folders in which the run was written offline."""
        online = os.environ.get("WANDB_MODE", "offline") != "offline"
        return [] if online else list(Path(self.wandb.setup().settings.wandb_dir).glob(f"offline-run-*-{run.id}"))

    def _end(self, run_id: str) -> None:
        handle, run = self.open.pop(run_id)
        folder = Path(handle.dir).parent
        handle.finish(exit_code=int(run.outcome["state"] == "failed"))
        # Another process that writes this run has deleted the folder, and has one of its own.
        if folder in self._offline(run):
            (folder / MARK).write_text(json.dumps(run.extent))

    def close(self) -> None:
        """End the runs that have not ended; a later update goes on with them."""
        for run_id in list(self.open):
            self._end(run_id)


def open_tracker(name: TrackerName) -> Tracker:
    """The tracker of that name; raises `InputError` if its package is missing."""
    try:
        return {"mlflow": Mlflow, "wandb": Wandb}[name]()
    except ImportError as error:
        raise InputError(f"{name} cannot be imported ({error}): pip install 'raygan[{name}]'") from error


@contextlib.contextmanager
def tracking(folder: Folder, tracker: Tracker | None) -> Iterator[None]:
    """Update a tracker while a study runs, in a thread: one that is slow or fails does not hold the study up."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(folder, tracker, ended), daemon=True)
    if tracker is not None:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if tracker is not None:
            thread.join()


def _follow(folder: Folder, tracker: Tracker, ended: threading.Event) -> None:
    warned = fails = is_last = False
    # A server that does not answer would hold up the end of the study.
    while not (is_last or (ended.is_set() and fails)):
        is_last, began = ended.is_set(), time.monotonic()
        try:
            tracker.update(folder)
            if is_last:
                tracker.close()
            fails = False
        # Whatever its client raises.
        except Exception as error:  # noqa: BLE001
            if not warned:
                name, reason = type(tracker).__name__.lower(), redacted(str(error))
                what = f"{name} cannot be written ({reason}); the study goes on"
                logger.warning("%s; to write it later: raygan track %s %s", what, folder, name)
            warned = fails = True
        ended.wait(max(PERIOD, (time.monotonic() - began) / SHARE))
