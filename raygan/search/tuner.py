"""A study's trials as a Ray Tune experiment: what runs them, and what is shown and recorded meanwhile."""

from __future__ import annotations

import json
import math
import signal
import textwrap
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.stopper import CombinedStopper, FunctionStopper

from raygan.config.run import Config
from raygan.config.section import Kind, own_kinds, with_values
from raygan.search.algorithms import OptunaSearcher, StudyLimits, scheduler
from raygan.search.experiment import Experiment
from raygan.search.prepare import WarmStart
from raygan.study.ledger import ENDED, Ledger, TrialRow
from raygan.study.trials import Trials
from raygan.train.checkpoint import keep_denoiser, keep_newest
from raygan.train.cluster import resources
from raygan.train.driver import ERROR, Job, run_trial

SMALL = 200
"""Rows of `trials.csv` up to which it is written after every event."""
WRITING_SHARE = 0.05
"""Share of the time that writing a larger one may take: long searches would become ever slower."""
ELAPSED = "elapsed_seconds"
"""Optuna user attribute of the study: see `SearchProgress.elapsed`."""


def run_trials(
    experiment: Experiment, config: Config, job: Job, trials: Trials, known: WarmStart, concurrent: int
) -> None:
    """Run the trials that have not ended yet; raises `KeyboardInterrupt` on Ctrl-C.

    `config` is the experiment's as it runs here; `known` is what an earlier search found.
    """
    settings = experiment.settings
    points = [*known.points, *(point for point in experiment.points() if point not in known.points)]
    trials.enqueue(points, known.trials)
    progress = SearchProgress(trials, experiment)
    limits = StudyLimits(settings, lambda: progress.elapsed)
    ended = {name: progress.ledger.epochs_of(name) for name in _finish_ended(trials)}
    searcher = OptunaSearcher(trials, experiment, progress.ledger)
    print(f"{settings.trials} trials of at most {settings.trial_epochs} epochs, {concurrent} at once\n")
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
            scheduler=scheduler(settings, ended),
            # The search algorithm says when there are no more.
            num_samples=-1,
            max_concurrent_trials=concurrent,
            # A process that still waits for its workers cannot take another trial.
            reuse_actors=not nested,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
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
    tuner.fit()
    signal.signal(signal.SIGINT, on_interrupt)
    if limits.disk_full:
        raise OSError(limits.disk_full)
    storage.clear()
    if len(trials.ended()) + len(trials.waiting) == settings.trials or limits.is_budget_spent:
        searcher.end_waiting(sorted(trials.waiting))
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


def _trial_name(trial: Trial) -> str:
    return str(trial.config["trial"])


def _trial_config(_kinds: tuple[type[Kind], ...], study: Experiment, config: Config, point: dict[str, Any]) -> Config:
    """The configuration of a trial at a point, from that which every trial starts from, as it runs here.

    `_kinds` are classes of the search file, which a trial may choose by name: sent along, since a worker cannot import
    them.
    """
    values = {"training/epochs": point["epochs"], "training/seed": point["seed"]}
    return with_values(config, values | study.values_at(point["params"]))


