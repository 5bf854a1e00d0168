"""The search benchmark, live: `python benchmarks/live.py`, about 45 minutes on two cores.

What `benchmarks/search.py` plays on recorded curves, here with every trial trained: random search without pruning and
RayGAN's default (TPE, ASHA), on the same space, networks and photos, with five seeds each. The goal is what random
search has found when its epochs are spent; what counts is the epochs that RayGAN needs to find as much, and what it has
found after as many epochs.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import pandas as pd
from curves import CONFIG, CURVES, EPOCHS, train_trials
from search import space_of
from simulation import Table, epochs_to

from raygan.search.experiment import Search
from raygan.storage import Folder

TRIALS = 12
"""Of random search; RayGAN starts four times as many, most of which end early: for about as many epochs."""
SEEDS = 5
RANDOM = Search(
    name="random",
    config=CONFIG,
    space=space_of(Table(CURVES)),
    trials=TRIALS,
    trial_epochs=EPOCHS,
    search_algorithm="random",
    scheduler="none",
    repeats=0,
)
OURS = dataclasses.replace(RANDOM, name="raygan", trials=4 * TRIALS, search_algorithm="tpe", scheduler="asha")


def best_after_each_epoch(search: Search, storage: Path) -> list[float]:
    """Run the trials, or resume them; the best val PSNR known after each epoch that any of them trained, in dB."""
    folder = Folder(storage / f"{search.name}-{search.seed}")
    train_trials(search, folder)
    return pd.read_csv(f"{folder.path}/metrics.csv")["val_psnr"].cummax().tolist()


def main() -> None:
    """Print the table."""
    storage = Path(sys.argv[1] if len(sys.argv) > 1 else "studies/live").resolve()
    rows = []
    for seed in range(SEEDS):
        by_chance, ours = (
            best_after_each_epoch(dataclasses.replace(search, seed=seed), storage) for search in (RANDOM, OURS)
        )
        ours = ours[: len(by_chance)]
        needed = epochs_to(by_chance[-1], ours)
        share = f"{needed / len(by_chance):.2f}" if math.isfinite(needed) else f"not in {len(ours)} epochs"
        rows.append(f"| {seed} | {len(by_chance)} | {by_chance[-1]:.2f} | {needed:.0f} | {share} | {ours[-1]:.2f} |")
    print(
        "\n| seed | random search's epochs | its best, dB | RayGAN's epochs to as much | share | its best at the end |"
    )
    print("|---|---|---|---|---|---|\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
