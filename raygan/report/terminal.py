"""What the terminal shows at a study's end."""

from __future__ import annotations

import math

import pandas as pd

from raygan.study.files import StudyFiles
from raygan.report.paper import SYSTEMS
from raygan.report.tables import KIND_NAMES, arms_table, result_table, short
from raygan.config.section import flat_values
from raygan.study.storage import Folder


def final_report(folder: Folder) -> str:
    """What a finished study found: scores, the best configuration or the arms' comparison, the files.

    Raises `ReportError` where there is no finished study.
    """
    study = StudyFiles.finished(folder)
    if study.arms is None:
        values = study.record["best_trial"]["values"]
        lines = [result_table(study), *_search_in_short(study), ""]
        lines += ["Best configuration:" if values else "The base configuration, as it is (see best/config.json)"]
        lines += [f"  {path} = {short(value)}" for path, value in values.items()]
        denoisers = ("best/", "the denoiser: weights, configuration, metrics")
    else:
        lines = [comparison(study)]
        denoisers = ("denoisers/", "each trial's best epoch: weights, configuration, metrics")
    lines += ["", "Written:"]
    lines += [
        f"  {folder}/{name:<27} {what}"
        for name, what in (
            ("study.json", "configuration, space or arms, seeds, versions, status"),
            ("trials.csv, metrics.csv", "every trial; every trial's epochs"),
            ("steps/", "losses and accuracies, step by step"),
            denoisers,
            ("evaluation/", "per image, summary, pictures"),
            ("tensorboard/", f"tensorboard --logdir {folder}/tensorboard"),
        )
    ]
    lines += ["", f"Tables and figures beside the paper's, as a page: raygan report {folder}"]
    return "\n".join(lines)


def _search_in_short(study: StudyFiles) -> list[str]:
    """Val PSNR at the best epoch: of the best trial, of trials at the paper's values, and of the winner."""
    if study.trials.empty:
        return []
    rows = {str(row["trial"]): row for row in study.trials.to_dict("records")}
    best = study.record["best_trial"]
    if "folder" in best:
        shown = {f"best trial ({best['trial']} of {best['folder']})": best}
    else:
        shown = {f"best trial ({best['trial']})": rows[best["trial"]]}
    for name, system in SYSTEMS.items():
        values = flat_values(system)
        # Values that depend on others are in the space only where these are so.
        space = study.record["space"].items()
        searched = [path for path, one in space if "when" not in one or values[one["when"]] == one["is"]]
        for trial, row in rows.items():
            if all(str(row[path]) == str(values[path]) for path in searched):
                shown[f"with the paper's {name} values ({trial})"] = row
    lines = ["", "val PSNR at the best epoch"]
    for name, row in shown.items():
        stopped = ", stopped early" if row["state"] == "pruned" else ""
        lines.append(f"  {name:<44}{row['val_psnr']:>7.2f} dB in {row['epochs']} epochs{stopped}")
    epochs = study.systems()[0].epochs
    lines.append(f"  {'winner':<44}{epochs['val_psnr'].max():>7.2f} dB in {len(epochs)} epochs")
    return lines


def comparison(study: StudyFiles) -> str:
    """A comparison's arms for each level, kind by kind, and their differences to the first arm."""
    table = arms_table(study)
    images = study.summary.loc[study.summary["set"] == "evaluation", "images"].iloc[0]
    seeds = study.record["seeds"]
    width = max(24, *(len(arm) + 4 for arm in table["arm"].unique()))
    distance = "vgg_distance_mean" in table
    cell = 32 if distance else 28
    title = f"{study.name}: mean ± deviation over {seeds} seeds" if seeds > 1 else f"{study.name}: one seed"
    lines = [f"{title}, {images} photos", ""]
    for level in table["level"].unique():
        rows = table[table["level"] == level]
        names = (KIND_NAMES[kind] for kind in rows["kind"].unique())
        lines.append(f"{f'{level} intensity':<{width}}" + "".join(f"{name:>{cell}}" for name in names))
        for arm, of_arm in rows.groupby("arm", sort=False):
            lines.append(f"  {arm:<{width - 2}}" + "".join(f"{_score(row):>{cell}}" for _, row in of_arm.iterrows()))
            if of_arm["psnr_difference"].notna().any():
                cells = (f"{_difference(row):>{cell}}" for _, row in of_arm.iterrows())
                lines.append(f"{'    difference':<{width}}" + "".join(cells))
    failed = table.groupby("arm", sort=False)["failed"].first()
    lines += [f"{arm}: {count} of {seeds} seeds failed and are left out" for arm, count in failed.items() if count]
    measured = "PSNR in dB, SSIM, and vgg_distance (lower is better)" if distance else "PSNR in dB, and SSIM"
    lines += ["", f"{measured}. Differences are to the first arm with the same noise."]
    if table["psnr_difference_low"].notna().any():
        lines += [
            "In brackets their 95 % interval (Welch). * marks those whose interval leaves out 0: of differences that",
            "are nothing but luck, one in twenty does.",
        ]
    return "\n".join(lines)


def _score(row: pd.Series) -> str:
    if math.isnan(row["psnr_mean"]):
        return "failed"
    deviation = "" if math.isnan(row["psnr_deviation"]) else f" ± {row['psnr_deviation']:.2f}"
    distance = f" / {row['vgg_distance_mean']:.3f}" if "vgg_distance_mean" in row else ""
    return f"{row['psnr_mean']:.2f}{deviation} / {row['ssim_mean']:.3f}{distance}"


def _difference(row: pd.Series) -> str:
    low, high = row["psnr_difference_low"], row["psnr_difference_high"]
    if math.isnan(low):
        return f"{row['psnr_difference']:+.2f}"
    mark = "*" if low > 0 or high < 0 else " "
    return f"{row['psnr_difference']:+.2f} ({low:+.2f} … {high:+.2f}){mark}"
