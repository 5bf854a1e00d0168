"""The tables of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from raygan.evaluation.job import Row

SETS = ("training", "validation", "evaluation")
BEST = {"psnr": "max", "ssim": "max", "colour_drift": "min", "lpips": "min"}
"""Statistic that gives the best of several images' values, by metric."""


def tabulate(photos: Iterable[list[Row]]) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """The rows that `raygan.evaluation.job.evaluate` yields as a table, and the pictures by file name.

    The table has one row per image, noise (`kind`), level and method (`noisy`, the classical filters, and each
    denoiser's name), with the columns image, set, kind, level, intensity, method, psnr (dB), ssim, colour_drift, lpips
    (if it was computed), seconds (what the method took) and picture (the file that shows the row). Pictures are PNG
    files: clean, noisy, and each method's result side by side, at the mean level.
    """
    in_order = sorted(photos, key=lambda rows: (SETS.index(rows[0]["set"]), rows[0]["image"]))
    table = pd.DataFrame([row for rows in in_order for row in rows])
    pictures = {picture: png for picture, png in zip(table["picture"], table["png"], strict=True) if png}
    return table.drop(columns="png"), pictures


def summarize(per_image: pd.DataFrame) -> pd.DataFrame:
    """Mean and best value of each metric over the images of each set.

    `per_image` has the rows of `tabulate` and the column `task`, the number of the evaluation task. The result has the
    columns task, set, kind, level, intensity, method, images, then psnr_mean, psnr_max, ssim_mean, ssim_max, the same
    of the other metrics that there are, with their minimum, and seconds_mean if there are seconds. If the evaluation
    photos are in several folders, each folder is a set as well, "evaluation/<folder>".
    """
    parts = [per_image]
    evaluated = per_image[per_image["set"] == "evaluation"]
    folders = evaluated["image"].str.rpartition("/")[0]
    if folders.nunique() > 1:
        parts.append(evaluated.assign(set="evaluation/" + folders))
    groups = pd.concat(parts).groupby(["task", "set", "kind", "level", "intensity", "method"], sort=False)
    statistics = {
        f"{metric}_{statistic}": (metric, statistic)
        for metric, best in BEST.items()
        if metric in per_image
        for statistic in ("mean", best)
    }
    seconds = {"seconds_mean": ("seconds", "mean")} if "seconds" in per_image else {}
    return groups.agg(**{"images": ("image", "size"), **statistics, **seconds}).reset_index()
