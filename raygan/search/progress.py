"""What a search shows and records while it runs."""

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
from raygan.report.tables import short
from raygan.search.stopping import collapsed_from
from raygan.search.experiment import Experiment, Search
from raygan.study.ledger import ENDED, Ledger, TrialRow
from raygan.search.optuna_record import OptunaRecord
from raygan.search.space import distribution_of
from raygan.study.storage import Folder
from raygan.train.driver import flattened


def trial_name(trial: Trial, first: int = 1) -> str:
    """`trial-0001` for a search's first trial, and so on; `<arm>-seed-<seed>` in a comparison.

    `first` is Tune's own number of the first.
    """
    if "arm" in trial.config:
        return f"{trial.config['arm']}-seed-{trial.config['seed']}"
    return f"trial-{int(trial.experiment_tag.partition('_')[0]) - first + 1:04d}"


class SearchProgress(tune.Callback):  # type: ignore[misc]
    """Prints a line for each start, epoch and end of a trial, and keeps `trials.csv` and `metrics.csv` current."""

    def __init__(self, folder: str, experiment: Experiment, optuna_place: str | None, *, varying: bool) -> None:
        """`varying` says that trials change their values on the way: then each epoch's are recorded with it."""
        self.folder = folder
        self.experiment = experiment
        self.trials = experiment.trials
        self.trial_epochs = experiment.trial_epochs
        self.optuna_place = optuna_place
        self.varying = varying

    def setup(self, **info: Any) -> None:  # noqa: ARG002
        """Go on from the files of an earlier start of the same study."""
        folder = Folder(self.folder)
        self.ledger = Ledger(folder)
        self.optuna_record = None
        if self.optuna_place is not None:
            space = {path: distribution_of(one) for path, one in self.experiment.space.items()}
            together = self.experiment.together if isinstance(self.experiment, Search) else None
            self.optuna_record = OptunaRecord(
                self.optuna_place, self.experiment.name, space, folder, together, self.experiment.objectives
            )
        self.shown: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, TrialRow] = {}
        self.started = time.monotonic()
        self.epochs_here = 0

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Show the trial's parameters, at its start and when they have changed."""
        if self.shown.get(str(trial)) == trial.config:
            return
        self.shown[str(trial)] = dict(trial.config)
        values = ", ".join(f"{path}={short(value)}" for path, value in flattened(trial.config).items())
        print(textwrap.fill(f"{trial} starts: {values}", 110, subsequent_indent=" " * 12, break_on_hyphens=False))
        self._record(trials)

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        """Show and record an epoch."""
        metrics = json.loads(result["metrics"])
        # The trial's own values may already be those that it goes on with.
        self.ledger.add_epoch(str(trial), metrics | (flattened(result["config"]) if self.varying else {}))
        self.epochs_here += 1
        rows = self._record(trials)
        print(f"{trial} {epoch_line(metrics, self.trial_epochs)}   [{self._overview(rows)}]")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Show that a trial lost its process and is started again; one that diverged would diverge again."""
        if Folder(self.folder).exists(f"failures/{trial}.txt"):
            trial.max_failures = 0
            return
        print(f"{trial} lost its process: it goes on from its last epoch")
        self._record(trials)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Record the end of a trial."""
        self._record(trials, {str(trial): self._finished(trial)})

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Show and record why a trial failed."""
        self._record(trials, {str(trial): "failed"})
        print(f"{trial} failed: {_cause(trial)}")

    def _finished(self, trial: Trial) -> str:
        epochs = self.ledger.epochs_of(str(trial))
        return "complete" if epochs and epochs[-1]["epoch"] >= self.trial_epochs else "pruned"

    def _record(self, trials: list[Trial], known: Mapping[str, str] | None = None) -> list[TrialRow]:
        # What has ended stays as it is: a long study's epochs cost no more than a short one's.
        named = {str(trial): trial for trial in trials}
        rows = [self.ended.get(name) or self._row(named[name], (known or {}).get(name)) for name in sorted(named)]
        self.ledger.write_trials(rows)
        if self.optuna_record is not None:
            self.optuna_record.update([row for row in rows if row.trial not in self.ended], self.ledger)
        self.ended |= {row.trial: row for row in rows if row.state in ENDED}
        return rows

    def _row(self, trial: Trial, state: str | None) -> TrialRow:
        if state is None:
            states = {
                Trial.ERROR: "failed",
                Trial.RUNNING: "running",
                Trial.TERMINATED: self._finished(trial),
            }
            state = states.get(trial.status, "pending")
        epochs = self.ledger.epochs_of(str(trial))
        best_by = self.experiment.config.training.best_by
        best = max(epochs, key=lambda row: float(row[best_by]), default={})
        values = flattened(trial.config)
        return TrialRow(
            trial=str(trial),
            state=state,
            epochs=len(epochs),
            val_psnr=best.get("val_psnr", math.nan),
            val_ssim=best.get("val_ssim", math.nan),
            val_milliseconds=best.get("val_milliseconds", math.nan),
            seconds=sum(row["seconds"] for row in epochs),
            collapsed=collapsed_from(epochs),
            checkpoint=trial.checkpoint.path.removeprefix(Folder(self.folder).path + "/") if trial.checkpoint else "",
            values={path: best.get(path, values.get(path)) for path in self.experiment.space},
        )

    def _overview(self, rows: list[TrialRow]) -> str:
        """How many trials are done, the best so far, and how long the rest will take at this pace."""
        done = [row for row in rows if row.state in ENDED]
        best = max(rows, key=lambda row: -math.inf if math.isnan(row.val_psnr) else row.val_psnr)
        # Trials to come are taken to run as long as those that are done: early stopping is in that average.
        expected = sum(row.epochs for row in done) / len(done) if done else self.trial_epochs
        running = [row for row in rows if row.state == "running"]
        ahead = sum(max(0.0, expected - row.epochs) for row in running)
        ahead += (self.trials - len(done) - len(running)) * expected
        left = max(1.0, ahead * (time.monotonic() - self.started) / self.epochs_here)
        return (
            f"{len(done)} of {self.trials} trials done, best {best.val_psnr:.2f} dB ({best.trial}), {time_left(left)}"
        )


def epoch_line(metrics: Mapping[str, float], epochs: int) -> str:
    """One epoch in a line."""
    return (
        f"epoch {int(metrics['epoch']):>2}/{epochs}  val PSNR {metrics['val_psnr']:5.2f} dB  "
        f"val SSIM {metrics['val_ssim']:.3f}  {metrics['seconds']:.0f} s"
    )


def _cause(trial: Trial) -> str:
    """The last line of the trial's error, which is the exception itself."""
    error = trial.get_pickled_error()
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "for an unknown reason"
