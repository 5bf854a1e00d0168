"""The tables of a report."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from raygan.study.files import StudyFiles, System
from raygan.report.paper import paper_table
from raygan.study.objectives import LESS_IS_BETTER, front

KIND_NAMES = {"gaussian": "Gaussian", "salt_and_pepper": "salt & pepper", "speckle": "speckle"}
METHOD_NAMES = {
    "noisy": "noisy input",
    "median": "median filter 3x3",
    "nonlocal_means": "non-local means",
    "total_variation": "total variation",
    "bm3d": "BM3D",
    "raygan": "RayGAN",
}
MEASURES = ("psnr", "ssim")
"""What every evaluation measures, and the paper did."""
KINDS_A_ROW = 3
"""Columns of a table in the terminal."""
VGG_DISTANCE = (
    "vgg_distance (lower is better, 0 for equal images) is the idea of LPIPS without its learned weights and its "
    "deeper layers: squared differences of VGG19's conv1_2 and conv2_2 features, scaled to unit length at each "
    "position, averaged over positions and both layers; it compares only where the weights are the same."
)
ARM_STATISTICS = ("mean", "deviation", "difference", "difference_low", "difference_high")


def measures_of(study: StudyFiles) -> tuple[str, ...]:
    """What the study's evaluation measured; `vgg_distance` only where it had VGG19's weights."""
    return (*MEASURES, "vgg_distance") if "vgg_distance_mean" in study.summary else MEASURES


def result_table(study: StudyFiles) -> str:
    """Every measure's mean (PSNR in dB) per noise kind at its mean intensity, a row a method, the paper's v1 below."""
    at_mean = study.summary[(study.summary["level"] == "mean") & (study.summary["set"] == "evaluation")]
    kinds = list(at_mean["kind"].unique())
    images = int(at_mean["images"].iloc[0])
    others = measures_of(study)[1:]
    width = 20 if others == ("ssim",) else 28
    lines = [f"{f'mean of {images} photos, mean intensity':<36}" + "".join(f"{kind:>{width}}" for kind in kinds)]
    for method in at_mean["method"].unique():
        rows = at_mean[at_mean["method"] == method].set_index("kind")
        scores = (
            " / ".join([f"{rows['psnr_mean'][kind]:.2f} dB", *(f"{rows[f'{one}_mean'][kind]:.3f}" for one in others)])
            for kind in kinds
        )
        lines.append(f"{METHOD_NAMES.get(method, method):<36}" + "".join(f"{score:>{width}}" for score in scores))
    paper = paper_table(study.config, "evaluation")
    if paper is not None:
        scores = (f"{paper.scores[kind].psnr_mean:.2f} dB / {paper.scores[kind].ssim_mean:.3f}" for kind in kinds)
        lines.append(
            f"{f'the paper: {paper.system} on {paper.photos}':<36}" + "".join(f"{score:>{width}}" for score in scores)
        )
    if "vgg_distance" in others:
        lines.append("PSNR / SSIM / vgg_distance (lower is better)")
    return "\n".join(lines)


def evaluation_table(summary: pd.DataFrame) -> str:
    """Every method's means over the evaluation photos: a table a level, a row a method, seconds an image at its end."""
    evaluated = summary[summary["set"] == "evaluation"]
    measures = [one for one in (*MEASURES, "vgg_distance") if f"{one}_mean" in summary]
    lines = []
    all_kinds = list(evaluated["kind"].unique())
    parts = [all_kinds[first : first + KINDS_A_ROW] for first in range(0, len(all_kinds), KINDS_A_ROW)]
    for level, kinds in itertools.product(evaluated["level"].unique(), parts):
        of_level = evaluated[(evaluated["level"] == level) & evaluated["kind"].isin(kinds)]
        heading = f"{level} intensity, {of_level['images'].iloc[0]} photos"
        labels = [KIND_NAMES.get(kind, kind) for kind in kinds]
        width = max(12 + 8 * (len(measures) - 1), *(len(label) + 2 for label in labels))
        names = "".join(f"{label:>{width}}" for label in labels)
        lines += [f"{heading:<36}{names}{'seconds':>10}"]
        for method, rows in of_level.groupby("method", sort=False):
            scores = rows.set_index("kind")
            cells = (
                " / ".join(f"{scores[f'{one}_mean'][kind]:.{2 if one == 'psnr' else 3}f}" for one in measures)
                for kind in kinds
            )
            row = "".join(f"{cell:>{width}}" for cell in cells)
            lines.append(f"{METHOD_NAMES.get(str(method), str(method)):<36}{row}{rows['seconds_mean'].mean():>10.3f}")
        lines.append("")
    return "\n".join([*lines, f"Means of {' / '.join(measures)}, and of the seconds that a photo took."])


