"""The tables of a report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from raygan.config.run import PAIRS
from raygan.report.paper import paper_table
from raygan.study.objectives import LESS_IS_BETTER, pareto_front
from raygan.study.reader import StudyFiles, System

KIND_NAMES = {"gaussian": "Gaussian", "salt_and_pepper": "salt & pepper", "speckle": "speckle", PAIRS: "real noise"}
"""The names of noises in tables: a user's own noise has its key."""
METHOD_NAMES = {
    "noisy": "noisy input",
    "median": "median filter 3x3",
    "decision_median": "decision-based median",
    "nonlocal_means": "non-local means",
    "nonlocal_means_clipping_undone": "non-local means, clipping undone",
    "total_variation": "total variation",
    "bm3d": "BM3D",
    "bm3d_clipping_undone": "BM3D, clipping undone",
    "raygan": "RayGAN",
    "start": "starting denoiser",
}
"""The names of filters and denoisers in tables: others have their own."""
MEASURES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS (lower is better)"}
"""The measures that tables show, those of them that an evaluation has, in the order of `scores_text`."""
LINE_WIDTH = 110
"""Characters per line in the terminal: wider tables are divided."""


def measures_of(summary: pd.DataFrame) -> dict[str, str]:
    """What an evaluation measured; LPIPS only where it was asked for."""
    return {measure: name for measure, name in MEASURES.items() if f"{measure}_mean" in summary}


def scores_text(psnr: float, *others: float, unit: str = "") -> str:
    """Scores such as "25.12 / 0.734", with the `unit` after the PSNR."""
    texts = [f"{psnr:.2f}{unit}", *("-" if pd.isna(score) else f"{score:.3f}" for score in others)]
    return "-" if pd.isna(psnr) else " / ".join(texts)


def as_text(table: pd.DataFrame, corner: str) -> str:
    """A table of texts, with its index on the left, for the terminal; `corner` is its heading."""
    return table.rename_axis(index=None, columns=corner).to_string(line_width=LINE_WIDTH)


def result_table(study: StudyFiles) -> str:
    """The tables of `results` for the terminal."""
    measures = measures_of(study.summary)
    text = "\n\n".join(
        as_text(table.set_index(table.columns[0]), table.columns[0]) for table in results(study).values()
    )
    return "\n".join([text, " / ".join(measures.values())]) if "lpips" in measures else text


def results(study: StudyFiles) -> dict[str, pd.DataFrame]:
    """The mean scores per noise at its mean intensity, one row per method, with the paper's as the last row.

    And, if there are held-out pairs, those on them. The first column says what the scores are means of.
    """
    at_mean = study.summary.query("level == 'mean' and set == 'evaluation'")
    unit = "" if "lpips" in measures_of(at_mean) else " dB"
    table = _by_kind(at_mean, unit)
    if (paper := paper_table(study.config, "evaluation")) is not None:
        scores = paper.reindex(at_mean["kind"].unique())[["psnr_mean", "ssim_mean"]].to_numpy()
        label = "the paper: {system} on {photos}".format(**paper.iloc[0])
        table.loc[label] = [scores_text(*of_kind, unit=unit) for of_kind in scores]
    found = {"result": _with_title(table, f"mean of {at_mean['images'].iloc[0]} photos, mean intensity")}
    pairs = study.summary[study.summary["set"] == PAIRS]
    if not pairs.empty:
        found["pairs"] = _with_title(_by_kind(pairs, unit), f"mean of {pairs['images'].iloc[0]} held-out pairs")
    return found


def _with_title(table: pd.DataFrame, title: str) -> pd.DataFrame:
    """A table with its index as the first column, of that title."""
    return table.rename_axis(index=title, columns=None).reset_index()


def best_and_worst(study: StudyFiles) -> pd.DataFrame:
    """The photos that the first denoiser denoises best and worst, by PSNR, per noise and level."""
    method = next((name for system in study.systems() for name in system.denoisers), "")
    of_method = study.per_image[study.per_image["method"] == method]
    scores = of_method[of_method["set"].isin(("evaluation", PAIRS))]
    rows = []
    for (kind, level), group in scores.groupby(["kind", "level"], sort=False):
        row, in_order = {"noise": KIND_NAMES.get(str(kind), str(kind)), "level": str(level)}, group.sort_values("psnr")
        for name, index in (("worst", 0), ("best", -1)):
            row[f"{name} photo"] = f"{in_order['image'].iloc[index]}: {in_order['psnr'].iloc[index]:.2f} dB"
        rows.append(row)
    return pd.DataFrame(rows)


