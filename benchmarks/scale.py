"""What a thousand trials cost besides their training: `python benchmarks/scale.py`, eight minutes on two cores (with
`TRIALS=100` in the environment, one).

A search runs as a whole, with Optuna's TPE, ASHA, its ledger and its Optuna journal; only the training is left out: an
epoch is a formula, and a checkpoint a few bytes. Near its end the main process is killed with SIGKILL and started
again. A second table has what a proposal takes after more trials, which are drawn instead of run.

`WORKERS=1000 EPOCH_SECONDS=60 TRIALS=3000` has a thousand workers whose epochs take a minute each, more or less, which
they sleep; see `fake_workers.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import ray
from fake_workers import FakeTraining, start_ray_with
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from ray import tune
from ray.tune.result import DONE

from raygan.config.section import with_values
from raygan.presets import PAPER_V1, quick
from raygan.search import tuner
from raygan.search.experiment import Search
from raygan.search.searcher import OptunaSearcher
from raygan.search.space import suggest
from raygan.search.warm_start import WarmStart
from raygan.storage import Folder
from raygan.study.ledger import Ledger
from raygan.study.trials import Trials
from raygan.train.cluster import start_ray
from raygan.train.driver import DECIDING, Job

TRIALS = int(os.environ.get("TRIALS", "1000"))
EPOCHS = 9
WORKERS = int(os.environ.get("WORKERS", "0"))
"""Fake ones; 0: two trials at once, each in a process of its own."""
EPOCH_SECONDS = float(os.environ.get("EPOCH_SECONDS", "60"))
"""Of fake workers, in the mean."""
KILLED_AT = TRIALS * 95 // 100
STEPS = sorted({max(WORKERS, TRIALS * percent // 100) for percent in (10, 25, 50, 90)})
"""Trials at which the table has a row."""
SEARCH = Search(
    name="scale",
    config=with_values(quick(PAPER_V1), {"hardware/device": "cpu"}),
    space={
        "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "optimizers/discriminator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "optimizers/generator/beta1": FloatDistribution(0.0, 0.95),
        "loss/adversarial_weight": FloatDistribution(1e-4, 1e-1, log=True),
    },
    trials=TRIALS,
    trial_epochs=EPOCHS,
    grace_epochs=0,
)


class Formula:
    """A trial that a formula takes the place of."""

    def __init__(self, point: dict[str, Any], job: Job) -> None:
        self.height = 30 - abs(math.log10(point["params"]["optimizers/generator/learning_rate"] / 1e-3))
        self.checkpoint = job.folder.child(f"checkpoints/{point['trial']}")
        self.done = int(self.checkpoint.read("done")) if self.checkpoint.exists("done") else 0

    def result(self, epoch: int) -> dict[str, Any]:
        """What a training reports of an epoch."""
        score = self.height - 5 / epoch
        deciding = dict.fromkeys(DECIDING, 0.5) | {"epoch": epoch, "best_epoch": epoch, "best_val_psnr": score}
        # As many as a training has.
        metrics = deciding | {"val_psnr": score, "val_ssim": 0.5, "seconds": EPOCH_SECONDS if WORKERS else 0.01}
        metrics |= {f"metric_{index}": score for index in range(40)}
        if epoch > self.done:
            self.checkpoint.write("done", str(epoch))
        return deciding | {"metrics": json.dumps(metrics), "epochs": EPOCHS, "restored": epoch <= self.done}


def without_training(point: dict[str, Any], job: Job, config_at: Any) -> None:  # noqa: ARG001
    """A trial as `raygan.train.driver.run_trial`, with a formula in place of the training."""
    formula = Formula(point, job)
    for epoch in range(1, EPOCHS + 1):
        tune.report(formula.result(epoch))


class Asleep(FakeTraining):
    """The same for a fake worker, which sleeps through its epochs."""

    def setup(self, config: dict[str, Any], job: Job, config_at: Any) -> None:  # noqa: ARG002
        """Begin with the first trial."""
        self.job = job
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with another trial."""
        self.formula = Formula(new_config, self.job)
        self.epoch = 0
        return True

    def next_seconds(self) -> float:
        """Epochs differ; those of an earlier start are there at once."""
        return 0.0 if self.epoch < self.formula.done else EPOCH_SECONDS * random.uniform(0.5, 1.5)

    def step(self) -> dict[str, Any]:
        """The next epoch."""
        self.epoch += 1
        return self.formula.result(self.epoch) | {DONE: self.epoch == EPOCHS}


