"""How many epochs a search needs: `python benchmarks/search.py`, a minute on one core.

Searches are played on recorded learning curves, `benchmarks/curves.csv` (see `benchmarks/curves.py`): real trainings of
this project's GAN at every point of a grid. The space is continuous, from half a step below the grid to half a step
above (β1: 0 to 0.95); a proposal gets the curve of the point that lies nearest. Search algorithms and schedulers are
the very objects that run in a real search, and four trials run at once. The goal is what random search has found when
its epochs are spent; what counts is the epochs that others need to find as much.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from curves import CONFIG, CURVES, EPOCHS, GRID
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.utils import flatten_dict

from raygan.search.algorithms import OptunaSearcher, scheduler
from raygan.search.experiment import Search, SearchAlgorithm
from raygan.study.ledger import Ledger
from raygan.study.storage import Folder
from raygan.study.trials import Trials

TRIALS = 40
"""Of random search: its budget is this times `EPOCHS`, and no other gets more."""
AT_ONCE = 4
SEEDS = 60
METRIC = "best_val_psnr"


def _is_log(values: tuple[float, ...]) -> bool:
    return math.isclose(values[1] / values[0], values[2] / values[1], rel_tol=1e-6) if values[0] > 0 else False


def _range(values: tuple[float, ...]) -> FloatDistribution:
    """From half a step below the grid to half a step above, or what a β1 may be."""
    if _is_log(values):
        half = math.sqrt(values[1] / values[0])
        return FloatDistribution(values[0] / half, values[-1] * half, log=True)
    return FloatDistribution(0.0, 0.95)


SPACE = {path: _range(values) for path, values in GRID.items()}
SEARCH = Search(name="s", config=CONFIG, space=SPACE, trials=TRIALS * EPOCHS, trial_epochs=EPOCHS)
SCRATCH = tempfile.TemporaryDirectory()


class Curves:
    """The recorded curves, looked up by the nearest point of the grid."""

    def __init__(self) -> None:
        table = pd.read_csv(CURVES)
        best_so_far = table.filter(regex=r"^epoch_\d+$").cummax(axis=1, skipna=False)
        keys = [self._nearest(row) for row in table[list(GRID)].to_dict("records")]
        # A training that diverged has no score from there on.
        self.scores: dict[tuple[int, ...], list[float]] = dict(zip(keys, best_so_far.to_numpy().tolist(), strict=True))

    def __call__(self, point: dict[str, Any]) -> list[float]:
        """Best val PSNR so far, in dB, after each epoch; NaN from where the training diverged."""
        return self.scores[self._nearest(point)]

    @staticmethod
    def _nearest(point: dict[Any, Any]) -> tuple[int, ...]:
        key = []
        for path, values in GRID.items():
            grid, value = np.array(values), point[path]
            distances = np.abs(np.log(grid / value)) if _is_log(values) else np.abs(grid - value)
            key.append(int(distances.argmin()))
        return tuple(key)


@dataclass
class Trial:
    """As much of a Tune trial as search algorithms and schedulers look at."""

    trial_id: str
    scores: list[float] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    has_reported_at_least_once: bool = False

    def __str__(self) -> str:
        return self.trial_id


def play(searcher: Any, scheduler: Any, curves: Curves) -> list[float]:
    """The best score known after each epoch that a search spends, in the order in which the epochs end."""
    best, known = -math.inf, list[float]()
    running: list[tuple[int, int, Trial, str]] = []
    done: dict[str, int] = {}
    started = now = 0
    while len(known) < TRIALS * EPOCHS:
        while len(running) < AT_ONCE and isinstance(suggested := searcher.suggest(f"t{started}"), dict):
            # A trial that was promoted goes on where it waited.
            trial = Trial(f"t{started}", config=suggested)
            name = suggested.get("trial", trial.trial_id)
            trial.scores = curves(suggested.get("params") or flatten_dict(suggested, delimiter="/"))
            if scheduler is not None:
                scheduler.on_trial_add(None, trial)
            heapq.heappush(running, (now + 1, started, trial, name))
            started += 1
        if not running:
            break
        now, number, trial, name = heapq.heappop(running)
        epoch = done[name] = done.get(name, 0) + 1
        score = trial.scores[epoch - 1]
        known.append(best := max(best, -math.inf if math.isnan(score) else score))
        if math.isnan(score):
            searcher.on_trial_complete(trial.trial_id, error=True)
            continue
        result = {"epoch": epoch, "epochs": EPOCHS, METRIC: score, "training_iteration": epoch, "restored": False}
        ends = epoch == EPOCHS
        if scheduler is not None:
            ends |= scheduler.on_trial_result(_Controller(), trial, result) == TrialScheduler.STOP
        if ends:
            searcher.on_trial_complete(trial.trial_id, result)
        else:
            searcher.on_trial_result(trial.trial_id, result)
            heapq.heappush(running, (now + 1, number, trial, name))
    return known


class _Controller:
    def get_live_trials(self) -> list[Trial]:
        return []


def ours(seed: int, algorithm: SearchAlgorithm = "tpe") -> OptunaSearcher:
    """RayGAN's search algorithm."""
    search = dataclasses.replace(SEARCH, search_algorithm=algorithm, seed=seed)
    folder = Folder(f"{SCRATCH.name}/{len(list(Path(SCRATCH.name).iterdir()))}")
    return OptunaSearcher(Trials(folder, search.name, search.objectives), search, Ledger(folder))


