"""A study's trials as a Ray Tune experiment in the study's folder, run or gone on with."""

from __future__ import annotations

import dataclasses
import signal

from ray import tune

from raygan.search.algorithms import EpochAsha, EpochOptunaSearch
from raygan.search.experiment import Experiment, Search
from raygan.search.ledger import Ledger
from raygan.search.progress import SearchProgress, trial_name
from raygan.search.snapshot import KeepState, put_back_state
from raygan.section import with_values
from raygan.storage import Folder
from raygan.train.driver import KEPT_CHECKPOINTS, RETRIES, Job, resources, run_trial


class Interrupted(Exception):  # noqa: N818
    """The user stopped the study; running it again goes on where it stopped."""


def run_trials(experiment: Experiment, job: Job, folder: Folder, concurrent: int) -> None:
    """Run the trials that have not ended yet; raises `Interrupted` on Ctrl-C."""
    epochs = experiment.trial_epochs
    trial_job = dataclasses.replace(job, config=with_values(job.config, {"training/epochs": epochs}))
    # A trial with workers of its own waits for them without holding a core: else it could starve them.
    asked = resources(job.config) if job.config.hardware.workers == 1 else {"CPU": 0, "memory": 1}
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, job=trial_job, values_at=experiment.values_at), asked
    )
    what = "trials of at most" if isinstance(experiment, Search) else f"trials, {experiment.seeds} an arm, of"
    print(f"{type(experiment).__name__}: {experiment.trials} {what} {epochs} epochs, {concurrent} at once\n")
    if put_back_state(folder, "tune"):
        tuner = tune.Tuner.restore(folder.child("tune").location, trainable=trainable, resume_unfinished=True)
    else:
        searcher = EpochOptunaSearch(experiment.space, experiment.points(), experiment.seed, epochs)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=EpochAsha(epochs) if isinstance(experiment, Search) else None,
                num_samples=experiment.trials,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_name_creator=trial_name,
                trial_dirname_creator=trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder.location,
                checkpoint_config=tune.CheckpointConfig(**KEPT_CHECKPOINTS),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[
                    SearchProgress(folder.location, experiment.trials, epochs),
                    KeepState(folder.location),
                ],
                verbose=0,
            ),
        )
    # Tune answers Ctrl-C by stopping all trials as if they had ended, and keeps the signal to itself afterwards.
    on_interrupt = signal.getsignal(signal.SIGINT)
    tuner.fit()
    signal.signal(signal.SIGINT, on_interrupt)
    if Ledger(folder).trials_ended() < experiment.trials:
        raise Interrupted
