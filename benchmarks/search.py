"""How many epochs a search needs: `python benchmarks/search.py`, three minutes on one core.

Searches are played on recorded learning curves, `benchmarks/curves.csv` (see `benchmarks/curves.py`) or another
`--table`, by `benchmarks/simulation.py`. Search algorithms and schedulers are the very objects that run in a real
search, and four trials run at once. The goal is what random search has found when its epochs are spent (the median), or
any `--goal`; what counts is the epochs that are needed to find as much. p is that of the two-sided Mann-Whitney test
against RayGAN.

Other packages' searches are played in the same run, on the same table, by interpreters that have them: what they
require clashes with what RayGAN requires, and with each other.

    python -m venv peers && peers/bin/pip install --upgrade pip && peers/bin/pip install --group peers
    python -m venv neps && neps/bin/pip install --upgrade pip && neps/bin/pip install --group neps
    python benchmarks/search.py --peers peers/bin/python neps/bin/python
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import math
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from curves import CONFIG, CURVES
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from scipy.stats import mannwhitneyu
from simulation import FULL_TRIALS, Job, Method, Parameter, Table, epochs_to, play

from raygan.config.section import flat_values, with_values
from raygan.search.experiment import Search, SearchAlgorithm
from raygan.search.promotion import promotion_of
from raygan.search.searcher import OptunaSearcher
from raygan.search.space import Space, When, distribution_of, suggest
from raygan.search.stopping import Rungs
from raygan.storage import Folder
from raygan.study.ledger import Ledger
from raygan.study.trials import Trials

METRIC = "best_val_psnr"
RANDOM = "random search"
RAYGAN = "RayGAN (TPE, ASHA)"


@dataclass
class Trial:
    """As much of a Tune trial as search algorithms and schedulers look at."""

    trial_id: str
    config: dict[str, Any] = field(default_factory=dict)
    has_reported_at_least_once: bool = False

    def __str__(self) -> str:
        return self.trial_id


class _Controller:
    def get_live_trials(self) -> list[Trial]:
        return []


class RayTune:
    """A search algorithm and a scheduler as Ray Tune calls them."""

    def __init__(self, searcher: Any, scheduler: Any, epochs: int) -> None:
        self.searcher = searcher
        self.scheduler = scheduler
        self.epochs = epochs
        self.numbers = itertools.count()

    def ask(self) -> Job | None:
        """A new trial, or one that was promoted and goes on where it waited."""
        trial = Trial(f"t{next(self.numbers)}")
        suggested = self.searcher.suggest(trial.trial_id)
        if not isinstance(suggested, dict):
            return None
        trial.config = suggested
        if self.scheduler is not None:
            self.scheduler.on_trial_add(None, trial)
        point = suggested.get("params") or {name.replace(".", "/"): value for name, value in suggested.items()}
        return Job(suggested.get("trial", trial.trial_id), point, self.epochs, trial)

    def tell(self, job: Job, epoch: int, score: float) -> bool:
        """Report an epoch."""
        trial = job.handle
        if math.isnan(score):
            self.searcher.on_trial_complete(trial.trial_id, error=True)
            return False
        result = {"epoch": epoch, "epochs": self.epochs, METRIC: score, "training_iteration": epoch, "restored": False}
        ends = epoch == self.epochs
        if self.scheduler is not None:
            ends |= self.scheduler.on_trial_result(_Controller(), trial, result) == TrialScheduler.STOP
        if ends:
            self.searcher.on_trial_complete(trial.trial_id, result)
        else:
            self.searcher.on_trial_result(trial.trial_id, result)
        return not ends


class Optuna:
    """Optuna's own TPE and successive halving, with the rungs of the others."""

    def __init__(self, space: Space, table: Table, seed: int) -> None:
        sampler = TPESampler(seed=seed, constant_liar=True)
        pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        self.study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        self.space = space
        self.epochs = table.epochs

    def ask(self) -> Job:
        """A new trial."""
        trial = self.study.ask()
        suggest(trial, self.space, flat_values(CONFIG))
        return Job(trial.number, trial.params, self.epochs, trial)

    def tell(self, job: Job, epoch: int, score: float) -> bool:
        """Report an epoch."""
        if math.isnan(score):
            self.study.tell(job.handle, state=TrialState.FAIL)
            return False
        job.handle.report(score, epoch)
        if epoch == self.epochs:
            self.study.tell(job.handle, score)
        elif job.handle.should_prune():
            self.study.tell(job.handle, state=TrialState.PRUNED)
        else:
            return True
        return False


def space_of(table: Table) -> Space:
    """The table's space as RayGAN takes it."""

    def distribution(one: Parameter) -> Any:
        return (
            CategoricalDistribution(one.choices) if one.choices else FloatDistribution(one.low, one.high, log=one.log)
        )

    return {
        name: When(*one.when, distribution(one)) if one.when else distribution(one) for name, one in table.space.items()
    }