def asha() -> Any:
    """RayGAN's ASHA."""
    return scheduler(SEARCH.settings, {})


def stock_searcher(seed: int) -> OptunaSearch:
    """Optuna's TPE as Ray ships it."""
    return OptunaSearch(space=dict(SPACE), metric=METRIC, mode="max", sampler=TPESampler(seed=seed))


def stock_asha() -> ASHAScheduler:
    """ASHA as Ray ships it."""
    return ASHAScheduler(time_attr="epoch", metric=METRIC, mode="max", max_t=EPOCHS)


METHODS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "random search": lambda seed: (ours(seed, "random"), None),
    "TPE without pruning": lambda seed: (stock_searcher(seed), None),
    "random search with RayGAN's ASHA": lambda seed: (ours(seed, "random"), asha()),
    "Ray's OptunaSearch and ASHA": lambda seed: (stock_searcher(seed), stock_asha()),
    "RayGAN (TPE, ASHA)": lambda seed: (ours(seed), asha()),
}


def epochs_to(goal: float, known: list[float]) -> float:
    """After how many epochs the goal is reached; infinity where it is not."""
    return next((epochs for epochs, best in enumerate(known, start=1) if best >= goal), math.inf)


def main() -> None:
    """Print the table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = Curves()
    ends = [scores[-1] for scores in curves.scores.values() if not math.isnan(scores[-1])]
    print(f"{len(curves.scores)} curves of {EPOCHS} epochs, {len(ends)} to their end; best {max(ends):.2f} dB")
    budget = TRIALS * EPOCHS
    found = {name: [play(*method(seed), curves) for seed in range(SEEDS)] for name, method in METHODS.items()}
    goal = float(np.median([known[-1] for known in found["random search"]]))
    print(f"goal: {goal:.2f} dB, what random search finds in {budget} epochs (median of {SEEDS} seeds)\n")
    print(
        "| method | epochs to the goal, median (quartiles) | mean | share of the budget | dB in a third of it | never |"
    )
    print("|---|---|---|---|---|---|")
    for name, runs in found.items():
        needed = [epochs_to(goal, known) for known in runs]
        median, low, high = np.quantile(needed, [0.5, 0.25, 0.75], method="nearest")
        third = np.median([known[budget // 3] for known in runs])
        never = sum(map(math.isinf, needed))
        # A search that never gets there counts as one that does so at its end.
        mean = np.minimum(needed, budget).mean()
        shown = f"{median:.0f} ({low:.0f} to {high:.0f}) | {mean:.0f} | {median / budget:.2f} | {third:.2f} | {never}"
        print(f"| {name} | {shown} |")


if __name__ == "__main__":
    main()
