"""The tables of a report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from raygan.report.paper import paper_table
from raygan.study.objectives import LESS_IS_BETTER, pareto_front
from raygan.study.reader import StudyFiles, System

KIND_NAMES = {"gaussian": "Gaussian", "salt_and_pepper": "salt & pepper", "speckle": "speckle"}
METHOD_NAMES = {
    "noisy": "noisy input",
    "median": "median filter 3x3",
    "nonlocal_means": "non-local means",
    "total_variation": "total variation",
    "bm3d": "BM3D",
    "raygan": "RayGAN",
}
MEASURES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"}
"""The measures that tables show, those of them that an evaluation has."""
LINE_WIDTH = 110
"""Characters per line in the terminal: wider tables are divided."""


def measures_of(summary: pd.DataFrame) -> list[str]:
    """What an evaluation measured; LPIPS only where it was asked for."""
    return [measure for measure in MEASURES if f"{measure}_mean" in summary]


def kind_name(kind: str) -> str:
    """The name of a noise in tables: a user's own noise has its key."""
    return KIND_NAMES.get(kind, kind)


def method_name(method: str) -> str:
    """The name of a filter or denoiser in tables."""
    return METHOD_NAMES.get(method, method)


def measured(measures: list[str]) -> str:
    """The measures in words, in the order of `scores_text`."""
    units = {"psnr": " (dB)", "lpips": " (lower is better)"}
    return " / ".join(MEASURES[measure] + units.get(measure, "") for measure in measures)


def scores_text(psnr: float, *others: float, unit: str = "") -> str:
    """Scores such as "25.12 / 0.734", with the `unit` after the PSNR."""
    return "-" if pd.isna(psnr) else " / ".join([f"{psnr:.2f}{unit}", *map(_three_decimals, others)])


def as_text(table: pd.DataFrame, corner: str) -> str:
    """A table of texts, with its index on the left, for the terminal; `corner` is its heading."""
    return table.rename_axis(index=None, columns=corner).to_string(line_width=LINE_WIDTH)


def result_table(study: StudyFiles) -> str:
    """The mean scores per noise at its mean intensity, one row per method, with the paper's v1 as the last row."""
    summary = study.summary
    at_mean = summary[(summary["level"] == "mean") & (summary["set"] == "evaluation")]
    measures = measures_of(summary)
    unit = "" if "lpips" in measures else " dB"
    table = _by_kind(at_mean, measures, unit)
    paper = paper_table(study.config, "evaluation")
    if paper is not None:
        of_kinds = paper.reindex(at_mean["kind"].unique())
        table.loc["the paper: {system} on {photos}".format(**paper.iloc[0])] = [
            scores_text(*scores, unit=unit) for scores in of_kinds[["psnr_mean", "ssim_mean"]].to_numpy()
        ]
    text = as_text(table, f"mean of {at_mean['images'].iloc[0]} photos, mean intensity")
    return text + (f"\n{measured(measures)}" if "lpips" in measures else "")


def evaluation_table(summary: pd.DataFrame) -> str:
    """Every method's means over the evaluation photos: one table per level, one row per method, with its seconds."""
    evaluated = summary[summary["set"] == "evaluation"]
    measures = measures_of(summary)
    blocks = []
    for level, rows in evaluated.groupby("level", sort=False):
        table = _by_kind(rows, measures)
        seconds = rows.groupby("method", sort=False)["seconds_mean"].mean()
        table["seconds"] = [_three_decimals(value) for value in seconds]
        blocks.append(as_text(table, f"{level} intensity, {rows['images'].iloc[0]} photos"))
    return "\n\n".join([*blocks, f"Means: {measured(measures)}, and seconds per photo."])


def _by_kind(rows: pd.DataFrame, measures: list[str], unit: str = "") -> pd.DataFrame:
    """The scores of each method, as texts, one column per noise."""
    values = rows[[f"{measure}_mean" for measure in measures]].to_numpy()
    scores = [scores_text(*of_row, unit=unit) for of_row in values]
    table = rows.assign(scores=scores).pivot(index="method", columns="kind", values="scores")
    table = table.loc[rows["method"].unique(), rows["kind"].unique()]
    return table.rename(index=method_name, columns=kind_name)


