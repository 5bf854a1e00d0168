"""Records real learning curves for `benchmarks/search.py`: `python benchmarks/curves.py 1`, or `2 PART`.

Every configuration is trained once, by RayGAN itself, on its generated photos, and resumes where it was stopped; all of
it takes hours on two cores. The tables are benchmarks of use to others too: one row per configuration, with its values
and the val PSNR (dB, mean over three noise kinds at three intensities) after each of 27 epochs of 8 steps; empty from
where a training diverged.

1. `curves.csv`: a grid of learning rates, β1 and adversarial weight, with the networks of `--quick`.
2. `curves-2.csv`: random configurations, in which the network, the losses, the schedule and the noise's sampling vary
   too. A value that means nothing beside others is empty. `operations_per_pixel` are the generator's; `seconds` are the
   training's per epoch, in the median, beside whatever else ran. `curves-2.json` describes the space. It has three
   parts, of 108 configurations and a seed each, which may be recorded on different days and machines.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import pandas as pd
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raygan.config.section import flat_values, with_values
from raygan.presets import PAPER_V1, QUICK
from raygan.search.experiment import Search
from raygan.search.prepare import prepare, read_inputs
from raygan.search.space import Space, When, distribution_of
from raygan.search.tuner import run_trials
from raygan.storage import Folder
from raygan.study.trials import Trials
from raygan.train.cluster import start_ray

GRID: dict[str, tuple[float, ...]] = {
    "optimizers/generator/learning_rate": (1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2, 10**-1.5),
    "optimizers/generator/beta1": (0.0, 0.45, 0.9),
    "optimizers/discriminator/learning_rate": (1e-4, 1e-3, 1e-2),
    "loss/adversarial_weight": (1e-4, 1e-3, 1e-2, 1e-1),
}
EPOCHS = 27
CURVES = Path(__file__).with_name("curves.csv")
CURVES_2 = Path(__file__).with_name("curves-2.csv")
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
    repeats=0,
)

SPACE_2: Space = {
    "generator": CategoricalDistribution(["UNet", "ResidualUNet"]),
    "generator/base_width": IntDistribution(8, 24, step=8),
    "generator/depth": IntDistribution(2, 4),
    "generator/blocks": When("generator", "ResidualUNet", IntDistribution(1, 2)),
    "generator/unshuffle": When("generator", "ResidualUNet", CategoricalDistribution([1, 2])),
    "generator/normalization": CategoricalDistribution(["batch", "none"]),
    "generator/residual": CategoricalDistribution([False, True]),
    "loss/adversarial_weight": FloatDistribution(1e-5, 1e-1, log=True),
    "loss/pixel_weight": CategoricalDistribution([0.0, 0.1, 1.0]),
    "optimizers/generator/learning_rate": FloatDistribution(1e-4, 3e-2, log=True),
    "optimizers/generator/beta1": FloatDistribution(0.0, 0.95),
    "optimizers/discriminator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "training/lr_schedule": CategoricalDistribution(["constant", "cosine", "wsd"]),
    "training/average_decay": CategoricalDistribution([0.0, 0.9]),
    "sampling": CategoricalDistribution(["UniformPolicy", "NormalPolicy"]),
}
# The depth of v1 has a stride above the crops' size if the resolution is halved first.
CONFIG_2 = with_values(CONFIG, {"generator/depth": 4})
PARTS = (1, 2, 3)
"""Of the second table; each is also the seed of its search."""


def search_of(part: int) -> Search:
    """The search that records a part of the second table."""
    return Search(
        name=f"curves-2-{part}",
        config=CONFIG_2,
        space=SPACE_2,
        trials=108,
        trial_epochs=EPOCHS,
        search_algorithm="random",
        scheduler="none",
        repeats=0,
        seed=part,
    )


def train_trials(search: Search, folder: Folder) -> None:
    """Run the trials of a search, or resume them; nothing comes after them."""
    start_ray()
    inputs = read_inputs(search)
    prepared = prepare(search, inputs, folder, wait=0)
    trials = Trials(folder, search.name, search.objectives)
    run_trials(search, prepared.config, prepared.job, trials, inputs.known, prepared.concurrent)


def write_table(search: Search, folder: Folder, file: Path, part: int | None = None) -> None:
    """Write a table of curves, or a part of it, from the study's folder."""
    trials, metrics = (pd.read_csv(f"{folder.path}/{name}.csv") for name in ("trials", "metrics"))
    curves = metrics.pivot_table(index="trial", columns="epoch", values="val_psnr")
    curves = curves.rename(columns=lambda epoch: f"epoch_{epoch}").round(3).reset_index()
    table = trials[["trial", *search.space]].merge(curves, on="trial", how="left")
    if part is not None:
        costs = metrics.groupby("trial")[["operations_per_pixel", "train_seconds"]].median().round(2)
        costs = costs.rename(columns={"train_seconds": "seconds"}).reset_index()
        table = table.merge(costs, on="trial", how="left")
        description = {"forest": True, "space": described(search.space)}
        file.with_suffix(".json").write_text(json.dumps(description, indent=2) + "\n")
        table["part"] = part
        if file.exists():
            recorded = pd.read_csv(file)
            table = pd.concat([recorded[recorded["part"] != part], table])
    table = table.drop(columns="trial", errors="ignore").sort_values(list(search.space))
    table.to_csv(file, index=False, float_format="%.6g")
    print(f"{len(table)} curves in {file}")


def described(space: Space) -> dict[str, dict[str, object]]:
    """A search space as `benchmarks/simulation.py` reads it: integers are choices; v1's values, or near, defaults."""
    values = {"generator/blocks": 1, "generator/unshuffle": 1, **flat_values(CONFIG_2)}
    found: dict[str, dict[str, object]] = {}
    for path, one in space.items():
        distribution = distribution_of(one)
        found[path] = {"default": values[path]}
        if isinstance(distribution, FloatDistribution):
            found[path] |= {"low": distribution.low, "high": distribution.high, "log": distribution.log}
        elif isinstance(distribution, IntDistribution):
            found[path] |= {"choices": list(range(distribution.low, distribution.high + 1, distribution.step))}
        elif isinstance(distribution, CategoricalDistribution):
            found[path] |= {"choices": list(distribution.choices)}
        if isinstance(one, When):
            found[path] |= {"when": [one.path, one.value]}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record learning curves.")
    parser.add_argument("table", type=int, choices=(1, 2))
    parser.add_argument("part", type=int, nargs="?", choices=PARTS, help="of the second table")
    parser.add_argument("--storage", default="studies", help="where the study's folder goes (default: studies)")
    options = parser.parse_args()
    if (options.part is None) != (options.table == 1):
        parser.error("the second table has parts, and the first has none: give 1, or 2 and a part")
    search, file = (SEARCH, CURVES) if options.part is None else (search_of(options.part), CURVES_2)
    folder = Folder(str(Path(options.storage).resolve())).child(search.name)
    train_trials(search, folder)
    write_table(search, folder, file, options.part)