def gain_text(study: StudyFiles) -> str:
    """What training on pairs gained over the denoiser that it started from, on held-out pairs.

    Empty without pairs or a denoiser to start from.
    """
    means = study.summary[study.summary["set"] == PAIRS].set_index("method")["psnr_mean"]
    if not {"raygan", "start"} <= set(means.index):
        return ""
    gain, start = means["raygan"] - means["start"], study.config.training.start_from
    if gain <= 0:
        return f"The new denoiser is no better than {start} on the held-out pairs ({gain:+.2f} dB): keep {start}."
    scores = study.per_image[study.per_image["set"] == PAIRS].pivot(index="image", columns="method", values="psnr")
    wins = f"{(scores['raygan'] > scores['start']).sum()} of {len(scores)}"
    return (
        f"On the held-out pairs, which also chose the trial and the epoch, the new denoiser gains {gain:.3f} dB over "
        f"{start}, and is better on {wins}."
    )


def verdict(study: StudyFiles) -> str:
    """Whether the winner beats the noisy input and the filters, by mean PSNR at mean intensity, for each noise."""
    at_mean = study.summary.query("level == 'mean' and set == 'evaluation'")
    texts = []
    for kind, rows in at_mean.groupby("kind", sort=False):
        scores: dict[str, float] = dict(zip(rows["method"], rows["psnr_mean"], strict=True))
        ours = scores.pop("raygan")
        best = max(scores, key=scores.__getitem__)
        texts.append(
            f"{KIND_NAMES.get(str(kind), kind)} {ours - scores[best]:+.2f} dB ({METHOD_NAMES.get(best, best)})"
        )
    return f"PSNR against the best other method: {', '.join(texts)}."


def evaluation_table(summary: pd.DataFrame) -> str:
    """Every method's means over the evaluation photos: one table per level, one row per method, with its seconds.

    Pairs have one table.
    """
    blocks = []
    evaluated = summary[summary["set"].isin(("evaluation", PAIRS))]
    for (part, level), rows in evaluated.groupby(["set", "level"], sort=False):
        seconds = rows.groupby("method", sort=False)["seconds_mean"].mean()
        table = _by_kind(rows).assign(seconds=seconds.map("{:.3f}".format).to_list())
        images = rows["images"].iloc[0]
        blocks.append(as_text(table, f"{images} pairs" if part == PAIRS else f"{level} intensity, {images} photos"))
    return "\n\n".join([*blocks, f"Means: {' / '.join(measures_of(summary).values())}, and seconds per photo."])


def _by_kind(rows: pd.DataFrame, unit: str = "") -> pd.DataFrame:
    """The mean scores of each method, as texts, one column per noise."""
    values = rows[[f"{measure}_mean" for measure in measures_of(rows)]].to_numpy()
    scores = [scores_text(*of_row, unit=unit) for of_row in values]
    table = rows.assign(scores=scores).pivot(index="method", columns="kind", values="scores")
    # A method may be for one kind of noise alone.
    table = table.loc[rows["method"].unique(), rows["kind"].unique()].fillna("")
    return table.rename(index=METHOD_NAMES, columns=KIND_NAMES)