def scores_beside_the_papers(study: StudyFiles, system: System, photo_set: str) -> pd.DataFrame:
    """A system's scores on a set of photos, as in the paper's tables 4, 5, 6 and 8, with the paper's for comparison.

    One row per noise, at its mean intensity, and statistic over the images, average or maximum; for several seeds, the
    mean of their averages and of their maxima. `photo_set` is a set in the evaluation's summary, such as "validation"
    or "evaluation/test". The paper's columns are missing if the system removes other noise than the paper's.
    """
    paper = paper_table(system.config, photo_set.partition("/")[0])
    summary = study.summary[(study.summary["set"] == photo_set) & (study.summary["level"] == "mean")]
    chosen = summary[summary["method"].isin(system.denoisers)]
    rows = []
    for noise in system.config.noises:
        ours = chosen[chosen["kind"] == noise.key].mean(numeric_only=True)
        for over, statistic in (("average", "mean"), ("maximum", "max")):
            row: dict[str, Any] = {"noise": kind_name(noise.key), "over the images": over}
            for measure in ("psnr", "ssim"):
                name, column = MEASURES[measure], f"{measure}_{statistic}"
                row[name] = ours[column]
                if paper is not None:
                    theirs = paper.loc[noise.key]
                    row |= {f"{name}, paper": theirs[column], f"{name}, difference": ours[column] - theirs[column]}
            rows.append(row)
    return pd.DataFrame(rows)


def methods_table(study: StudyFiles, photo_set: str) -> pd.DataFrame:
    """Every method's averages on a set of photos at mean intensity: one row per noise task and method."""
    chosen = study.summary[(study.summary["set"] == photo_set) & (study.summary["level"] == "mean")]
    tables = []
    for _, rows in chosen.groupby("task", sort=False):
        table = _by_kind(rows, measures_of(study.summary)).rename_axis(index="method", columns=None)
        intensities = rows.drop_duplicates("kind")["intensity"]
        table.insert(0, "intensities", ", ".join(map(short, intensities)))
        tables.append(table.reset_index())
    return pd.concat(tables, ignore_index=True)


def arms_table(study: StudyFiles) -> pd.DataFrame:
    """A comparison's arms on the evaluation photos: mean and deviation over seeds, and difference to the first arm.

    One row per arm, noise and level. A seed's score is its mean over the images; deviations are sample deviations over
    the seeds that did not fail. `difference` is to the first arm that removes the same noise, `…_low` and `…_high` are
    its 95 % confidence interval (Welch's t-test).
    """
    summary = study.summary[study.summary["set"] == "evaluation"]
    systems = study.systems()
    measures = measures_of(summary) + (["colour_drift"] if "colour_drift_mean" in summary else [])
    rows = []
    for system in systems:
        reference = next(one for one in systems if one.task == system.task)
        of_task = summary[summary["task"] == system.task]
        for (kind, level, intensity), group in of_task.groupby(["kind", "level", "intensity"], sort=False):
            row = {"arm": system.arm, "kind": kind, "level": level, "intensity": intensity}
            row |= {"seeds": len(system.denoisers), "failed": len(system.trials) - len(system.denoisers)}
            for measure in measures:
                ours, theirs = (
                    group[group["method"].isin(one.denoisers)][f"{measure}_mean"] for one in (system, reference)
                )
                row |= {f"{measure}_mean": ours.mean(), f"{measure}_deviation": ours.std()}
                for name, value in _difference(ours, theirs).items():
                    row[f"{measure}_{name}"] = math.nan if system is reference else value
            rows.append(row)
    return pd.DataFrame(rows)


def _difference(ours: pd.Series[float], theirs: pd.Series[float]) -> dict[str, float]:
    """The difference of two means, with its 95 % confidence interval for unequal variances (Welch, 1947)."""
    difference = ours.mean() - theirs.mean()
    variances = np.array([scores.var() / max(len(scores), 1) for scores in (ours, theirs)])
    half = math.nan
    if variances.sum() > 0:
        degrees = variances.sum() ** 2 / (variances**2 / [len(ours) - 1, len(theirs) - 1]).sum()
        half = stats.t.ppf(0.975, degrees) * math.sqrt(variances.sum())
    return {"difference": difference, "difference_low": difference - half, "difference_high": difference + half}


def front_table(study: StudyFiles) -> pd.DataFrame:
    """The Pareto front of a search with several objectives, best first by the first objective.

    `winner` marks the compromise, whose configuration the winner was trained with.
    """
    good = study.good_trials()
    rows = good.iloc[pareto_front(good[study.objectives].to_numpy().tolist(), study.objectives)]
    rows = rows.sort_values(study.objectives[0], ascending=study.objectives[0] in LESS_IS_BETTER)
    chosen = rows["trial"].eq(study.record["best_trial"]["trial"]).map({True: "chosen", False: ""})
    table = rows[["trial", *study.objectives, *study.record["space"]]].reset_index(drop=True)
    table.insert(1, "winner", chosen.to_list())
    return table


def short(value: object) -> str:
    """A value for people: four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _three_decimals(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"
