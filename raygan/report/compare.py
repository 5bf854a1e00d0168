"""Studies side by side, running or finished, read from their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from raygan.config.run import PAIRS
from raygan.report.paper import differing, leaves
from raygan.report.tables import KIND_NAMES, MEASURES, as_text, measures_of, scores_text, short
from raygan.storage import Folder, reading
from raygan.study.ledger import NO_SETTINGS, REMEDY
from raygan.study.reader import StudyFiles, System

STATES = ("complete", "pruned", "failed")


def read_studies(folders: Iterable[Folder]) -> list[System]:
    """The searches, and the arms of comparisons, in these folders; raises `StudyError` if one holds no study."""
    return [system for folder in folders for system in StudyFiles(folder).systems()]


def studies_table(systems: Sequence[System]) -> pd.DataFrame:
    """One row per search or arm, with exact values.

    `study` is the study's name, or its folder if several have the same name; `arm` is empty for a search. `trials`
    counts those that have begun, of which some are `complete`, `pruned` or `failed`. `epochs` and `seconds` of training
    are sums over all trials; without trials, they are those of the training. `val_psnr` (dB) and `val_ssim` are those
    of the epoch with the highest val PSNR of all trials that did not fail, which is one of `best_trial`;
    `epochs_to_best` counts the epochs of all trials up to that one, in the order in which they were recorded. After the
    evaluation, `psnr_<noise>` and so on are means over the evaluation photos at mean intensity, and for an arm over its
    seeds.
    """
    names = [name for name, _ in {(system.study.name, str(system.study.folder)) for system in systems}]
    rows = []
    for system in systems:
        with reading(system.study.folder, "", REMEDY):
            row = _row(system) | _best_epoch(system) | _evaluated(system)
        if names.count(system.study.name) > 1:
            row["study"] = str(system.study.folder)
        rows.append(row)
    return pd.DataFrame(rows)


def _row(system: System) -> dict[str, Any]:
    epochs, states = system.metrics, system.trials.get("state", pd.Series(dtype=str))
    return {
        "study": system.study.name,
        "arm": system.arm,
        "state": system.study.record["status"],
        "trials": len(states),
        **{state: int((states == state).sum()) for state in STATES},
        "epochs": len(epochs),
        "seconds": 0.0 if epochs.empty else float(epochs["seconds"].sum()),
    }


def _best_epoch(system: System) -> dict[str, Any]:
    """The columns on the epoch with the highest val PSNR; missing values if there is none yet."""
    columns = ("val_psnr", "val_ssim", "best_trial", "epochs_to_best")
    if system.metrics.empty:
        return dict.fromkeys(columns)
    epochs = system.metrics.assign(epochs_to_best=range(1, len(system.metrics) + 1))
    failed = system.trials.loc[system.trials["state"] == "failed", "trial"]
    good = epochs[~epochs["trial"].isin(failed)].dropna(subset="val_psnr").rename(columns={"trial": "best_trial"})
    return dict(good.nlargest(1, "val_psnr").iloc[0][list(columns)]) if len(good) else dict.fromkeys(columns)


def _evaluated(system: System) -> dict[str, float]:
    """The mean scores of its denoisers on the evaluation photos at mean intensity, and on held-out pairs.

    Empty before the evaluation.
    """
    summary = system.study.summary
    if summary.empty:
        return {}
    rows = summary[summary["set"].isin(("evaluation", PAIRS)) & summary["method"].isin(system.denoisers)]
    rows = rows[rows["level"] == "mean"]
    means = rows.groupby("kind", sort=False).mean(numeric_only=True)
    measures = measures_of(means)
    return {f"{measure}_{kind}": row[f"{measure}_mean"] for kind, row in means.iterrows() for measure in measures}


def side_by_side(systems: Sequence[System]) -> str:
    """The table as text, with a warning if scores cannot be compared, and the settings in which the rows differ."""
    with reading(" or ".join(dict.fromkeys(str(system.study.folder) for system in systems)), "", REMEDY):
        return _side_by_side(systems)


def _side_by_side(systems: Sequence[System]) -> str:
    table = studies_table(systems)
    titles = table["study"] + table["arm"].map(lambda arm: arm and f", {arm}")
    table = table.set_axis(titles, axis=0).rename_axis(None)
    blocks = [as_text(_progress(table), "study")]
    kinds = [str(column).removeprefix("psnr_") for column in table if str(column).startswith("psnr_")]
    if kinds:
        measures = {measure: name for measure, name in MEASURES.items() if f"{measure}_{kinds[0]}" in table}
        scores = pd.DataFrame(index=table.index)
        for kind in kinds:
            values = table[[f"{measure}_{kind}" for measure in measures]].to_numpy()
            scores[KIND_NAMES.get(kind, kind)] = [scores_text(*row) for row in values]
        heading = f"Evaluation photos, mean intensity: {' / '.join(measures.values())}"
        blocks.append(f"{heading}\n{as_text(scores, 'study')}")
    blocks += _warnings(systems)
    settings = differing([_settings(system) for system in systems])
    lines = [f"  {path}: {' | '.join(map(short, values))}" for path, values in settings.items()]
    head = "Settings that differ, in the order of the rows:" if lines else "The settings do not differ."
    return "\n\n".join([*blocks, "\n".join([head, *lines])])


def _settings(system: System) -> dict[str, object]:
    """Every setting by its name or configuration path; "searched" if each trial has its own value."""
    record = system.study.record
    named = {name: one for name, one in record.items() if name not in NO_SETTINGS and not isinstance(one, dict)}
    # The configuration of a search is its winner's, which has searched values.
    config = system.config if system.arm else system.study.config
    return named | leaves(config) | dict.fromkeys(record.get("space", ()), "searched")


def _progress(table: pd.DataFrame) -> pd.DataFrame:
    """The texts on trials and epochs."""
    best = table["best_trial"].notna()
    shown = table[["state", "trials", *STATES, "epochs"]].assign(seconds=table["seconds"].map("{:.0f}".format))
    shown["val PSNR / SSIM"] = [scores_text(*row) for row in table[["val_psnr", "val_ssim"]].astype(float).to_numpy()]
    shown["best trial"] = table["best_trial"].where(best, "-")
    shown["after epochs"] = table["epochs_to_best"].map("{:.0f}".format, na_action="ignore").where(best, "-")
    return shown


def _warnings(systems: Sequence[System]) -> list[str]:
    """Why scores of different rows cannot be compared."""
    validated, evaluated = [], []
    for system in systems:
        data, noises = system.config.data, {"the noises to remove (noises)": system.config.judged_noises}
        crops = {f"data/{name}": getattr(data, name) for name in ("seed", "crop_size", "val_crops")}
        # Pairs have their own noise.
        added = noises if data.pairs is None else {}
        validated.append(added | {"the photos (photos in study.json)": system.study.record["photos"]} | crops)
        if _evaluated(system):
            photos = system.study.record.get("evaluation_photos")
            evaluated.append(noises | {"the photos (evaluation_photos in study.json)": photos})
    return [
        f"Warning: {what} scores cannot be compared, because the rows differ in {', '.join(different)}."
        for what, different in (("val", differing(validated)), ("evaluation", differing(evaluated)))
        if different
    ]
