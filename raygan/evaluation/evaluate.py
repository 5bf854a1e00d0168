"""Evaluating denoisers on the running cluster, with tables and pictures in a folder."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from raygan.config.kinds import Noise, PairSource
from raygan.config.run import MAX_MEGAPIXELS, PAIRS, Config, HardwareConfig
from raygan.config.section import with_values
from raygan.data.pairs import evaluation_pairs
from raygan.data.photos import evaluation_photos
from raygan.evaluation.job import PICTURES, EvaluationSettings, EvaluationTask, Row, evaluate
from raygan.evaluation.protocols import Protocol
from raygan.storage import Folder
from raygan.train.denoisers import load_generator
from raygan.weights import DEFAULT, denoiser_folder

if TYPE_CHECKING:
    from ray.data import Dataset

SETS = ("training", "validation", "evaluation", PAIRS)
BEST = {"psnr": "max", "ssim": "max", "colour_drift": "min", "lpips": "min"}
"""Statistic that gives the best of several images' values, by metric."""


def write_evaluation(
    photos: Dataset, tasks: Sequence[EvaluationTask], settings: EvaluationSettings, config: Config, folder: Folder
) -> pd.DataFrame:
    """Evaluate on the running cluster, and write `per_image.csv`, `summary.csv` and `pictures/`; returns the summary.

    `photos` are those of `evaluate`. `config` gives the name of the evaluation photos' source, the device and, on
    GPUs, the resources of one evaluating process; on CPUs, each has one core.
    """
    import ray

    from raygan.train.cluster import resources, trials_at_once

    # `Dataset.unique` takes seconds longer, even for ten photos.
    sets = [row["set"] for row in photos.select_columns(["set"]).take_all()]
    count = len(sets)
    config = with_values(config, {"hardware/workers": 1, "data/cache": "memory"})
    if config.hardware.device == "cpu":
        # However many cores a training worker has: photos are independent, and one core each leaves none idle.
        config = with_values(config, {"hardware/cpus_per_worker": 1})
    actors = min(trials_at_once(config), count)
    tables, pictures = [], dict[str, bytes]()
    for index, task in enumerate(tasks):
        denoisers = "1 denoiser" if len(task.denoisers) == 1 else f"{len(task.denoisers)} denoisers"
        levels = ", ".join(settings.levels)
        where = f"{count} photos ({config.data.evaluate_on.key}), noise levels {levels}"
        if set(sets) == {PAIRS}:
            where = f"{count} pairs ({config.data.evaluate_on.key})"
        print(f"\nEvaluation of {denoisers}: {where}")
        # As a Ray task, so that the job runs, and writes its logs, on the cluster.
        run = ray.remote(num_cpus=0, num_returns="streaming")(evaluate)
        rows = map(ray.get, run.remote(photos, task, settings, resources(config), actors))
        # A line now and then where each is kept, as in a log file.
        pace = 0.1 if sys.stderr.isatty() else 5
        # All arms with these noises may have failed.
        judged = next(iter(task.denoisers), "noisy")
        table, of_task = tabulate(tqdm(rows, "evaluation", count, unit="photo", mininterval=pace), judged)
        table.insert(0, "task", index)
        pictures |= {f"{index}-{name}": png for name, png in of_task.items()}
        tables.append(table.replace({"picture": {name: f"{index}-{name}" for name in of_task}}))
    per_image = pd.concat(tables, ignore_index=True)
    summary = summarize(per_image)
    # It tells that an evaluation is whole, and comes last.
    _delete_earlier(folder)
    folder.write("per_image.csv", per_image.to_csv(index=False))
    for name, png in pictures.items():
        folder.write(f"pictures/{name}", png)
    folder.write("summary.csv", summary.to_csv(index=False))
    return summary