class SearchProgress(tune.Callback):  # type: ignore[misc]
    """Prints a line for each start, epoch and end of a trial, and writes `trials.csv` and `metrics.csv`."""

    def __init__(self, trials: Trials, experiment: Experiment) -> None:
        self.trials = trials
        self.ledger = Ledger(trials.folder)
        self.experiment = experiment
        self.started = time.monotonic()
        self.before = float(trials.study.user_attrs.get(ELAPSED, 0.0))
        self.epochs_here = 0
        self.ended: set[str] = set()
        self.next_writing = 0.0
        """Earliest time of the next write of `trials.csv`."""

    @property
    def elapsed(self) -> float:
        """Seconds that the trials have run, over all starts of the study."""
        return self.before + time.monotonic() - self.started

    def __getstate__(self) -> dict[str, Any]:
        # See `OptunaSearcher.__getstate__`.
        return {}

    def on_trial_start(self, *, trial: Trial, **_: Any) -> None:
        """Show the trial's parameters, or that it goes on."""
        name = _trial_name(trial)
        if done := len(self.ledger.epochs_of(name)):
            print(f"{name} goes on after epoch {done}")
            self.record()
            return
        shown = {
            path: f"{value:.4g}" if isinstance(value, float) else value
            for path, value in trial.config["params"].items()
        }
        text = f"{name} starts: {', '.join(f'{path}={value}' for path, value in shown.items())}"
        print(textwrap.fill(text, 110, subsequent_indent=" " * 12, break_on_hyphens=False))
        self.record()

    def on_trial_result(self, *, trial: Trial, result: dict[str, Any], **_: Any) -> None:
        """Show and record an epoch, unless it is known from an earlier start."""
        name = _trial_name(trial)
        # A trial that was just stopped may still report an epoch.
        if ERROR in result or name in self.ended or result["epoch"] in self.ledger.epochs.get(name, {}):
            return
        metrics = json.loads(result["metrics"])
        self.ledger.add_epoch(name, metrics)
        self.trials.study.set_user_attr(ELAPSED, self.elapsed)
        self.epochs_here += 1
        rows = self.record()
        print(f"{name} {epoch_line(metrics, result['epochs'])}   [{self._overview(rows)}]")

    def on_trial_recover(self, *, trial: Trial, **_: Any) -> None:
        """Show that a trial lost its machine, a spot machine taken away, and is started again."""
        self._lost(trial)

    def on_trial_complete(self, *, trial: Trial, **_: Any) -> None:
        """Record that a trial waits or has ended, and show why if it could not go on."""
        name = _trial_name(trial)
        if name in self.trials.waiting:
            keep_newest(self.trials.folder.child(f"checkpoints/{name}"))
            self.record()
            return
        self._end(name, (trial.last_result or {}).get(ERROR))

    def on_trial_error(self, *, trial: Trial, **_: Any) -> None:
        """Show that a trial lost its process, and whether it is started again."""
        if _trial_name(trial) not in self.trials.ended():
            self._lost(trial)
            return
        lines = str(trial.get_pickled_error() or "").strip().splitlines() or ["it lost its process too often"]
        self._end(_trial_name(trial), lines[-1])

    def _lost(self, trial: Trial) -> None:
        print(f"{_trial_name(trial)} lost its process: it resumes from its last epoch")

    def _end(self, name: str, error: str | None) -> None:
        self.record()
        if error:
            print(f"{name} failed: {error}")

    def record(self, *, at_once: bool = False) -> list[TrialRow]:
        """Write `trials.csv`, unless it is large and was just written, and reduce ended trials to their denoisers.

        Returns the table's rows.
        """
        rows = self.trials.rows(self.ledger, list(self.experiment.sampled_space))
        started = time.monotonic()
        if at_once or len(rows) <= SMALL or started >= self.next_writing:
            self.ledger.write_trials(rows)
            now = time.monotonic()
            self.next_writing = now + (now - started) / WRITING_SHARE
        # Others may have ended too: those that wait and now have no chance to go on.
        for name in {row.trial for row in rows if row.state in ENDED} - self.ended:
            self.ended.add(name)
            keep_denoiser(self.trials.folder.child(f"checkpoints/{name}"))
        return rows

    def _overview(self, rows: list[TrialRow]) -> str:
        """How many trials have ended, the best so far, and how long the rest will take at this pace."""
        total, done = self.experiment.settings.trials, [row for row in rows if row.state in (*ENDED, "waiting")]
        best = max(rows, key=lambda row: -math.inf if math.isnan(row.val_psnr) else row.val_psnr)
        # Trials to come are expected to run as long as those that have ended: early stopping is in that average.
        expected = sum(row.epochs for row in done) / len(done) if done else self.experiment.settings.trial_epochs
        ahead = (total - len(rows)) * expected
        ahead += sum(max(0.0, expected - row.epochs) for row in rows if row.state == "running")
        left = time_left(max(1.0, ahead * (time.monotonic() - self.started) / self.epochs_here))
        space = self.trials.folder.free_space()
        disk = f", {space / 1e9:.1f} GB free" if space is not None else ""
        return f"{len(done)} of {total} trials done, best {best.val_psnr:.2f} dB ({best.trial}), {left}{disk}"


def epoch_line(metrics: Mapping[str, Any], epochs: int) -> str:
    """One epoch in a line."""
    return (
        f"epoch {int(metrics['epoch']):>2}/{epochs}  val PSNR {metrics['val_psnr']:5.2f} dB  "
        f"val SSIM {metrics['val_ssim']:.3f}  {metrics['seconds']:.0f} s"
    )


def time_left(seconds: float) -> str:
    """A duration for people."""
    if seconds == 0:
        return "done"
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"
