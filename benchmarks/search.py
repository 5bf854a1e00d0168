"""How many epochs a search needs: `python benchmarks/search.py`, a few minutes on one core.

Searches are played on recorded learning curves, `benchmarks/curves.csv`: real trainings of this project's networks at
values drawn at random from v1's search space. A trial that a searcher proposes gets the recorded curve whose values lie
nearest. Searchers and schedulers are the ones that run in a real search, and four trials run at once. The goal is what
random search has found when its epochs are spent; what counts is the epochs that others need to find as much.

The curves were recorded by RayGAN itself (`--record STUDY` writes the table from the study's folder):

    python searches/v1.py --quick --name curves --searcher random --scheduler none --trials 240 --trial-epochs 9 \\
        --epochs 9 --set training/steps_per_epoch=20 --set training/batch_size=8 --set hardware/cpus_per_worker=1
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

sys.path.insert(0, str(Path(__file__).parents[1] / "searches"))
from v1 import SEARCH

from raygan.search.algorithms import EpochAsha, EpochOptunaSearch, sampler
from raygan.search.space import distribution_of
from raygan.section import flat_values
from raygan.train.driver import flattened

CURVES = Path(__file__).with_name("curves.csv")
EPOCHS = 9
TRIALS = 60
"""Of random search: its budget is this times `EPOCHS`, and no other gets more."""
AT_ONCE = 4
SEEDS = 20
SPACE = {path: distribution_of(one) for path, one in SEARCH.space.items()}
METRIC = "best_val_psnr"


def record(folder: str) -> None:
    """Write the table of curves from a study's folder."""
    trials = pd.read_csv(f"{folder}/trials.csv")
    metrics = pd.read_csv(f"{folder}/metrics.csv")
    curves = metrics.pivot_table(index="trial", columns="epoch", values=METRIC)
    curves.columns = [f"epoch_{epoch}" for epoch in curves.columns]
    table = trials[["trial", *SPACE]].merge(curves.round(3), on="trial", how="left").drop(columns="trial")
    table.to_csv(CURVES, index=False, float_format="%.5g")
    print(f"{len(table)} curves in {CURVES}")


class Curves:
    """The recorded curves, looked up by nearest values."""

    def __init__(self) -> None:
        table = pd.read_csv(CURVES)
        # A training that diverged in its first epoch has no score, and one that did later none from there on.
        self.scores = table[[f"epoch_{epoch}" for epoch in range(1, EPOCHS + 1)]].to_numpy()
        self.places = np.stack([self._place(row) for row in table[list(SPACE)].to_dict("records")])

    def __call__(self, point: dict[str, Any]) -> list[float]:
        """Best val PSNR so far, in dB, after each epoch."""
        distances = ((self.places - self._place(point)) ** 2).sum(axis=1)
        scores: list[float] = self.scores[distances.argmin()].tolist()
        return scores

    @staticmethod
    def _place(values: dict[str, Any]) -> np.ndarray[Any, Any]:
        """Values as a place in a cube of sides 0 to 1; what a trial does not have lies in the middle."""
        place = []
        for path, one in SPACE.items():
            value = values.get(path, math.nan)
            if isinstance(one, CategoricalDistribution):
                place.append(one.choices.index(value) / (len(one.choices) - 1))
            elif pd.isna(value):
                place.append(0.5)
            else:
                low, high, value = (math.log(x) if one.log else x for x in (one.low, one.high, value))
                place.append((value - low) / (high - low))
        return np.array(place)


@dataclass
class Trial:
    """As much of a Tune trial as searchers and schedulers look at."""

    trial_id: str
    scores: list[float] = field(default_factory=list)
    has_reported_at_least_once: bool = False

    def __str__(self) -> str:
        return self.trial_id


