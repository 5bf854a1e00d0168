"""A study's files: the whole truth about it, in JSON and CSV, readable without Ray or RayGAN."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from typing import Any

import pandas as pd

from raygan.errors import InputError
from raygan.storage import Folder, reading

SCHEMA = 2
"""Of a study's folder; 1 was written by RayGAN 0.1."""
ENDED = ("complete", "pruned", "failed")
PACKAGES = ("raygan", "ray", "torch", "optuna", "numpy", "scikit-image")
NO_SETTINGS = ("schema", "name", "status", "started", "finished")
"""Texts and numbers of `study.json` that are not settings."""
REMEDY = "restore it from a copy, or start under another --name"
"""What to do about a damaged file that does not derive from others."""


class StudyError(InputError):
    """A study cannot start or go on."""


@dataclass
class TrialRow:
    """One trial, as in `trials.csv`; `values` become one column per path."""

    trial: str
    state: str
    """`running`, `waiting` (for its promotion), `complete` (the full budget), `pruned` (stopped early) or `failed`."""
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
    repeats: str
    """The trial that it repeats, with another seed; empty for all others."""
    values: Mapping[str, Any]
    """By the paths of the search space; None where the trial has no value."""


class Ledger:
    """Reads and writes a study's tables in `folder`."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.columns: dict[str, None] = {}
        self.epochs: dict[str, dict[int, dict[str, Any]]] = {}
        """Each trial's epochs, by trial and epoch."""
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        """The same, in the order in which they were recorded."""
        content = folder.read("metrics.csv") if folder.exists("metrics.csv") else b""
        whole = content[: content.rfind(b"\n") + 1]
        self.torn = whole != content
        """Whether the last line of `metrics.csv` is incomplete, as after a kill."""
        with reading(folder, "metrics.csv", REMEDY):
            table = pd.read_csv(io.BytesIO(whole or b"trial"), dtype={"trial": str})
            for row in table.to_dict("records"):
                self._keep({str(name): value for name, value in row.items()})

    def add_epoch(self, trial: str, metrics: Mapping[str, float]) -> None:
        """Add, or replace, one trial's epoch in `metrics.csv`."""
        row = {"trial": trial, **metrics}
        # The whole table would make each epoch of a long study cost more than the one before.
        appends = self.folder.is_local and not self.torn and row.keys() <= self.columns.keys()
        appends = appends and int(metrics["epoch"]) not in self.epochs.get(trial, {})
        self._keep(row)
        if appends:
            self.folder.append("metrics.csv", _as_csv([row], self.columns, header=False))
        else:
            self.folder.write("metrics.csv", _as_csv(self.rows.values(), self.columns))
            self.torn = False

    def _keep(self, row: dict[str, Any]) -> None:
        self.epochs.setdefault(row["trial"], {})[int(row["epoch"])] = row
        self.rows[row["trial"], int(row["epoch"])] = row
        self.columns |= dict.fromkeys(row)

    def epochs_of(self, trial: str) -> list[dict[str, Any]]:
        """One trial's epochs, in order."""
        return [row for _, row in sorted(self.epochs.get(trial, {}).items())]

    def write_trials(self, rows: list[TrialRow]) -> None:
        """Replace `trials.csv`."""
        table = [{**vars(row), **row.values} for row in rows]
        columns = [name for name in dict.fromkeys(chain(*table)) if name != "values"]
        self.folder.write("trials.csv", _as_csv(table, columns))


def _as_csv(rows: Iterable[Mapping[str, Any]], columns: Collection[str], *, header: bool = True) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_study(folder: Folder) -> dict[str, Any] | None:
    """`study.json`; None if there is no study. Raises `StudyError` for one of another schema."""
    if not folder.exists("study.json"):
        return None
    with reading(folder, "study.json", REMEDY):
        study: dict[str, Any] = json.loads(folder.read("study.json"))
        if not isinstance(study, dict):
            raise TypeError("it is no JSON object")
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
