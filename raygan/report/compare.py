"""Studies side by side, running or finished, read from their files."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from raygan.report.paper import differing, leaves
from raygan.report.tables import MEASURES, as_text, kind_name, measured, measures_of, scores_text, short
from raygan.study.reader import StudyFiles, System
from raygan.study.storage import Folder

STATES = ("complete", "pruned", "failed")
OTHER_ENTRIES = (
    "schema",
    "name",
    "status",
    "started",
    "finished",
    "versions",
    "config",
    "resolved",
    "space",
    "best_trial",
)
"""Entries of `study.json` that are not settings, or are compared by path."""


def read_studies(folders: Iterable[Folder]) -> list[System]:
    """The searches, and the arms of comparisons, in these folders; raises `StudyError` if one holds no study."""
    return [system for folder in folders for system in StudyFiles(folder).systems()]


def studies_table(systems: Sequence[System]) -> pd.DataFrame:
    """One row per search or arm, with exact values.

    `study` is the study's name, or its folder if several have the same name; `arm` is empty for a search. `trials`
    counts those that have begun, of which some are `complete`, `pruned` or `failed`. `epochs` and `seconds` of training
    are sums over all trials. `val_psnr` (dB) and `val_ssim` are those of the epoch with the highest val PSNR of all
    trials that did not fail, which is one of `best_trial`; `epochs_to_best` counts the epochs of all trials up to that
    one, in the order in which they were recorded. After the evaluation, `psnr_<noise>` and so on are means over the
    evaluation photos at mean intensity, and for an arm over its seeds.
    """
    folders: dict[str, set[str]] = {}
    for system in systems:
        folders.setdefault(system.study.name, set()).add(str(system.study.folder))
    rows = []
    for system in systems:
        study = system.study
        states = system.trials.get("state", pd.Series(dtype=str))
        row: dict[str, Any] = {
            "study": study.name if len(folders[study.name]) == 1 else str(study.folder),
            "arm": system.arm,
        }
        row |= {"state": study.record["status"], "trials": len(states)}
        row |= {state: int((states == state).sum()) for state in STATES}
        epochs = system.metrics
        row |= {"epochs": len(epochs), "seconds": float(epochs["seconds"].sum()) if len(epochs) else 0.0}
        rows.append(row | _best_epoch(system) | _evaluated(system))
    return pd.DataFrame(rows)


def _best_epoch(system: System) -> dict[str, Any]:
    """The columns on the epoch with the highest val PSNR; none if there is none yet."""
    epochs = system.metrics
    if epochs.empty:
        return {}
    failed = system.trials.loc[system.trials["state"] == "failed", "trial"]
    scores = epochs["val_psnr"].mask(epochs["trial"].isin(failed))
    if scores.isna().all():
        return {}
    position = int(scores.argmax())
    best = epochs.iloc[position]
    found = {"val_psnr": best["val_psnr"], "val_ssim": best["val_ssim"], "best_trial": best["trial"]}
    return found | {"epochs_to_best": position + 1}


def _evaluated(system: System) -> dict[str, float]:
    """The mean scores of its denoisers on the evaluation photos at mean intensity; empty before the evaluation."""
    summary = system.study.summary
    if summary.empty:
        return {}
    of_set = (summary["set"] == "evaluation") & (summary["level"] == "mean")
    rows = summary[of_set & summary["method"].isin(system.denoisers)]
    return {
        f"{measure}_{kind}": float(of_kind[f"{measure}_mean"].mean())
        for kind, of_kind in rows.groupby("kind", sort=False)
        for measure in measures_of(summary)
    }


def side_by_side(systems: Sequence[System]) -> str:
    """The table as text, with a warning if scores cannot be compared, and the settings in which the rows differ."""
    table = studies_table(systems)
    records = table.to_dict("records")
    titles = [f"{row['study']}, {row['arm']}" if row["arm"] else row["study"] for row in records]
    blocks = [as_text(pd.DataFrame([_progress(row) for row in records], index=titles), "study")]
    kinds = [str(column).removeprefix("psnr_") for column in table if str(column).startswith("psnr_")]
    if kinds:
        measures = [measure for measure in MEASURES if f"{measure}_{kinds[0]}" in table]
        scores = [
            {kind_name(kind): scores_text(*(row[f"{measure}_{kind}"] for measure in measures)) for kind in kinds}
            for row in records
        ]
        heading = f"Evaluation photos, mean intensity: {measured(measures)}"
        blocks.append(f"{heading}\n{as_text(pd.DataFrame(scores, index=titles), 'study')}")
    blocks += [f"Warning: {warning}" for warning in _warnings(systems)]
    settings = differing([_settings(system) for system in systems])
    lines = [f"  {path}: {' | '.join(map(short, values))}" for path, values in settings.items()]
    head = "Settings that differ, in the order of the rows:" if lines else "The settings do not differ."
    return "\n\n".join([*blocks, "\n".join([head, *lines])])


def _settings(system: System) -> dict[str, object]:
    """Every setting by its name or configuration path; "searched" if each trial has its own value."""
    record = system.study.record
    named = {name: value for name, value in record.items() if name not in OTHER_ENTRIES and not isinstance(value, dict)}
    config = system.config if system.arm else system.study.config
    return named | leaves(config) | dict.fromkeys(record.get("space", ()), "searched")


def _progress(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """The cells on a row's trials and epochs."""
    best = None if pd.isna(row.get("best_trial")) else row
    return {name: row[name] for name in ("state", "trials", *STATES, "epochs")} | {
        "seconds": f"{row['seconds']:.0f}",
        "val PSNR / SSIM": scores_text(best["val_psnr"], best["val_ssim"]) if best else "-",
        "best trial": best["best_trial"] if best else "-",
        "after epochs": f"{best['epochs_to_best']:.0f}" if best else "-",
    }


def _warnings(systems: Sequence[System]) -> list[str]:
    """Why scores of different rows cannot be compared."""
    validated, evaluated = [], []
    for system in systems:
        data, noises = system.config.data, {"the noises to remove (noises)": system.config.noises}
        crops = {f"data/{name}": getattr(data, name) for name in ("seed", "crop_size", "val_crops")}
        validated.append(noises | {"the photos (photos in study.json)": system.study.record["photos"]} | crops)
        if _evaluated(system):
            evaluated.append(noises | {"data/evaluate_on": data.evaluate_on})
    return [
        f"{what} scores cannot be compared, because the rows differ in {', '.join(different)}."
        for what, different in (("val", differing(validated)), ("evaluation", differing(evaluated)))
        if different
    ]
