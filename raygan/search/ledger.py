"""A study's files: the whole truth about it, in JSON and CSV, readable without Ray or RayGAN."""

from __future__ import annotations

import io
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

import pandas as pd

from raygan.errors import InputError
from raygan.storage import Folder

PACKAGES = ("raygan", "ray", "torch", "torchvision", "optuna", "numpy", "scikit-image")


class StudyError(InputError):
    """A study cannot start or go on."""


@dataclass
class TrialRow:
    """One trial, as `trials.csv` shows it; `values` become a column a path."""

    trial: str
    state: str
    """`pending`, `running`, `complete` (the full budget), `pruned` (stopped early) or `failed`."""
    epochs: int
    val_psnr: float
    """dB, at the best epoch; so is `val_ssim`."""
    val_ssim: float
    seconds: float
    checkpoint: str
    """The best epoch's, relative to the study's folder."""
    values: Mapping[str, Any]


class Ledger:
    """Reads and writes a study's files in `folder`."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        stored = pd.read_csv(io.BytesIO(folder.read("metrics.csv"))) if folder.exists("metrics.csv") else pd.DataFrame()
        self.epochs: dict[tuple[str, int], dict[str, Any]] = {
            (row["trial"], row["epoch"]): row for row in stored.to_dict("records")
        }

    def add_epoch(self, trial: str, metrics: Mapping[str, float]) -> None:
        """Add, or replace, one trial's epoch in `metrics.csv`."""
        self.epochs[trial, int(metrics["epoch"])] = {"trial": trial, **metrics}
        self._write_table("metrics.csv", list(self.epochs.values()))

    def epochs_of(self, trial: str) -> list[dict[str, Any]]:
        """One trial's epochs, in order."""
        return [row for (name, _), row in sorted(self.epochs.items()) if name == trial]

    def write_trials(self, rows: list[TrialRow]) -> None:
        """Replace `trials.csv`."""
        named = [one.name for one in fields(TrialRow) if one.name != "values"]
        self._write_table(
            "trials.csv", [{name: getattr(row, name) for name in named} | dict(row.values) for row in rows]
        )

    def best_trial(self) -> dict[str, Any]:
        """The row of `trials.csv` with the highest val PSNR of those that did not fail.

        Raises `StudyError` where there is none.
        """
        trials = pd.read_csv(io.BytesIO(self.folder.read("trials.csv")))
        good = trials[(trials["state"] != "failed") & trials["val_psnr"].map(math.isfinite)]
        if good.empty:
            raise StudyError(f"all {len(trials)} trials failed; {self.folder}/trials.csv lists them")
        best: dict[str, Any] = good.loc[good["val_psnr"].idxmax()].to_dict()
        return best

    def _write_table(self, name: str, rows: list[dict[str, Any]]) -> None:
        self.folder.write(name, pd.DataFrame(rows).to_csv(index=False))


def read_study(folder: Folder) -> dict[str, Any] | None:
    """`study.json`, or none where there is no study."""
    if not folder.exists("study.json"):
        return None
    study: dict[str, Any] = json.loads(folder.read("study.json"))
    return study


def write_study(folder: Folder, study: Mapping[str, Any]) -> None:
    """Replace `study.json`."""
    folder.write("study.json", json.dumps(study, indent=2) + "\n")


def package_versions() -> dict[str, str]:
    """The versions that a study ran with."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
