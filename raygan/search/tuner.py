"""A study's trials as a Ray Tune experiment."""

from __future__ import annotations

import signal
from functools import partial
from typing import Any

from ray import tune
from ray.tune.stopper import CombinedStopper, FunctionStopper

from raygan.config.run import Config
from raygan.config.section import Kind, own_kinds, with_values
from raygan.report.tables import counted
from raygan.search.experiment import Experiment
from raygan.search.progress import SearchProgress, display, trial_name
from raygan.search.promotion import promotion_of
from raygan.search.searcher import OptunaSearcher
from raygan.search.stopping import Rungs, StudyLimits
from raygan.search.warm_start import WarmStart
from raygan.study.trials import Trials
from raygan.train.checkpoint import keep_denoiser
from raygan.train.cluster import resources
from raygan.train.driver import Job, run_trial


def run_trials(
    experiment: Experiment, config: Config, job: Job, trials: Trials, known: WarmStart, concurrent: int
) -> None:
    """Run the trials that have not ended yet; raises `KeyboardInterrupt` on Ctrl-C.

    `config` is the experiment's as it runs here; `known` is what an earlier search found.
    """
    settings = experiment.settings
    points = [*known.points, *(point for point in experiment.points() if point not in known.points)]
    trials.enqueue(points, known.trials)
    progress = SearchProgress(trials, experiment, shown := display())
    limits = StudyLimits(settings, lambda: progress.elapsed)
    _finish_ended(trials)
    searcher = OptunaSearcher(trials, experiment, progress.ledger)
    length = counted(settings.trial_epochs, "epoch")
    if settings.equal_compute:
        length = f"the computation of {length} as configured"
    print(f"{counted(settings.trials, 'trial')} of at most {length}, {concurrent} at once\n")
    # A trial with workers of its own waits for them without holding a core: it could starve them otherwise.
    nested = config.hardware.workers > 1
    config_at = partial(_trial_config, own_kinds(), experiment, config)
    trainable = tune.with_parameters(run_trial, job=job, config_at=config_at)
    storage = job.folder.child("ray")
    # Tune's own state is never used again.
    storage.child("tune").clear()
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": 0, "memory": 1} if nested else resources(config)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=Rungs(promotion_of(settings)),
            # The search algorithm says when there are no more.
            num_samples=-1,
            max_concurrent_trials=concurrent,
            # A process that still waits for its workers cannot take another trial.
            reuse_actors=not nested,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=storage.location,
            stop=CombinedStopper(limits, FunctionStopper(searcher.hopeless)),
            # `OptunaSearcher` suggests a trial again that lost its process. Tune's own retry gives it up where the idle
            # process that it is to reuse is lost as well, with its machine.
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[progress],
            verbose=0,
        ),
    )
    # On Ctrl-C, Tune stops all trials and keeps the signal's handler.
    on_interrupt = signal.getsignal(signal.SIGINT)
    with shown:
        if not limits.is_budget_spent:
            tuner.fit()
    signal.signal(signal.SIGINT, on_interrupt)
    if limits.disk_full:
        raise OSError(limits.disk_full)
    storage.clear()
    if len(trials.ended()) + len(trials.waiting) == settings.trials or limits.is_budget_spent:
        searcher.end_unfinished()
    progress.record(at_once=True)
    if (count := len(_finish_ended(trials))) < settings.trials:
        if not limits.is_budget_spent:
            raise KeyboardInterrupt
        spent = f"The time budget of {settings.time_budget:g} minutes is spent"
        print(f"{spent}: {count} of {settings.trials} trials ended")


def _finish_ended(trials: Trials) -> list[str]:
    """Reduce the checkpoints of ended trials to their denoisers, in case of a kill or a late epoch; their names."""
    names = trials.ended()
    for name in names:
        keep_denoiser(trials.folder.child(f"checkpoints/{name}"))
    return names


def _trial_config(_kinds: tuple[type[Kind], ...], study: Experiment, config: Config, point: dict[str, Any]) -> Config:
    """The configuration of a trial at a point, from that which every trial starts from, as it runs here.

    `_kinds` are classes of the search file, which a trial may choose by name: sent along, since a worker cannot import
    them.
    """
    values = {"training/epochs": point["epochs"], "training/seed": point["seed"]}
    return with_values(config, values | study.values_at(point["params"]))
