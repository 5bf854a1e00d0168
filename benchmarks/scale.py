"""What a thousand trials cost besides their training: `python benchmarks/scale.py`, seven minutes on two cores.

A search runs whole, with Optuna's TPE, ASHA, its ledger, its Optuna journal, and Tune's state kept after every epoch;
only the training is left out: an epoch is a formula, and a checkpoint of a few bytes. Near its end the main process is
killed with SIGKILL and started again.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.distributions import FloatDistribution
from ray import tune

from raygan.config.section import with_values
from raygan.presets import PAPER_V1, QUICK
from raygan.search import trials
from raygan.search.experiment import Search
from raygan.study.storage import Folder
from raygan.train.cluster import start_ray
from raygan.train.driver import DECIDING, Job, flattened

TRIALS = 1000
EPOCHS = 9
KILLED_AT = 950
STEPS = (100, 250, 500, 900)
"""Trials at which the table has a row."""
SEARCH = Search(
    name="scale",
    config=with_values(PAPER_V1, QUICK | {"hardware/device": "cpu"}),
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


def without_training(point: dict[str, Any], job: Job, values_at: Any, varying: Any) -> None:  # noqa: ARG001
    """A trial as `raygan.train.driver.run_trial`, with a formula in place of the training."""
    values = flattened(point)
    height = 30 - abs(math.log10(values["optimizers/generator/learning_rate"] / 1e-3))
    checkpoint, done = tune.get_checkpoint(), 0
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            done = json.loads((Path(folder) / "metrics.json").read_text())["epoch"]
    for epoch in range(done + 1, EPOCHS + 1):
        score = height - 5 / epoch
        told = dict.fromkeys(DECIDING, 0.5) | {"epoch": epoch, "val_psnr": score, "best_val_psnr": score}
        # As many as a training has.
        metrics = told | {"seconds": 0.0, "best_epoch": epoch} | {f"metric_{index}": score for index in range(40)}
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "metrics.json").write_text(json.dumps({"epoch": epoch}))
            tune.report(told | {"metrics": json.dumps(metrics)}, checkpoint=tune.Checkpoint.from_directory(scratch))


def search(storage: str) -> None:
    """The main process of the search."""
    import ray

    trials.run_trial = without_training  # type: ignore[attr-defined]
    start_ray()
    print("started", flush=True)
    folder = Folder(storage)
    trials.run_trials(
        SEARCH, Job(SEARCH.config, ray.put(None), {}, folder.location), folder, 2, f"{storage}/optuna.log"
    )


def start(storage: Path) -> subprocess.Popen[str]:
    """Start the main process, and wait until Ray runs."""
    command = [sys.executable, __file__, str(storage)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def epochs_told(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yields with each epoch that the search shows how many trials have ended."""
    assert process.stdout is not None
    for line in process.stdout:
        if f" of {TRIALS} trials done" in line:
            yield int(line.partition("[")[2].split()[0])


def memory(process: subprocess.Popen[str]) -> float:
    """Megabytes that the main process holds, without what it shares."""
    fields = Path(f"/proc/{process.pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Print the table."""
    print("| trials | epochs | trials a second since the row before | epochs a second | main process, MB |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        storage = Path(scratch) / "scale"
        process = start(storage)
        before, steps = (0, 0, time.perf_counter()), list(STEPS)
        for epochs, ended in enumerate(epochs_told(process), start=1):
            if steps and ended >= steps[0]:
                now = time.perf_counter()
                seconds = now - before[2]
                paces = f"{(ended - before[0]) / seconds:.2f} | {(epochs - before[1]) / seconds:.2f}"
                print(f"| {ended} | {epochs} | {paces} | {memory(process):.0f} |", flush=True)
                before = (ended, epochs, now)
                steps.pop(0)
            if ended >= KILLED_AT:
                break
        process.kill()
        process.wait()
        process = start(storage)
        began = time.perf_counter()
        shown = epochs_told(process)
        next(shown)
        print(
            f"\nKilled when {KILLED_AT} trials had ended, and started again: {time.perf_counter() - began:.1f} s from"
        )
        print("Ray's start to the first new epoch.")
        for _ in shown:
            pass
        assert process.wait() == 0
        size = sum(path.stat().st_size for path in storage.rglob("*") if path.is_file()) / 1e6
        print(f"The study's folder holds {size:.0f} MB, of which Tune's state {_state(storage):.1f} MB.")


def _state(storage: Path) -> float:
    return max(path.stat().st_size for path in storage.glob("tune/experiment_state*")) / 1e6


if __name__ == "__main__":
    if len(sys.argv) > 1:
        search(sys.argv[1])
    else:
        main()