def methods(table: Table, scratch: Path) -> dict[str, Callable[[int], Method]]:
    """What is compared, by name: each makes a method of a seed."""
    space, epochs = space_of(table), table.epochs
    config = with_values(CONFIG, {name: one.default for name, one in table.space.items() if not one.when})
    experiment = Search(name="s", config=config, space=space, trials=table.budget, trial_epochs=epochs)
    flat = {name: distribution_of(one) for name, one in space.items()}
    folders = itertools.count()

    def ours(seed: int, algorithm: SearchAlgorithm) -> OptunaSearcher:
        search = dataclasses.replace(experiment, search_algorithm=algorithm, seed=seed)
        folder = Folder(f"{scratch}/{next(folders)}")
        return OptunaSearcher(Trials(folder, search.name, search.objectives), search, Ledger(folder))

    def asha() -> Any:
        return Rungs(promotion_of(experiment.settings))

    def rays(seed: int) -> OptunaSearch:
        # Ray's search algorithm knows no conditions, and takes names with slashes apart.
        named = {name.replace("/", "."): one for name, one in flat.items()}
        return OptunaSearch(space=named, metric=METRIC, mode="max", sampler=TPESampler(seed=seed))

    def rays_asha() -> ASHAScheduler:
        return ASHAScheduler(time_attr="epoch", metric=METRIC, mode="max", max_t=epochs)

    return {
        RANDOM: lambda seed: RayTune(ours(seed, "random"), None, epochs),
        "TPE without pruning": lambda seed: RayTune(rays(seed), None, epochs),
        "random search with RayGAN's ASHA": lambda seed: RayTune(ours(seed, "random"), asha(), epochs),
        "Ray's OptunaSearch and ASHA": lambda seed: RayTune(rays(seed), rays_asha(), epochs),
        f"Optuna {optuna.__version__}, TPE and SuccessiveHalvingPruner": lambda seed: Optuna(space, table, seed),
        RAYGAN: lambda seed: RayTune(ours(seed, "tpe"), asha(), epochs),
    }


Needed = dict[str, list[list[float]]]
"""The epochs to each goal, by method and seed."""


def peers(python: str, table: Path, goals: list[float], seeds: int) -> Needed:
    """The epochs that the searches of an interpreter's packages need."""
    command = [python, str(Path(__file__).with_name("peers.py")), f"--table={table}", f"--seeds={seeds}", "--goal"]
    command += map(str, goals)
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    needed: Needed = {}
    for name, _, *epochs in csv.reader(printed.splitlines()):
        needed.setdefault(name, []).append([float(one) for one in epochs])
    return needed


def print_table(needed: dict[str, list[float]], budget: int) -> None:
    """The methods' epochs to one goal."""
    print("| method | seeds | epochs to the goal, median (quartiles) | mean | never | p |\n|---|---|---|---|---|---|")
    ours = np.minimum(needed[RAYGAN], budget)
    for name, runs in needed.items():
        median, low, high = np.quantile(runs, [0.5, 0.25, 0.75], method="nearest")
        # A search that never gets there counts as one that does so at its end.
        epochs = np.minimum(runs, budget)
        p = "" if name == RAYGAN else f"{mannwhitneyu(epochs, ours).pvalue:.2g}"
        shown = f"{median:.0f} ({low:.0f} to {high:.0f}) | {epochs.mean():.0f} | {sum(map(math.isinf, runs))} | {p}"
        print(f"| {name} | {len(runs)} | {shown.replace('inf', '∞')} |")


def main() -> None:
    """Print a table per goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=CURVES, help="a CSV file with its JSON file beside it")
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--goal", type=float, nargs="+", help="default: what random search finds")
    parser.add_argument("--peers", nargs="*", default=[], help="interpreters that have other packages")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table(asked.table)
    ends = [curve[-1] for curve in table.curves if not math.isnan(curve[-1])]
    print(f"{len(table.curves)} curves of {table.epochs} epochs, {len(ends)} to their end; best {max(ends):.3f} dB")
    with tempfile.TemporaryDirectory() as scratch:
        compared = methods(table, Path(scratch))
        at_random = compared.pop(RANDOM)
        known = {RANDOM: [play(at_random(seed), table) for seed in range(asked.seeds)]}
        found = float(np.median([run[-1] for run in known[RANDOM]]))
        print(
            f"random search finds {found:.3f} dB in {table.budget} epochs, those of {FULL_TRIALS} full trials (median)"
        )
        goals = asked.goal or [found]
        for name, method in compared.items():
            known[name] = [play(method(seed), table, max(goals)) for seed in range(asked.seeds)]
    needed: Needed = {name: [[epochs_to(goal, run) for goal in goals] for run in runs] for name, runs in known.items()}
    for python in asked.peers:
        needed |= peers(python, asked.table, goals, asked.seeds)
    for index, goal in enumerate(goals):
        print(f"\ngoal: {goal:.3f} dB, which {sum(end >= goal for end in ends)} of the curves reach\n")
        print_table({name: [run[index] for run in runs] for name, runs in needed.items()}, table.budget)


if __name__ == "__main__":
    main()
