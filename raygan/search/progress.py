"""What the terminal shows, and the tables record, while trials run."""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from raygan.progress import time_left
from raygan.search.experiment import Experiment
from raygan.study.ledger import ENDED, Ledger, TrialRow
from raygan.study.trials import Trials
from raygan.train.checkpoint import keep_denoiser
from raygan.train.driver import ERROR

ELAPSED = "elapsed_seconds"
"""Optuna user attribute of the study: see `SearchProgress.elapsed`."""


class SearchProgress(tune.Callback):  # type: ignore[misc]
    """Prints a line for each start, epoch and end of a trial, and keeps `trials.csv` and `metrics.csv` current."""

    def __init__(self, trials: Trials, ledger: Ledger, experiment: Experiment) -> None:
        self.trials = trials
        self.ledger = ledger
        self.experiment = experiment
        self.started = time.monotonic()
        self.before = float(trials.study.user_attrs.get(ELAPSED, 0.0))
        self.epochs_here = 0
        self.ended: set[str] = set()

    @property
    def elapsed(self) -> float:
        """Seconds that the trials have run, over all starts of the study."""
        return self.before + time.monotonic() - self.started

    def __getstate__(self) -> dict[str, Any]:
        # See `Trials.__getstate__`.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Show the trial's parameters."""
        params = ", ".join(f"{path}={_short(value)}" for path, value in trial.config["params"].items())
        text = f"{trial.config['trial']} starts: {params}"
        print(textwrap.fill(text, 110, subsequent_indent=" " * 12, break_on_hyphens=False))
        self._record()

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],  # noqa: ARG002
        trial: Trial,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        """Show and record an epoch, unless it is known from an earlier start."""
        name = trial.config["trial"]
        # A trial that was just stopped may still report an epoch.
        if ERROR in result or name in self.ended or result["epoch"] in self.ledger.epochs.get(name, {}):
            return
        metrics = json.loads(result["metrics"])
        self.ledger.add_epoch(name, metrics)
        self.trials.study.set_user_attr(ELAPSED, self.elapsed)
        self.epochs_here += 1
        rows = self._record()
        line = epoch_line(metrics, self.experiment.settings.trial_epochs)
        print(f"{name} {line}   [{self._overview(rows)}]")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Show that a trial lost its process and is started again."""
        print(f"{trial.config['trial']} lost its process: it resumes from its last epoch")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Record the end of a trial."""
        self._end(trial)
        if error := (trial.last_result or {}).get(ERROR):
            print(f"{trial.config['trial']} failed: {error}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Show and record why a trial failed."""
        self._end(trial)
        lines = [line for line in str(trial.get_pickled_error()).splitlines() if line.strip()]
        print(f"{trial.config['trial']} failed: {lines[-1].strip() if lines else 'for an unknown reason'}")

    def _end(self, trial: Trial) -> None:
        self.ended.add(trial.config["trial"])
        keep_denoiser(self.trials.folder.child(f"checkpoints/{trial.config['trial']}"))
        self._record()

    def _record(self) -> list[TrialRow]:
        rows = self.trials.rows(self.ledger, list(self.experiment.sampled_space))
        self.ledger.write_trials(rows)
        return rows

    def _overview(self, rows: list[TrialRow]) -> str:
        """How many trials have ended, the best so far, and how long the rest will take at this pace."""
        total, done = self.experiment.settings.trials, [row for row in rows if row.state in ENDED]
        best = max(rows, key=lambda row: -math.inf if math.isnan(row.val_psnr) else row.val_psnr)
        # Trials to come are expected to run as long as those that have ended: early stopping is in that average.
        expected = sum(row.epochs for row in done) / len(done) if done else self.experiment.settings.trial_epochs
        running = [row for row in rows if row.state == "running"]
        ahead = sum(max(0.0, expected - row.epochs) for row in running)
        ahead += (total - len(done) - len(running)) * expected
        left = max(1.0, ahead * (time.monotonic() - self.started) / self.epochs_here)
        return f"{len(done)} of {total} trials done, best {best.val_psnr:.2f} dB ({best.trial}), {time_left(left)}"


def epoch_line(metrics: Mapping[str, Any], epochs: int) -> str:
    """One epoch in a line."""
    return (
        f"epoch {int(metrics['epoch']):>2}/{epochs}  val PSNR {metrics['val_psnr']:5.2f} dB  "
        f"val SSIM {metrics['val_ssim']:.3f}  {metrics['seconds']:.0f} s"
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
