"""A study's folder to tables; reads files only."""

from __future__ import annotations

import io
import json

import pandas as pd

from raygan.errors import InputError
from raygan.storage import Folder


class ReportError(InputError):
    """A folder holds no study, or one that has not finished."""


def final_report(folder: Folder) -> str:
    """What a finished study found: scores at each kind's mean intensity, the best configuration, the files.

    Raises `ReportError` where there is no finished study.
    """
    if not folder.exists("evaluation/summary.csv"):
        raise ReportError(
            f"{folder} holds no finished study (no evaluation/summary.csv): give the folder "
            "STORAGE/NAME of one, or run its search to the end"
        )
    study = json.loads(folder.read("study.json"))
    summary = pd.read_csv(io.BytesIO(folder.read("evaluation/summary.csv")))
    lines = [result_table(summary), "", "Best configuration:"]
    lines += [f"  {path} = {short(value)}" for path, value in study["best_trial"]["values"].items()]
    lines += ["", "Written:"]
    lines += [
        f"  {folder}/{name:<27} {what}"
        for name, what in (
            ("study.json", "configuration, space, seeds, versions, status"),
            ("trials.csv, metrics.csv", "every trial; every trial's epochs"),
            ("best/", "the denoiser: weights, configuration, metrics"),
            ("evaluation/", "per image, summary, pictures"),
            ("tensorboard/", f"tensorboard --logdir {folder}/tensorboard"),
        )
    ]
    return "\n".join(lines)


def result_table(summary: pd.DataFrame) -> str:
    """PSNR (dB) and SSIM per noise kind at its mean intensity, a row a method, from an evaluation's summary."""
    at_mean = summary[summary["level"] == "mean"]
    kinds = list(at_mean["kind"].unique())
    images = int(at_mean["images"].iloc[0])
    names = {"noisy": "noisy input", "median": "median filter 3x3", "raygan": "RayGAN, best trial"}
    lines = [f"{f'mean of {images} photos, mean intensity':<36}" + "".join(f"{kind:>20}" for kind in kinds)]
    for method in at_mean["method"].unique():
        rows = at_mean[at_mean["method"] == method].set_index("kind")
        scores = (f"{rows['psnr_mean'][kind]:.2f} dB / {rows['ssim_mean'][kind]:.3f}" for kind in kinds)
        lines.append(f"{names.get(method, method):<36}" + "".join(f"{score:>20}" for score in scores))
    return "\n".join(lines)


def short(value: object) -> str:
    """A configuration value for people: four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