def search(storage: str) -> None:
    """The main process of the search."""
    if WORKERS:
        start_ray_with(WORKERS)
    tuner.run_trial = Asleep if WORKERS else without_training  # type: ignore[attr-defined]
    start_ray()
    print("started", flush=True)
    folder = Folder(storage)
    trials = Trials(folder, SEARCH.name, SEARCH.objectives)
    job = Job(folder, ray.put(None), {})
    tuner.run_trials(SEARCH, SEARCH.config, job, trials, WarmStart([], [], ""), WORKERS or 2)


def proposal_seconds(count: int, storage: Path) -> float:
    """Seconds that TPE takes for a proposal after so many trials, the mean of five."""
    folder = Folder(storage / f"proposals-{count}")
    search = dataclasses.replace(SEARCH, trials=2 * count)
    trials = Trials(folder, search.name, search.objectives)
    trials.study.sampler = RandomSampler(seed=0)
    for number in range(count):
        trial = trials.study.ask()
        suggest(trial, search.space, {})
        trials.begin(trial, search.trial_name)
        score = -abs(math.log10(trial.params["optimizers/generator/learning_rate"] / 1e-3))
        for epoch in (1, 3):
            trial.report(score - 1 / epoch, epoch)
        ended = (score, TrialState.COMPLETE) if number % 9 == 0 else (None, TrialState.PRUNED)
        trials.study.tell(trial, *ended)
    searcher = OptunaSearcher(trials, search, Ledger(folder))
    started = time.perf_counter()
    for number in range(5):
        searcher.suggest(str(number))
    return (time.perf_counter() - started) / 5


def start(storage: Path) -> subprocess.Popen[str]:
    """Start the main process, and wait until Ray runs."""
    command = [sys.executable, __file__, str(storage)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def trials_started(process: subprocess.Popen[str]) -> Iterator[int]:
    """How many trials have started, with each epoch that the search shows."""
    assert process.stdout is not None
    for line in process.stdout:
        if f" of {TRIALS} trials started" in line:
            yield int(line.partition("[")[2].split()[0])


def memory(process: subprocess.Popen[str]) -> float:
    """Megabytes that the main process holds, without what it shares."""
    fields = Path(f"/proc/{process.pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Print the table."""
    print(
        "| trials | epochs | trials a second since the row before | epochs a second | workers busy | main process, MB |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        storage = Path(scratch) / "scale"
        process = start(storage)
        before, steps = (0, 0, time.perf_counter()), list(STEPS)
        for epochs, trials in enumerate(trials_started(process), start=1):
            if steps and trials >= steps[0]:
                now = time.perf_counter()
                seconds = now - before[2]
                pace = (epochs - before[1]) / seconds
                busy = f"{pace * EPOCH_SECONDS / WORKERS:.2f}" if WORKERS else ""
                paces = f"{(trials - before[0]) / seconds:.2f} | {pace:.2f} | {busy}"
                print(f"| {trials} | {epochs} | {paces} | {memory(process):.0f} |", flush=True)
                before = (trials, epochs, now)
                steps.pop(0)
            if trials >= KILLED_AT:
                break
        process.kill()
        process.wait()
        process = start(storage)
        began = time.perf_counter()
        shown = trials_started(process)
        next(shown)
        print(
            f"\nKilled when {KILLED_AT} trials had started, and started again: {time.perf_counter() - began:.1f} s from"
        )
        print("Ray's start to the first new epoch.")
        for _ in shown:
            pass
        assert process.wait() == 0
        states = pd.read_csv(storage / "trials.csv")["state"].value_counts()
        assert set(states.index) <= {"complete", "pruned"}, states
        size, journal = (
            sum(path.stat().st_size for path in storage.rglob(pattern) if path.is_file()) / 1e6
            for pattern in ("*", "optuna.log")
        )
        print(f"The study's folder holds {size:.0f} MB, of which {journal:.1f} MB are Optuna's journal.")
        print("\n| earlier trials | seconds per proposal |\n|---|---|")
        for count in (TRIALS // 10, TRIALS, 4 * TRIALS):
            print(f"| {count} | {proposal_seconds(count, Path(scratch)):.3f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        search(sys.argv[1])
    else:
        main()
