"""What a search shows and records while its trials run."""

from __future__ import annotations

import json
import math
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Self

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console
from rich.live import Live
from rich.table import Table

from raygan.search.experiment import Experiment, TrialSettings, epochs_at
from raygan.search.promotion import promotion_of
from raygan.search.repeats import number_of_repeats
from raygan.study.ledger import ENDED, Ledger, TrialRow
from raygan.study.trials import Trials
from raygan.train.checkpoint import keep_denoiser, keep_newest
from raygan.train.driver import ERROR

SMALL = 200
"""Rows of `trials.csv` up to which it is made and written after every event."""
RECORDING_SHARE = 0.05
"""Share of the time that a larger one may take: long searches would become ever slower."""
ELAPSED = "elapsed_seconds"
"""Optuna user attribute of the study: see `SearchProgress.elapsed`."""
SHOWN = 12
"""Trials in the live table: those that run, the last, and the best of the others."""


def trial_name(trial: Trial) -> str:
    """A trial's name in the study."""
    return str(trial.config["trial"])


class Lines:
    """A line per event, for files, pipes and logs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def event(self, text: str) -> None:
        """Show a start or an epoch."""
        print(text)

    def notice(self, text: str) -> None:
        """Show what must not be missed."""
        print(text)

    def show(self, rows: list[TrialRow], budgets: Mapping[str, int], overview: str) -> None:
        """Nothing: the lines say it."""


class LiveTable:
    """A table that is redrawn, for terminals and notebooks; only what must not be missed has a line of its own."""

    def __init__(self, console: Console) -> None:
        self.live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def event(self, text: str) -> None:
        """Nothing: the table says it."""

    def notice(self, text: str) -> None:
        """Show what must not be missed, above the table."""
        self.live.console.print(text, markup=False, highlight=False)

    def show(self, rows: list[TrialRow], budgets: Mapping[str, int], overview: str) -> None:
        """Redraw the table; `budgets` has how many epochs each trial may train, by name."""
        table = Table("trial", "state", caption=overview, caption_justify="left", box=None, pad_edge=False)
        for name in ("epoch", "val PSNR (dB)", "val SSIM", "seconds"):
            table.add_column(name, justify="right")
        best = max(rows, key=_score, default=None)
        for row in _most_telling(rows):
            epoch = f"{row.epochs}/{budgets[row.trial]}"
            scores = ["", ""] if math.isnan(row.val_psnr) else [f"{row.val_psnr:.2f}", f"{row.val_ssim:.3f}"]
            style = {"failed": "red"}.get(row.state, "bold green" if row is best and scores[0] else None)
            table.add_row(row.trial, row.state, epoch, *scores, f"{row.seconds:.0f}", style=style)
        self.live.update(table, refresh=True)


def display() -> Lines | LiveTable:
    """A live table in terminals and notebooks, lines elsewhere."""
    console = Console(file=sys.stdout)
    # In a notebook, rich redraws with ipywidgets.
    redraws = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    return LiveTable(console) if redraws else Lines()


def _most_telling(rows: list[TrialRow]) -> list[TrialRow]:
    """As many rows as are shown, in their order."""
    running = [row for row in rows if row.state == "running"]
    others = sorted((row for row in rows if row.state != "running"), key=_score, reverse=True)
    chosen = {row.trial for row in [*running, *rows[-1:], *others][:SHOWN]}
    return [row for row in rows if row.trial in chosen]


def _score(row: TrialRow) -> float:
    return -math.inf if math.isnan(row.val_psnr) or row.state == "failed" else row.val_psnr


class SearchProgress(tune.Callback):  # type: ignore[misc]
    """Shows each start, epoch and end of a trial, and writes `trials.csv` and `metrics.csv`."""

    def __init__(self, trials: Trials, experiment: Experiment, display: Lines | LiveTable) -> None:
        self.trials = trials
        self.ledger = Ledger(trials.folder)
        self.experiment = experiment
        self.display = display
        self.started = time.monotonic()
        self.before = float(trials.study.user_attrs.get(ELAPSED, 0.0))
        self.seconds_here = 0.0
        """Of all epochs since this start."""
        self.budgets: dict[str, int] = {}
        """How many epochs each trial of `rows` may train, by name."""
        self.ended: set[str] = set()
        self.rows: list[TrialRow] = []
        """Of `trials.csv`, as it was last written."""
        self.best: TrialRow | None = None
        """That with the highest val PSNR among them; None before the first epoch of one that did not fail."""
        self.ahead = math.inf
        """`seconds_ahead` of them; infinite before the first epoch since this start."""
        self.next_recording = 0.0
        """Earliest time of the next write of a large `trials.csv`."""

    @property
    def elapsed(self) -> float:
        """Seconds that the trials have run, over all starts of the study."""
        return self.before + time.monotonic() - self.started

    def __getstate__(self) -> dict[str, Any]:
        # See `OptunaSearcher.__getstate__`.
        return {}

    def on_trial_start(self, *, trial: Trial, **_: Any) -> None:
        """Show the trial's parameters, or that it goes on."""
        name = trial_name(trial)
        if done := len(self.ledger.epochs_of(name)):
            text = f"{name} goes on after epoch {done}"
        else:
            shown = {
                path: f"{value:.4g}" if isinstance(value, float) else value
                for path, value in trial.config["params"].items()
            }
            text = f"{name} starts: {', '.join(f'{path}={value}' for path, value in shown.items())}"
        self.display.event(textwrap.fill(text, 110, subsequent_indent=" " * 12, break_on_hyphens=False))
        self._show(self.record())

    def on_trial_result(self, *, trial: Trial, result: dict[str, Any], **_: Any) -> None:
        """Show and record an epoch, unless it is known from an earlier start."""
        name = trial_name(trial)
        # A trial that was just stopped may still report an epoch.
        if ERROR in result or name in self.ended or result["epoch"] in self.ledger.epochs.get(name, {}):
            return
        metrics = json.loads(result["metrics"])
        self.ledger.add_epoch(name, metrics)
        self.trials.study.set_user_attr(ELAPSED, self.elapsed)
        self.seconds_here += metrics["seconds"]
        rows = self.record()
        self.display.event(f"{name} {epoch_line(metrics, result['epochs'])}   [{self._overview()}]")
        self._show(rows)

    def on_trial_recover(self, *, trial: Trial, **_: Any) -> None:
        """Show that a trial lost its machine, a spot machine taken away, and is started again."""
        self._lost(trial)

    def on_trial_complete(self, *, trial: Trial, **_: Any) -> None:
        """Record that a trial waits or has ended, and show why if it could not go on."""
        name = trial_name(trial)
        if name in self.trials.waiting:
            keep_newest(self.trials.folder.child(f"checkpoints/{name}"))
            self._show(self.record())
            return
        self._end(name, (trial.last_result or {}).get(ERROR))

    def on_trial_error(self, *, trial: Trial, **_: Any) -> None:
        """Show that a trial lost its process, and whether it is started again."""
        if trial_name(trial) not in self.trials.ended():
            self._lost(trial)
            return
        lines = str(trial.get_pickled_error() or "").strip().splitlines() or ["it lost its process too often"]
        self._end(trial_name(trial), lines[-1])

    def _lost(self, trial: Trial) -> None:
        self.display.notice(f"{trial_name(trial)} lost its process: it resumes from its last epoch")

    def _end(self, name: str, error: str | None) -> None:
        # Not one that a full disk interrupted: it goes on when the study does.
        self._reduce({name}.intersection(self.trials.ended()))
        self._show(self.record())
        if error:
            self.display.notice(f"{name} failed: {error}")

    def _reduce(self, names: Iterable[str]) -> None:
        """Reduce ended trials to their denoisers."""
        for name in set(names) - self.ended:
            self.ended.add(name)
            keep_denoiser(self.trials.folder.child(f"checkpoints/{name}"))

    def _show(self, rows: list[TrialRow]) -> None:
        self.display.show(rows, self.budgets, self._overview())

    def record(self, *, at_once: bool = False) -> list[TrialRow]:
        """Write `trials.csv`, unless it is large and was just written; returns its rows."""
        started = time.monotonic()
        if at_once or len(self.rows) <= SMALL or started >= self.next_recording:
            self.rows = self.trials.rows(self.ledger, list(self.experiment.sampled_space))
            self.ledger.write_trials(self.rows)
            for trial in self.trials.started():
                if (name := trial.user_attrs["trial"]) not in self.budgets:
                    self.budgets[name] = epochs_at(self.experiment, trial.params)
            self.best = max((row for row in self.rows if _score(row) > -math.inf), key=_score, default=None)
            if self.seconds_here:
                self.ahead = seconds_ahead(self.rows, self.experiment.settings, self.budgets)
            # Those that waited may have ended, since they have no chance to go on any more.
            self._reduce(row.trial for row in self.rows if row.state in ENDED)
            now = time.monotonic()
            self.next_recording = now + (now - started) / RECORDING_SHARE
        return self.rows

    def _overview(self) -> str:
        """How many trials have started, the best so far, and how long the rest will take at this pace."""
        settings = self.experiment.settings
        if self.best is None or math.isinf(self.ahead):
            return ""
        seconds = self.ahead * (time.monotonic() - self.started) / self.seconds_here
        if settings.time_budget is not None:
            seconds = min(seconds, 60 * settings.time_budget - self.elapsed)
        left = time_left(max(1.0, seconds))
        space = self.trials.folder.free_space()
        disk = f", {space / 1e9:.1f} GB free" if space is not None else ""
        started = f"{len(self.rows)} of {settings.trials} trials started"
        return f"{started}, best {self.best.val_psnr:.2f} dB ({self.best.trial}), {left}{disk}"


