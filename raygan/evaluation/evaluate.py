"""Evaluating denoisers on the running cluster, with tables and pictures in a folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from raygan.config.kinds import LEVELS, Level
from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.photos import evaluation_photos
from raygan.evaluation.classical import filters_named
from raygan.evaluation.job import EvaluationSettings, EvaluationTask, evaluate
from raygan.evaluation.out_of_distribution import OUT_OF_DISTRIBUTION
from raygan.evaluation.perceptual import Lpips
from raygan.evaluation.tables import summarize, tabulate
from raygan.study.storage import Folder
from raygan.train.checkpoint import load_generator
from raygan.weights import SHIPPED, denoiser_folder

if TYPE_CHECKING:
    from ray.data import Dataset


def write_evaluation(
    photos: Dataset, tasks: Sequence[EvaluationTask], settings: EvaluationSettings, config: Config, folder: Folder
) -> pd.DataFrame:
    """Evaluate on the running cluster, and write `per_image.csv`, `summary.csv` and `pictures/`; returns the summary.

    `photos` are those of `evaluate`. `config` gives the name of the evaluation photos' source and the resources of one
    evaluating process.
    """
    import ray

    from raygan.train.cluster import resources, trials_at_once

    count = photos.count()
    actors = min(trials_at_once(with_values(config, {"hardware/workers": 1})), count)
    tables = []
    for index, task in enumerate(tasks):
        denoisers = "1 denoiser" if len(task.denoisers) == 1 else f"{len(task.denoisers)} denoisers"
        levels = ", ".join(settings.levels)
        print(f"\nEvaluation of {denoisers}: {count} photos ({config.data.evaluate_on.key}), noise levels {levels}")
        # As a Ray task, so that the job runs, and writes its logs, on the cluster.
        run = ray.remote(num_cpus=0, num_returns="streaming")(evaluate)
        rows = map(ray.get, run.remote(photos, task, settings, resources(config), actors))
        # A line now and then where each is kept, as in a log file.
        pace = 0.1 if sys.stderr.isatty() else 20
        table, pictures = tabulate(tqdm(rows, "evaluation", count, unit="photo", mininterval=pace))
        table.insert(0, "task", index)
        table["picture"] = table["picture"].map(lambda name, index=index: f"{index}-{name}" if name else "")
        tables.append(table)
        for name, png in pictures.items():
            folder.write(f"pictures/{index}-{name}", png)
    per_image = pd.concat(tables, ignore_index=True)
    summary = summarize(per_image)
    folder.write("per_image.csv", per_image.to_csv(index=False))
    folder.write("summary.csv", summary.to_csv(index=False))
    return summary


def evaluate_checkpoints(
    checkpoints: Sequence[str] = (SHIPPED,),
    evaluate_on: str = "bsd300",
    output: str = "evaluation",
    filters: Sequence[str] = ("median",),
    levels: Sequence[Level] = LEVELS,
    *,
    lpips: bool = False,
    out_of_distribution: bool = False,
) -> pd.DataFrame:
    """Compare denoisers with each other, the noisy input and classical filters; returns the summary.

    `checkpoints` are folders such as STUDY/best, or s3:// or gs:// prefixes; `evaluate_on` is the name of a source of
    photos, a folder or a prefix, and `output` the folder of `write_evaluation`. The noises are those that the first
    denoiser was trained on, or else `OUT_OF_DISTRIBUTION`. Raises `FilterError`, `LpipsError`, `DenoiserError`,
    `PhotosError` and `StorageError`.
    """
    from raygan.train.cluster import resolved_device, start_ray

    chosen = filters_named(filters)
    folders = {"raygan" if len(checkpoints) == 1 else path: Folder(denoiser_folder(path)) for path in checkpoints}
    configs = [load_generator(folder)[1] for folder in folders.values()]
    values = {"hardware/device": "auto", "hardware/workers": 1, "data/evaluate_on": evaluate_on}
    config = with_values(configs[0], values)
    settings = EvaluationSettings(chosen, tuple(levels), Lpips() if lpips else None)
    Folder(output).require_writable()
    start_ray()
    photos = evaluation_photos(config.data.evaluate_on)
    denoisers = {name: (one.generator, folder) for one, (name, folder) in zip(configs, folders.items(), strict=True)}
    task = EvaluationTask(OUT_OF_DISTRIBUTION if out_of_distribution else config.noises, denoisers)
    return write_evaluation(photos, [task], settings, resolved_device(config), Folder(output))