def scores_beside_the_papers(study: StudyFiles, system: System, photo_set: str) -> pd.DataFrame:
    """A system's scores on a set of photos as in the paper's tables 4, 5, 6 and 8, beside the paper's.

    A row a noise kind, at its mean intensity, and average or maximum over the images; of several seeds, the mean of
    their averages and of their maxima. `photo_set` is a set in the evaluation's summary, such as "validation" or
    "evaluation/test". Without the paper's columns where the system removes other noise than the paper's.
    """
    paper = paper_table(system.config, photo_set.partition("/")[0])
    chosen = study.summary[
        (study.summary["set"] == photo_set)
        & (study.summary["level"] == "mean")
        & study.summary["method"].isin(system.denoisers)
    ]
    rows = []
    for kind in system.config.noise.kinds:
        scores = chosen[chosen["kind"] == kind]
        for over, statistic in (("average", "mean"), ("maximum", "max")):
            row: dict[str, Any] = {"noise": KIND_NAMES[kind], "over the images": over}
            for measure in MEASURES:
                name, ours = measure.upper(), float(scores[f"{measure}_{statistic}"].mean())
                row[name] = ours
                if paper is not None:
                    theirs = float(getattr(paper.scores[kind], f"{measure}_{statistic}"))
                    row |= {f"{name}, paper": theirs, f"{name}, difference": ours - theirs}
            rows.append(row)
    return pd.DataFrame(rows)


def methods_table(study: StudyFiles, photo_set: str) -> pd.DataFrame:
    """Every method's averages on a set of photos at mean intensity: a row a noise task and method, a column a kind."""
    chosen = study.summary[(study.summary["set"] == photo_set) & (study.summary["level"] == "mean")]
    rows = []
    for (_, method), of_method in chosen.groupby(["task", "method"], sort=False):
        kinds = of_method.set_index("kind")
        row = {
            "method": METHOD_NAMES.get(str(method), str(method)),
            "intensities": ", ".join(f"{intensity:.4g}" for intensity in kinds["intensity"]),
        }
        row |= {
            KIND_NAMES[str(kind)]: " / ".join([f"{psnr:.2f}", *(f"{score:.3f}" for score in others)])
            for kind, psnr, *others in kinds[[f"{measure}_mean" for measure in measures_of(study)]].itertuples()
        }
        rows.append(row)
    return pd.DataFrame(rows)


def arms_table(study: StudyFiles) -> pd.DataFrame:
    """A comparison's arms on the evaluation photos: mean and deviation over seeds, and the difference to the first arm.

    A row an arm, noise kind and level. A seed's score is its mean over the images; deviations are over seeds (sample
    deviation), of those that did not fail. `difference` is to the first arm that removes the same noise, `…_low` and
    `…_high` its 95 % interval (Welch's t).
    """
    summary = study.summary[study.summary["set"] == "evaluation"]
    systems = study.systems()
    rows = []
    for system in systems:
        reference = next(one for one in systems if one.task == system.task)
        of_task = summary[summary["task"] == system.task]
        for (kind, level, intensity), group in of_task.groupby(["kind", "level", "intensity"], sort=False):
            row = {"arm": system.arm, "kind": kind, "level": level, "intensity": intensity}
            row |= {"seeds": len(system.denoisers), "failed": system.failed}
            for measure in _arms_measures(study):
                ours, theirs = (
                    group[group["method"].isin(one.denoisers)][f"{measure}_mean"].to_numpy()
                    for one in (system, reference)
                )
                row |= {f"{measure}_mean": _mean(ours), f"{measure}_deviation": _deviation(ours)}
                if system is not reference:
                    low, high = _welch_interval(ours, theirs)
                    row |= {
                        f"{measure}_difference": _mean(ours) - _mean(theirs),
                        f"{measure}_difference_low": low,
                        f"{measure}_difference_high": high,
                    }
            rows.append(row)
    columns = [f"{measure}_{statistic}" for measure in _arms_measures(study) for statistic in ARM_STATISTICS]
    return pd.DataFrame(rows, columns=["arm", "kind", "level", "intensity", "seeds", "failed", *columns])


def _arms_measures(study: StudyFiles) -> tuple[str, ...]:
    """What arms are compared by: of evaluations before there was one, without the drift of the mean colour."""
    drift = ("colour_drift",) if "colour_drift_mean" in study.summary else ()
    return (*measures_of(study), *drift)


def front_table(study: StudyFiles) -> pd.DataFrame:
    """The trials of a search for several objectives that no other trial beats, best first by the first objective.

    `winner` marks the compromise, whose configuration the winner was trained with.
    """
    good = study.trials[(study.trials["state"] != "failed") & study.trials["val_psnr"].notna()]
    rows = good.iloc[front(good[study.objectives].to_numpy().tolist(), study.objectives)]
    rows = rows.sort_values(study.objectives[0], ascending=study.objectives[0] in LESS_IS_BETTER)
    chosen = rows["trial"].eq(study.record["best_trial"]["trial"]).map({True: "chosen", False: ""})
    table = rows[["trial", *study.objectives, *study.record["space"]]].reset_index(drop=True)
    table.insert(1, "winner", chosen.to_list())
    return table


def short(value: object) -> str:
    """A configuration value for people: four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _deviation(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _welch_interval(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the difference of two means, without assuming equal variances (Welch, 1947)."""
    if min(len(ours), len(theirs)) < 2:
        return math.nan, math.nan
    errors = np.array([values.var(ddof=1) / len(values) for values in (ours, theirs)])
    if not errors.any():
        return math.nan, math.nan
    degrees = errors.sum() ** 2 / (errors**2 / [len(ours) - 1, len(theirs) - 1]).sum()
    half = float(stats.t.ppf(0.975, degrees) * math.sqrt(errors.sum()))
    difference = _mean(ours) - _mean(theirs)
    return difference - half, difference + half