def seconds_ahead(rows: Sequence[TrialRow], settings: TrialSettings, budgets: Mapping[str, int]) -> float:
    """Seconds of training that are expected after what `rows` say.

    `budgets` has how many epochs trials may train that may not train for `settings.trial_epochs`, by name.
    """
    most = settings.trial_epochs
    trained = {row.trial: row.epochs * most / budgets.get(row.trial, most) for row in rows}
    an_epoch = sum(row.seconds for row in rows) / sum(trained.values())
    if settings.scheduler == "asha":
        # Rounded down: of unlike lengths, trials reach a rung up to an epoch late, without having passed it.
        own = [(float(int(trained[row.trial])), row.state in ENDED) for row in rows if not row.repeats]
        epochs = promotion_of(settings).expected_epochs(own) - sum(one for one, _ in own)
        # The repeats have their full length, unless they fail.
        ended = [row.trial for row in rows if row.repeats and row.state in ENDED]
        running = sum(trained[row.trial] for row in rows if row.repeats and row.state not in ENDED)
        return an_epoch * (epochs + (number_of_repeats(settings) - len(ended)) * most - running)
    # As long as those that have ended: early stopping is in that average.
    ended_after = [row.seconds for row in rows if row.state in ENDED]
    expected = sum(ended_after) / len(ended_after) if ended_after else most * an_epoch
    remaining = sum(max(0.0, expected - row.seconds) for row in rows if row.state == "running")
    return (settings.trials - len(rows)) * expected + remaining


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
