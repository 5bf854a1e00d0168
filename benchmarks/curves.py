"""Records real learning curves for `benchmarks/search.py`: `python benchmarks/curves.py`, over an hour on two cores.

Every point of a grid of learning rates, β1 and adversarial weight is trained once, by RayGAN itself, with the networks
of `--quick` on its generated photos, and resumes where it was stopped. `curves.csv` is a tabular benchmark, of use to
others too: one row per configuration, with its values and the val PSNR (dB, mean over three noise kinds at three
intensities) after each of 27 epochs of 8 steps; empty from where a training diverged.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pandas as pd
from optuna.distributions import CategoricalDistribution

from raygan.config.section import with_values
from raygan.presets import PAPER_V1, QUICK
from raygan.search.experiment import Search
from raygan.search.study import run_study
from raygan.study.storage import Folder

GRID: dict[str, tuple[float, ...]] = {
    "optimizers/generator/learning_rate": (1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2, 10**-1.5),
    "optimizers/generator/beta1": (0.0, 0.45, 0.9),
    "optimizers/discriminator/learning_rate": (1e-4, 1e-3, 1e-2),
    "loss/adversarial_weight": (1e-4, 1e-3, 1e-2, 1e-1),
}
EPOCHS = 27
CURVES = Path(__file__).with_name("curves.csv")
CONFIG = with_values(
    PAPER_V1,
    {
        **QUICK,
        "training/batch_size": 8,
        "training/steps_per_epoch": 8,
        "training/epochs": EPOCHS,
        "data/val_crops": 8,
    },
)
SEARCH = Search(
    name="curves",
    config=CONFIG,
    space={path: CategoricalDistribution(values) for path, values in GRID.items()},
    first_points=[
        with_values(CONFIG, dict(zip(GRID, point, strict=True))) for point in itertools.product(*GRID.values())
    ],
    trials=len(list(itertools.product(*GRID.values()))),
    trial_epochs=EPOCHS,
    search_algorithm="random",
    scheduler="none",
)


def write_table(folder: Folder) -> None:
    """Write `curves.csv` from the study's folder."""
    trials, metrics = (pd.read_csv(f"{folder.path}/{name}.csv") for name in ("trials", "metrics"))
    curves = metrics.pivot_table(index="trial", columns="epoch", values="val_psnr")
    curves = curves.rename(columns=lambda epoch: f"epoch_{epoch}").round(3).reset_index()
    table = trials[["trial", *GRID]].merge(curves, on="trial", how="left").drop(columns="trial")
    table.sort_values(list(GRID)).to_csv(CURVES, index=False, float_format="%.6g")
    print(f"{len(table)} curves in {CURVES}")


if __name__ == "__main__":
    write_table(run_study(SEARCH, sys.argv[1] if len(sys.argv) > 1 else "studies"))
