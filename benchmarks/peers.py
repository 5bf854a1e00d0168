"""Plays other packages' searches for `benchmarks/search.py --peers`, which see; not run by itself.

Each is played if this interpreter has its package (they do not all install together: see the dependency groups of
`pyproject.toml`), through the interface that it documents for one's own loop, with its defaults but for one thing: all
have rungs of 1, 3, 9, … epochs. Prints one CSV row per search: method, seed, epochs to each goal.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import importlib.util
import io
import logging
import math
import random
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from simulation import Job, Table, epochs_to, play

FACTOR = 3
WORST = 0.0
"""The score, in dB, of a training that diverged, for packages that know no failures."""


class SyneTune:
    """Syne Tune's schedulers of type "promotion", which pause trials at rungs and resume them."""

    def __init__(self, kind: str, table: Table, seed: int) -> None:
        from syne_tune.backend.time_keeper import RealTimeKeeper
        from syne_tune.config_space import choice, loguniform, uniform
        from syne_tune.optimizer import legacy_baselines

        space: dict[str, Any] = {
            name: choice(list(one.choices)) if one.choices else (loguniform if one.log else uniform)(one.low, one.high)
            for name, one in table.space.items()
        }
        self.scheduler = getattr(legacy_baselines, kind)(
            {**space, "epochs": table.epochs},
            metric="score",
            mode="max",
            type="promotion",
            resource_attr="epoch",
            max_resource_attr="epochs",
            grace_period=1,
            reduction_factor=FACTOR,
            search_options={"debug_log": False},
            random_seed=seed,
        )
        clock = RealTimeKeeper()
        clock.start_of_time()
        self.scheduler.set_time_keeper(clock)
        self.trials: dict[int, Any] = {}

    def ask(self) -> Job | None:
        """A new trial, or one that goes on."""
        from syne_tune.backend.trial_status import Trial

        suggestion = self.scheduler.suggest(len(self.trials))
        if suggestion is None:
            return None
        number = len(self.trials) if suggestion.spawn_new_trial_id else suggestion.checkpoint_trial_id
        config = suggestion.config
        self.trials[number] = Trial(number, config, datetime.datetime.now())
        if suggestion.spawn_new_trial_id:
            self.scheduler.on_trial_add(self.trials[number])
        return Job(number, config, config["epochs"], self.trials[number])

    def tell(self, job: Job, epoch: int, score: float) -> bool:
        """Pass on every epoch, as its tuner does."""
        if math.isnan(score):
            self.scheduler.on_trial_error(job.handle)
            return False
        decision = self.scheduler.on_trial_result(job.handle, {"score": score, "epoch": epoch})
        if decision != "CONTINUE":
            self.scheduler.on_trial_remove(job.handle)
        return bool(decision == "CONTINUE")


def configuration_space(table: Table, seed: int) -> Any:
    """The table's space for DEHB and SMAC3, with its conditions."""
    from ConfigSpace import Categorical, ConfigurationSpace, EqualsCondition, Float

    space = ConfigurationSpace(seed=seed)
    for name, one in table.space.items():
        if one.choices:
            space.add(Categorical(name, list(one.choices), default=one.default))
        else:
            space.add(Float(name, (one.low, one.high), log=one.log, default=one.default))
    space.add(
        EqualsCondition(space[name], space[one.when[0]], one.when[1]) for name, one in table.space.items() if one.when
    )
    return space


class Dehb:
    """DEHB by ask and tell. Unlike its own runs, a configuration that it asks for again, with more epochs, goes on."""

    def __init__(self, table: Table, seed: int) -> None:
        from dehb import DEHB

        self.dehb = DEHB(
            cs=configuration_space(table, seed),
            min_fidelity=1,
            max_fidelity=table.epochs,
            eta=FACTOR,
            n_workers=1,
            seed=seed,
            save_freq="end",
            output_path=tempfile.mkdtemp(dir=tempfile.gettempdir()),
            log_level="ERROR",
        )

    def ask(self) -> Job:
        """A configuration and its epochs."""
        asked = self.dehb.ask()
        return Job(int(asked["config_id"]), dict(asked["config"]), round(asked["fidelity"]), asked)

    def tell(self, job: Job, epoch: int, score: float) -> bool:
        """Pass on the last epoch."""
        if epoch < job.epochs and not math.isnan(score):
            return True
        self.dehb.tell(job.handle, {"fitness": -(WORST if math.isnan(score) else score), "cost": epoch})
        return False