def evaluate_checkpoints(
    checkpoints: Sequence[str] = (DEFAULT,),
    evaluate_on: str | PairSource = "bsd300",
    output: str = "evaluation",
    settings: EvaluationSettings | None = None,
    *,
    max_megapixels: int = MAX_MEGAPIXELS,
    noises: tuple[Noise, ...] | None = None,
    protocol: Protocol | None = None,
) -> pd.DataFrame:
    """Compare denoisers with each other, the noisy input and classical filters; returns the summary.

    `checkpoints` are folders such as STUDY/best, or s3:// or gs:// prefixes; `evaluate_on` is the name of a source of
    photos, a folder or a prefix, of which larger photos than `max_megapixels` are skipped, or a source of pairs of
    noisy and clean photos; `output` is the folder of `write_evaluation`. `noises` are by default those that the first
    denoiser was trained on; a `protocol` has its own. Raises `DenoiserError`, `PhotosError` and `StorageError`.
    """
    from raygan.train.cluster import resolved_device, start_ray

    folders = {"raygan" if len(checkpoints) == 1 else path: Folder(denoiser_folder(path)) for path in checkpoints}
    loaded = {name: load_generator(folder) for name, folder in folders.items()}
    first = next(iter(loaded.values()))[1]
    source = evaluate_on.key if isinstance(evaluate_on, PairSource) else evaluate_on
    # The machine that it was trained on need not be this one.
    config = replace(with_values(first, {"data/evaluate_on": source}), hardware=HardwareConfig())
    Folder(output).require_writable()
    start_ray()
    if isinstance(evaluate_on, PairSource):
        photos = evaluation_pairs(evaluate_on, max_megapixels)
    else:
        photos = evaluation_photos(config.data.evaluate_on, max_megapixels)
    denoisers = {name: (network, one.generator.stride) for name, (network, one) in loaded.items()}
    task = EvaluationTask(noises or config.noises, denoisers)
    if protocol is not None:
        photos, task = protocol.photos_of(photos), EvaluationTask((protocol.noise,), denoisers, clipped=False)
    return write_evaluation(photos, [task], settings or EvaluationSettings(), resolved_device(config), Folder(output))


def _delete_earlier(folder: Folder) -> None:
    """Delete the summary and the pictures of an earlier evaluation."""
    files = ["summary.csv"]
    # No more than it is known to have written.
    with contextlib.suppress(FileNotFoundError, KeyError, ValueError):
        pictures = pd.read_csv(io.BytesIO(folder.read("per_image.csv")))["picture"]
        files += [f"pictures/{name}" for name in pictures.dropna().unique()]
    for name in filter(folder.exists, files):
        folder.delete(name)


def tabulate(photos: Iterable[list[Row]], judged: str) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """The rows that `evaluate` yields as a table, and the pictures by file name.

    The table has one row per image, noise (`kind`), level and method (`noisy`, the classical filters, and each
    denoiser's name), with the columns image, set, kind, level, intensity, method, psnr (dB), ssim, colour_drift, lpips
    (if it was computed; NaN but at the mean level), seconds (what the method took) and picture (the file that shows
    the row). Pictures are PNG files: clean, noisy, and each method's result side by side, at the mean level, of the
    first evaluation photos and pairs, and of those that the denoiser `judged` denoises worst and best, for each noise.
    """
    in_order = sorted(photos, key=lambda rows: (SETS.index(rows[0]["set"]), rows[0]["image"]))
    table = pd.DataFrame([row for rows in in_order for row in rows])
    pictures = {picture: png for picture, png in zip(table["picture"], table["png"], strict=True) if png}
    kept = _kept_pictures(table, judged)
    table["picture"] = table["picture"].where(table["picture"].isin(kept), "")
    return table.drop(columns="png"), {picture: png for picture, png in pictures.items() if picture in kept}


def _kept_pictures(table: pd.DataFrame, judged: str) -> set[str]:
    names = [table.loc[table["set"] == part, "image"].unique()[:PICTURES] for part in ("evaluation", PAIRS)]
    kept = set(table.loc[table["image"].isin([*names[0], *names[1]]), "picture"].astype(str))
    shown = table[(table["method"] == judged) & (table["picture"] != "") & table["psnr"].notna()]
    for _, rows in shown.sort_values("psnr").groupby("kind"):
        kept |= {str(rows["picture"].iloc[0]), str(rows["picture"].iloc[-1])}
    return kept


def summarize(per_image: pd.DataFrame) -> pd.DataFrame:
    """Mean and best value of each metric over the images of each set.

    `per_image` has the rows of `tabulate` and the column `task`, the number of the evaluation task. The result has the
    columns task, set, kind, level, intensity, method, images, then psnr_mean, psnr_max, ssim_mean, ssim_max, the same
    of the other metrics that there are, with their minimum, and seconds_mean if there are seconds. If the evaluation
    photos are in several folders, each folder is a set as well, "evaluation/<folder>".
    """
    parts = [per_image]
    evaluated = per_image[per_image["set"] == "evaluation"]
    folders = evaluated["image"].map(lambda name: name.rpartition("/")[0])
    if folders.nunique() > 1:
        parts.append(evaluated.assign(set="evaluation/" + folders))
    groups = pd.concat(parts).groupby(["task", "set", "kind", "level", "intensity", "method"], sort=False, dropna=False)
    statistics = [("image", "size"), *((metric, how) for metric, best in BEST.items() for how in ("mean", best))]
    known = [(column, how) for column, how in [*statistics, ("seconds", "mean")] if column in per_image]
    table = groups.agg(**{f"{column}_{how}": (column, how) for column, how in known}).reset_index()
    return table.rename(columns={"image_size": "images"})
