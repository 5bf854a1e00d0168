"""A study's files: the whole truth about it, in JSON and CSV, readable without Ray or RayGAN."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

from raygan.errors import InputError
from raygan.study.objectives import compromise
from raygan.study.storage import Folder

SCHEMA = 2
"""Of a study's folder; 1 was written by RayGAN 0.1."""
ENDED = ("complete", "pruned", "failed")
PACKAGES = ("raygan", "ray", "torch", "optuna", "numpy", "scikit-image")


class StudyError(InputError):
    """A study cannot start or go on."""


@dataclass
class TrialRow:
    """One trial, as in `trials.csv`; `values` become one column per path."""

    trial: str
    state: str
    """`running`, `complete` (the full budget), `pruned` (stopped early) or `failed`."""
    epochs: int
    val_psnr: float
    """dB, at the best epoch; so is `val_ssim`."""
    val_ssim: float
    operations_per_pixel: float
    """Floating-point operations of the generator."""
    seconds: float
    collapsed: int | None
    """The first epoch of three in which the discriminator's accuracies were pinned at 0 or 1; None if there is none."""
    checkpoint: str
    """Its folder, relative to the study's; `denoiser/` inside is that of the best epoch."""
    error: str
    """Why it failed."""
    values: Mapping[str, Any]
    """By the paths of the search space; None where the trial has no value."""


class Ledger:
    """Reads and writes a study's tables in `folder`."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.columns: list[str] = []
        self.epochs: dict[str, dict[int, dict[str, Any]]] = {}
        """Each trial's epochs, by trial and epoch."""
        self.torn = False
        """Whether the last line of `metrics.csv` is incomplete, as after a kill."""
        if folder.exists("metrics.csv"):
            text = folder.read("metrics.csv").decode()
            whole = text[: text.rfind("\n") + 1]
            for row in csv.DictReader(io.StringIO(whole)):
                self._keep(row.pop("trial"), {name: _parsed(value) for name, value in row.items()})
            self.torn = whole != text

    def add_epoch(self, trial: str, metrics: Mapping[str, float]) -> None:
        """Add, or replace, one trial's epoch in `metrics.csv`."""
        known = int(metrics["epoch"]) in self.epochs.get(trial, {})
        columns = self.columns
        row = self._keep(trial, metrics)
        if known or columns != self.columns or self.torn or not self.folder.is_local:
            rows = [row for of_trial in self.epochs.values() for row in of_trial.values()]
            self.folder.write("metrics.csv", _as_csv(rows, self.columns, header=True))
            self.torn = False
        else:
            # The whole table would make each epoch of a long study cost more than the one before.
            self.folder.append("metrics.csv", _as_csv([row], self.columns, header=False))

    def _keep(self, trial: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
        row = {"trial": trial, **metrics}
        self.epochs.setdefault(trial, {})[int(metrics["epoch"])] = row
        if not row.keys() <= set(self.columns):
            self.columns = list(dict.fromkeys([*self.columns, *row]))
        return row

    def epochs_of(self, trial: str) -> list[dict[str, Any]]:
        """One trial's epochs, in order."""
        return [row for _, row in sorted(self.epochs.get(trial, {}).items())]

    def write_trials(self, rows: list[TrialRow]) -> None:
        """Replace `trials.csv`."""
        named = [one.name for one in fields(TrialRow) if one.name != "values"]
        table = [{name: getattr(row, name) for name in named} | dict(row.values) for row in rows]
        columns = list(dict.fromkeys(column for row in table for column in row))
        self.folder.write("trials.csv", _as_csv(table, columns, header=True))

    def good_trials(self) -> list[dict[str, str]]:
        """The rows of `trials.csv`, as text, of the trials that did not fail."""
        trials = read_table(self.folder, "trials.csv")
        return [row for row in trials if row["state"] != "failed" and math.isfinite(float(row["val_psnr"]))]

    def best_trial(self, objectives: Sequence[str]) -> dict[str, str]:
        """The best good trial's row, as text, or of several objectives the compromise's (see
        `raygan.study.objectives`).

        Raises `StudyError` if there are no good trials.
        """
        good = self.good_trials()
        if good:
            return good[compromise([[float(row[objective]) for objective in objectives] for row in good], objectives)]
        rows = read_table(self.folder, "trials.csv")
        errors = [f"{row['trial']}: {row['error']}" for row in rows if row["error"]]
        if not errors:
            raise StudyError(f"none of {len(rows)} trials completed an epoch: give them a longer --time-budget")
        raise StudyError(
            f"all {len(rows)} trials failed ({errors[-1]}): narrow the search space (lower learning rates, if training "
            "diverged), and start under another --name"
        )


def read_table(folder: Folder, name: str) -> list[dict[str, str]]:
    """The rows of a CSV file, as text."""
    return list(csv.DictReader(io.StringIO(folder.read(name).decode())))


def _as_csv(rows: list[dict[str, Any]], columns: list[str], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _parsed(text: str) -> float | str:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


def read_study(folder: Folder) -> dict[str, Any] | None:
    """`study.json`; None if there is no study. Raises `StudyError` for one of another schema."""
    if not folder.exists("study.json"):
        return None
    study: dict[str, Any] = json.loads(folder.read("study.json"))
    if study.get("schema") != SCHEMA:
        raise StudyError(
            f"{folder} holds a study of schema {study.get('schema', 1)}, but this version of RayGAN reads schema "
            f"{SCHEMA}: read it with RayGAN {study.get('versions', {}).get('raygan', 'of its time')}, or give another "
            "--name"
        )
    return study


def write_study(folder: Folder, study: Mapping[str, Any]) -> None:
    """Replace `study.json`."""
    folder.write("study.json", json.dumps(dict(study), indent=2) + "\n")


def package_versions() -> dict[str, str]:
    """The versions that a study ran with."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