class NepsPriorBand:
    """NePS's PriorBand by ask and tell, with the experts' values as prior."""

    def __init__(self, table: Table, seed: int, base: str = "hyperband") -> None:
        import neps
        import torch

        # It has no seed of its own.
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        space: dict[str, Any] = {"epochs": neps.HPOInteger(1, table.epochs, is_fidelity=True)}
        for name, one in table.space.items():
            prior = {"prior": one.default, "prior_confidence": "medium"}
            if one.choices:
                space[name] = neps.HPOCategorical(list(one.choices), **prior)
            else:
                space[name] = neps.HPOFloat(one.low, one.high, log=one.log, **prior)
        self.optimizer = neps.AskAndTell(
            neps.algorithms.priorband(neps.SearchSpace(space), base=base, eta=FACTOR)  # type: ignore[arg-type]
        )

    def ask(self) -> Job:
        """A configuration at a rung."""
        trial = self.optimizer.ask()
        return Job(trial.metadata.id.split("_rung_")[0], trial.config, int(trial.config["epochs"]), trial)

    def tell(self, job: Job, epoch: int, score: float) -> bool:
        """Pass on the last epoch."""
        if epoch < job.epochs and not math.isnan(score):
            return True
        self.optimizer.tell(job.handle, ArithmeticError("diverged") if math.isnan(score) else -score)
        return False


class Smac:
    """SMAC3's multi-fidelity facade by ask and tell."""

    def __init__(self, table: Table, seed: int) -> None:
        from smac import MultiFidelityFacade, Scenario

        scenario = Scenario(
            configuration_space(table, seed),
            deterministic=True,
            n_trials=table.budget,
            min_budget=1,
            max_budget=table.epochs,
            seed=seed,
            output_directory=Path(tempfile.mkdtemp(dir=tempfile.gettempdir())),
        )
        intensifier = MultiFidelityFacade.get_intensifier(scenario, eta=FACTOR)

        def train(config: Any, seed: int, budget: float) -> float:
            raise NotImplementedError("by ask and tell, it calls nothing")

        self.facade = MultiFidelityFacade(
            scenario, train, intensifier=intensifier, overwrite=True, logging_level=logging.CRITICAL
        )

    def ask(self) -> Job | None:
        """A configuration and its epochs."""
        try:
            asked = self.facade.ask()
        except StopIteration:
            return None
        return Job(asked.config, dict(asked.config), round(asked.budget), asked)

    def tell(self, job: Job, epoch: int, score: float) -> bool:
        """Pass on the last epoch."""
        from smac.runhistory import StatusType, TrialValue

        if epoch < job.epochs and not math.isnan(score):
            return True
        status = StatusType.CRASHED if math.isnan(score) else StatusType.SUCCESS
        cost = -(WORST if math.isnan(score) else score)
        self.facade.tell(job.handle, TrialValue(cost=cost, time=float(epoch), status=status), save=False)
        return False


PEERS: list[tuple[str, str, str, int, Callable[[Table, int], Any]]] = [
    ("syne_tune", "syne-tune", "Syne Tune {}, ASHA that promotes", 60, functools.partial(SyneTune, "ASHA")),
    ("dehb", "dehb", "DEHB {}", 60, Dehb),
    ("neps", "neural-pipeline-search", "NePS {}, PriorBand with v1 as prior", 60, NepsPriorBand),
    ("smac", "smac", "SMAC3 {}, multi-fidelity", 20, Smac),
]
"""Module, package, name in the table, seeds, and the method: one with fewer seeds takes longest."""


def main() -> None:
    """Play what this interpreter has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--goal", type=float, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, required=True, help="at most so many")
    parser.add_argument("--only", default="", help="packages, separated by commas")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    table = Table(asked.table)
    for module, package, name, seeds, method in PEERS:
        if importlib.util.find_spec(module) is None or (asked.only and package not in asked.only.split(",")):
            continue
        for seed in range(min(seeds, asked.seeds)):
            # Some print what they do.
            with contextlib.redirect_stdout(io.StringIO()):
                known = play(method(table, seed), table, max(asked.goal))
            epochs = ",".join(str(epochs_to(goal, known)) for goal in asked.goal)
            print(f'"{name.format(version(package))}",{seed},{epochs}', flush=True)


if __name__ == "__main__":
    main()
