"""A study's trials as a Ray Tune experiment in the study's folder, run or gone on with."""

from __future__ import annotations

import dataclasses
import signal
import warnings
from functools import partial
from typing import Any

from optuna.samplers import RandomSampler
from ray import tune
from ray.tune.stopper import CombinedStopper, Stopper

from raygan.search.algorithms import (
    EpochAsha,
    EpochMedian,
    EpochOptunaSearch,
    EpochPopulation,
    Population,
    perturbation_interval,
    sampler,
    tune_domain,
)
from raygan.search.constraint import constraint_of
from raygan.search.drivers import Drivers
from raygan.search.stopping import Hopeless, TimeBudget
from raygan.search.experiment import Experiment, Search
from raygan.study.ledger import Ledger
from raygan.search.progress import SearchProgress, trial_name
from raygan.search.snapshot import KeepState, put_back_state
from raygan.search.space import distribution_of
from raygan.search.warm_start import warm_start
from raygan.config.section import flat_values, with_values
from raygan.study.storage import Folder
from raygan.train.cluster import HardwareError, resources
from raygan.train.driver import KEPT_CHECKPOINTS, RETRIES, Job, run_trial


class Interrupted(KeyboardInterrupt):
    """The user stopped the study; running it again goes on where it stopped."""


def check_room(experiment: Experiment, concurrent: int) -> None:
    """Raise `HardwareError` where the trials need each other, but cannot all run at once."""
    workers = experiment.config.hardware.workers
    population = isinstance(experiment, Search) and experiment.scheduler == "pbt"
    if population and workers > 1 and experiment.trials > concurrent:
        raise HardwareError(
            f"population-based training with {workers} workers a trial needs room for all {experiment.trials} trials "
            f"at once, but the cluster holds {concurrent}: lower --trials or --workers"
        )


def run_trials(
    experiment: Experiment,
    job: Job,
    folder: Folder,
    concurrent: int,
    optuna_place: str | None,
    drivers: Drivers | None = None,
) -> None:
    """Run the trials that have not ended yet; raises `Interrupted` on Ctrl-C.

    `optuna_place` is where they are recorded for Optuna's tools, if anywhere (see `optuna_record.open_storage`), and
    `drivers` are the others that work on the same search, if any.
    """
    epochs = experiment.trial_epochs
    trial_job = dataclasses.replace(job, config=with_values(job.config, {"training/epochs": epochs}))
    # A trial with workers of its own waits for them without holding a core: else it could starve them.
    nested = job.config.hardware.workers > 1
    asked = {"CPU": 0, "memory": 1} if nested else resources(job.config)
    population = isinstance(experiment, Search) and experiment.scheduler == "pbt"
    trainable = tune.with_resources(
        tune.with_parameters(
            run_trial,
            job=trial_job,
            values_at=experiment.values_at,
            varying=tuple(experiment.space) if population else (),
        ),
        asked,
    )
    budget = experiment.time_budget if isinstance(experiment, Search) else None
    # Without a searcher, Tune counts from 0.
    name = partial(trial_name, first=0 if population else 1)
    # Of a population, others go on from a trial's checkpoint while it trains up to the next exchange.
    kept = max(KEPT_CHECKPOINTS, 1 + perturbation_interval(epochs)) if population else KEPT_CHECKPOINTS
    what = "trials of at most" if isinstance(experiment, Search) else f"trials, {experiment.seeds} an arm, of"
    print(f"{type(experiment).__name__}: {experiment.trials} {what} {epochs} epochs, {concurrent} at once\n")
    # Of this start: what Tune restores is of the first.
    EpochOptunaSearch.concurrent = concurrent
    EpochOptunaSearch.drivers = drivers
    TimeBudget.spent = False
    if put_back_state(folder, "tune"):
        tuner = tune.Tuner.restore(folder.child("tune").location, trainable=trainable, resume_unfinished=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={path: tune_domain(distribution_of(one)) for path, one in experiment.space.items()}
            if population
            else {},
            tune_config=tune.TuneConfig(
                search_alg=_searcher(experiment, drivers),
                scheduler=_scheduler(experiment, folder.location),
                num_samples=experiment.trials,
                # An actor that still waits for its workers cannot take another trial.
                reuse_actors=not nested,
                trial_name_creator=name,
                trial_dirname_creator=name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder.location,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                stop=_stopper(experiment),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[
                    SearchProgress(folder.location, experiment, optuna_place, varying=population),
                    KeepState(folder.location, kept),
                ],
                verbose=0,
            ),
        )
    # Tune answers Ctrl-C by stopping all trials as if they had ended, and keeps the signal to itself afterwards.
    on_interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        # What a population lacks by Tune's count it has by `KeepState`; and trials with workers cannot share actors.
        warnings.filterwarnings("ignore", message=".*with PBT|.*boosting PBT", category=UserWarning)
        tuner.fit()
    folder.child("workers").clear()
    signal.signal(signal.SIGINT, on_interrupt)
    if (ended := Ledger(folder).trials_ended()) < experiment.trials:
        if not TimeBudget.spent:
            raise Interrupted
        print(f"The time budget of {budget:g} minutes is spent: {ended} of {experiment.trials} trials began")


def _searcher(experiment: Experiment, drivers: Drivers | None) -> Any:
    """Who proposes the trials: Optuna, but for a population, which Ray draws at once."""
    points, earlier = experiment.points(), []
    if isinstance(experiment, Search) and experiment.warm_start is not None:
        known = warm_start(experiment)
        print(known.told)
        points, earlier = known.points + [point for point in points if point not in known.points], known.trials
    if isinstance(experiment, Search) and experiment.scheduler == "pbt":
        return Population(points_to_evaluate=points, random_state=experiment.seed)
    if isinstance(experiment, Search) and drivers is not None:
        drivers.offer(points)
        points = []
        experiment = dataclasses.replace(experiment, seed=drivers.own_seed(experiment.seed))
    values = flat_values(experiment.config)
    # A comparison's trials are all first points.
    proposer = sampler(experiment) if isinstance(experiment, Search) else RandomSampler(seed=experiment.seed)
    return EpochOptunaSearch(
        proposer,
        experiment.space,
        points,
        experiment.trial_epochs,
        values,
        earlier,
        experiment.objectives,
        constraint_of(experiment),
    )


def _stopper(experiment: Experiment) -> CombinedStopper | None:
    """Who ends trials besides the scheduler; of a population, the worst go on from the best instead."""
    stoppers: list[Stopper] = []
    if isinstance(experiment, Search):
        if experiment.scheduler != "pbt":
            stoppers.append(
                Hopeless(experiment.grace, experiment.trial_epochs, stop_collapsed=experiment.stop_collapsed)
            )
        if experiment.time_budget is not None:
            stoppers.append(TimeBudget(60 * experiment.time_budget))
    return CombinedStopper(*stoppers) if stoppers else None


def _scheduler(experiment: Experiment, folder: str) -> Any:
    """Who ends trials early, or changes them on the way; none: Tune lets each run to its end."""
    if not isinstance(experiment, Search):
        return None
    epochs, objective = experiment.trial_epochs, experiment.objectives[0]
    match experiment.scheduler:
        case "asha":
            return EpochAsha(folder, epochs, objective)
        case "median":
            return EpochMedian(folder, epochs, objective)
        case "pbt":
            return EpochPopulation(experiment.space, epochs, objective)
        case "none":
            return None