def scores_beside_the_papers(study: StudyFiles, system: System, photo_set: str) -> pd.DataFrame:
    """A system's scores on a set of photos, as in the paper's tables 4, 5, 6 and 8, with the paper's for comparison.

    One row per noise, at its mean intensity, and statistic over the images, average or maximum; for several seeds, the
    mean of their averages and of their maxima. `photo_set` is a set in the evaluation's summary, such as "validation"
    or "evaluation/test". The paper's columns are missing if the system removes other noise than the paper's.
    """
    paper = paper_table(system.config, photo_set)
    at_mean = study.summary[study.summary["set"] == photo_set].query("level == 'mean'")
    chosen = at_mean[at_mean["method"].isin(system.denoisers)]
    rows = []
    for noise in system.config.noises:
        means = chosen[chosen["kind"] == noise.key].mean(numeric_only=True)
        for over, statistic in (("average", "mean"), ("maximum", "max")):
            row: dict[str, Any] = {"noise": KIND_NAMES.get(noise.key, noise.key), "over the images": over}
            for name in ("PSNR", "SSIM"):
                column = f"{name.lower()}_{statistic}"
                ours = row[name] = means[column]
                if paper is not None:
                    theirs = paper.loc[noise.key][column]
                    row |= {f"{name}, paper": theirs, f"{name}, difference": ours - theirs}
            rows.append(row)
    return pd.DataFrame(rows)


def methods_table(study: StudyFiles, photo_set: str) -> pd.DataFrame:
    """Every method's averages on a set of photos at mean intensity: one row per noise task and method."""
    tables = []
    at_mean = study.summary[study.summary["set"] == photo_set].query("level == 'mean'")
    for _, rows in at_mean.groupby("task", sort=False):
        table = _by_kind(rows).rename_axis(index="method", columns=None)
        if rows["intensity"].notna().all():
            table.insert(0, "intensities", ", ".join(map(short, rows.drop_duplicates("kind")["intensity"])))
        tables.append(table.reset_index())
    return pd.concat(tables, ignore_index=True)


def arms_table(study: StudyFiles) -> pd.DataFrame:
    """A comparison's arms on the evaluation photos: mean and deviation over seeds, and difference to the first arm.

    One row per arm, noise and level. A seed's score is its mean over the images; deviations are sample deviations over
    the seeds that did not fail. `difference` is to the first arm that removes the same noise, `…_low` and `…_high` are
    its 95 % confidence interval (Welch's t-test).
    """
    systems = study.systems()
    measures = [*measures_of(study.summary), *(["colour_drift"] if "colour_drift_mean" in study.summary else [])]
    rows = []
    for system in systems:
        reference = next(one for one in systems if one.task == system.task)
        of_task = study.summary.query("set == 'evaluation' and task == @system.task")
        for (kind, level, intensity), group in of_task.groupby(["kind", "level", "intensity"], sort=False):
            row = {"arm": system.arm, "kind": kind, "level": level, "intensity": intensity}
            row |= {"seeds": len(system.denoisers), "failed": len(system.trials) - len(system.denoisers)}
            own, first = (group[group["method"].isin(one.denoisers)] for one in (system, reference))
            for measure in measures:
                ours, theirs = own[f"{measure}_mean"], first[f"{measure}_mean"]
                row |= {f"{measure}_mean": ours.mean(), f"{measure}_deviation": ours.std()}
                difference, low, high = [math.nan] * 3 if system is reference else _difference(ours, theirs)
                row |= {f"{measure}_difference": difference}
                row |= {f"{measure}_difference_low": low, f"{measure}_difference_high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def _difference(ours: pd.Series[float], theirs: pd.Series[float]) -> tuple[float, float, float]:
    """The difference of two means, with its 95 % confidence interval for unequal variances (Welch, 1947)."""
    low = high = math.nan
    # A single seed has no variance.
    if ours.var() + theirs.var() > 0:
        low, high = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    return ours.mean() - theirs.mean(), low, high


def front_table(study: StudyFiles) -> pd.DataFrame:
    """The Pareto front of a search with several objectives, best first by the first objective.

    `winner` marks the compromise, whose configuration the winner was trained with.
    """
    good = study.good_trials()
    rows = good.iloc[pareto_front(good[study.objectives].to_numpy().tolist(), study.objectives)]
    rows = rows.sort_values(study.objectives[0], ascending=study.objectives[0] in LESS_IS_BETTER, ignore_index=True)
    table = rows[["trial", *study.objectives, *study.record["space"]]]
    table.insert(1, "winner", np.where(table["trial"] == study.record["best_trial"]["trial"], "chosen", ""))
    return table


def duration(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def counted(count: int, what: str) -> str:
    """Such as "1 epoch" and "2 epochs"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def short(value: object) -> str:
    """A value for people: four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