def play(searcher: Any, scheduler: Any, curves: Curves) -> list[float]:
    """The best score known after each epoch that a search spends, in the order in which the epochs end."""
    best, known = -math.inf, []
    running: list[tuple[int, int, Trial, int]] = []
    trials = 0
    now = 0
    while len(known) < TRIALS * EPOCHS:
        while len(running) < AT_ONCE:
            trial = Trial(f"t{trials}")
            trial.scores = curves(flattened(searcher.suggest(trial.trial_id)))
            if scheduler is not None:
                scheduler.on_trial_add(None, trial)
            heapq.heappush(running, (now + 1, trials, trial, 1))
            trials += 1
        now, number, trial, epoch = heapq.heappop(running)
        score = trial.scores[epoch - 1]
        known.append(best := max(best, -math.inf if math.isnan(score) else score))
        if math.isnan(score):
            searcher.on_trial_complete(trial.trial_id, error=True)
            continue
        result = {"epoch": epoch, METRIC: score, "training_iteration": epoch}
        ends = epoch == EPOCHS
        if scheduler is not None:
            ends |= scheduler.on_trial_result(_Controller(), trial, result) == TrialScheduler.STOP
        if ends:
            searcher.on_trial_complete(trial.trial_id, result)
        else:
            searcher.on_trial_result(trial.trial_id, result)
            heapq.heappush(running, (now + 1, number, trial, epoch + 1))
    return known


class _Controller:
    def get_live_trials(self) -> list[Trial]:
        return []


def ours(seed: int, **options: Any) -> EpochOptunaSearch:
    """RayGAN's searcher with v1's space, without its first points."""
    search = dataclasses.replace(SEARCH, seed=seed, trials=TRIALS, trial_epochs=EPOCHS, **options)
    return EpochOptunaSearch(sampler(search), search.space, [], EPOCHS, flat_values(search.config))


def stock_searcher(seed: int) -> OptunaSearch:
    """Optuna's TPE as Ray ships it."""
    return OptunaSearch(space=dict(SPACE), metric=METRIC, mode="max", sampler=TPESampler(seed=seed))


def stock_asha() -> ASHAScheduler:
    """ASHA as Ray ships it."""
    return ASHAScheduler(time_attr="epoch", metric=METRIC, mode="max", max_t=EPOCHS)


METHODS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "random": lambda seed: (ours(seed, searcher="random"), None),
    "TPE without pruning": lambda seed: (stock_searcher(seed), None),
    "random with ASHA": lambda seed: (ours(seed, searcher="random"), EpochAsha(".", EPOCHS)),
    "Ray's OptunaSearch and ASHA": lambda seed: (stock_searcher(seed), stock_asha()),
    "RayGAN: tpe, asha": lambda seed: (ours(seed), EpochAsha(".", EPOCHS)),
    "RayGAN: gp, asha": lambda seed: (ours(seed, searcher="gp"), EpochAsha(".", EPOCHS)),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Epochs that searches need, on recorded learning curves.")
    parser.add_argument("--record", metavar="STUDY", help="write curves.csv from this study's folder")
    folder = parser.parse_args().record
    if folder:
        record(folder)
        return
    if not CURVES.exists():
        parser.error(
            f"{CURVES} has not been recorded yet: run the search that the script's first lines name, then --record"
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = Curves()
    scored = curves.scores[~np.isnan(curves.scores[:, 0])]
    print(f"{len(curves.scores)} curves, {len(scored)} of them with a score; best {np.nanmax(scored):.2f} dB")
    found = {name: [play(*method(seed), curves) for seed in range(SEEDS)] for name, method in METHODS.items()}
    budget = TRIALS * EPOCHS
    goal = float(np.median([known[-1] for known in found["random"]]))
    print(f"goal: {goal:.2f} dB, what random search finds in {budget} epochs (median of {SEEDS} seeds)\n")
    print(
        "| method | epochs to the goal, median (quartiles) | share of random search's | best at the end, dB | never |"
    )
    print("|---|---|---|---|---|")
    for name, runs in found.items():
        epochs = [next((i for i, best in enumerate(known, start=1) if best >= goal), math.inf) for known in runs]
        epochs_needed = np.median(epochs)
        low, high = np.quantile(epochs, [0.25, 0.75], method="nearest")
        best = np.median([known[-1] for known in runs])
        print(
            f"| {name} | {epochs_needed:.0f} ({low:.0f} to {high:.0f}) | {epochs_needed / budget:.2f} "
            f"| {best:.2f} | {sum(map(math.isinf, epochs))} |"
        )


if __name__ == "__main__":
    main()
