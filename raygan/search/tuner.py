"""A study's trials as a Ray Tune experiment."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray import tune

from raygan.config.run import Config
from raygan.config.section import Kind, own_kinds, with_values
from raygan.search.algorithms import OptunaSearcher, scheduler
from raygan.search.experiment import Experiment
from raygan.search.progress import SearchProgress
from raygan.search.stopping import stopper
from raygan.search.warm_start import WarmStart
from raygan.study.ledger import Ledger
from raygan.study.trials import Trials
from raygan.train.checkpoint import keep_denoiser
from raygan.train.cluster import resources
from raygan.train.driver import RETRIES, Job, run_trial


class Interrupted(KeyboardInterrupt):
    """The user stopped the study; running it again resumes it."""


@dataclass(frozen=True)
class TrialConfig:
    """Gives the configuration of a trial at a point; sent to every trial."""

    experiment: Experiment
    config: Config
    """What every trial starts from, as it runs here."""
    kinds: tuple[type[Kind], ...] = field(default_factory=own_kinds)
    """Classes of the search file, which a trial may choose by name: sent along, since a worker cannot import them."""

    def __call__(self, point: Mapping[str, Any]) -> Config:
        """The trial's configuration."""
        epochs = {"training/epochs": self.experiment.settings.trial_epochs}
        return with_values(self.config, self.experiment.values_at(point) | epochs)


def run_trials(
    experiment: Experiment, config: Config, job: Job, trials: Trials, known: WarmStart, concurrent: int
) -> None:
    """Run the trials that have not ended yet; raises `Interrupted` on Ctrl-C.

    `config` is the experiment's as it runs here; `known` is what an earlier search found.
    """
    settings, folder = experiment.settings, job.folder
    ledger = Ledger(folder)
    points = experiment.points()
    trials.enqueue([*known.points, *(point for point in points if point not in known.points)])
    trials.add_known(known.trials)
    progress = SearchProgress(trials, ledger, experiment)
    _finish_ended(trials)
    ended = {name: ledger.epochs_of(name) for name in _ended_names(trials)}
    print(f"{settings.trials} trials of at most {settings.trial_epochs} epochs, {concurrent} at once\n")
    # A trial with workers of its own waits for them without holding a core: it could starve them otherwise.
    nested = config.hardware.workers > 1
    trainable = tune.with_parameters(run_trial, job=job, config_at=TrialConfig(experiment, config))
    storage = folder.child("ray")
    # Tune's own state is never used again.
    storage.child("tune").clear()
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": 0, "memory": 1} if nested else resources(config)),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearcher(trials, experiment),
            scheduler=scheduler(settings, ended),
            num_samples=settings.trials - len(ended),
            max_concurrent_trials=concurrent,
            # A process that still waits for its workers cannot take another trial.
            reuse_actors=not nested,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=storage.location,
            stop=stopper(settings, progress.elapsed),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[progress],
            verbose=0,
        ),
    )
    # On Ctrl-C, Tune stops all trials and keeps the signal's handler.
    on_interrupt = signal.getsignal(signal.SIGINT)
    tuner.fit()
    signal.signal(signal.SIGINT, on_interrupt)
    storage.clear()
    _finish_ended(trials)
    if (count := trials.ended()) < settings.trials:
        budget = settings.time_budget
        if budget is None or progress.elapsed < 60 * budget:
            raise Interrupted
        print(f"The time budget of {budget:g} minutes is spent: {count} of {settings.trials} trials ended")


def _ended_names(trials: Trials) -> list[str]:
    return [trial.user_attrs["trial"] for trial in trials.started() if trial.state.is_finished()]


def _finish_ended(trials: Trials) -> None:
    """Reduce the checkpoints of ended trials to their denoisers, in case of a kill or a late epoch."""
    for name in _ended_names(trials):
        keep_denoiser(trials.folder.child(f"checkpoints/{name}"))


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])
