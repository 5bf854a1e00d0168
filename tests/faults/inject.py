"""Kill parts of running searches, many times, and print what each fault cost: `python tests/faults/inject.py`.

About an hour on two cores, which nothing else should use.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import logging
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from raygan.config.section import with_values
from raygan.presets import PAPER_V1, quick
from raygan.storage import Folder
from raygan.train.checkpoint import Best, load_checkpoint, save_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import TINY_OPTIONS, ray_cluster, search_command

ENDED = ("complete", "pruned")
OPTIONS = [*TINY_OPTIONS, "--set", "training/steps_per_epoch=16"]


@dataclass
class Study:
    """A search that is started as often as it is killed."""

    folder: Path
    options: list[str]
    """Options besides `OPTIONS`."""
    environment: dict[str, str] = field(default_factory=dict)
    scheduler: str = "none"
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        place = ["--storage", self.folder.parent, "--name", self.folder.name]
        command = search_command(*OPTIONS, "--scheduler", self.scheduler, *self.options, *place)
        environment = {**os.environ, **self.environment, "PYTHONUNBUFFERED": "1"}
        with (self.folder.parent / "output").open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )

    def output(self) -> str:
        return (self.folder.parent / "output").read_text()

    def table(self, name: str) -> list[dict[str, str]]:
        path = self.folder / name
        if not path.exists():
            return []
        with path.open() as file:
            return list(csv.DictReader(file))

    def finished(self) -> dict[str, str]:
        """The trials that have ended well, and their scores."""
        return {row["trial"]: row["val_psnr"] for row in self.table("trials.csv") if row["state"] in ENDED}

    def runs(self) -> bool:
        assert self.process is not None
        return self.process.poll() is None

    def end(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=900)


def pids_of(title: str) -> list[int]:
    """Ray's processes of that title."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(title.encode()):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def inject(study: Study, faults: int, fault: Callable[[], bool]) -> tuple[int, int, int, int]:
    """Run a study to its end with faults on its way, each after a new epoch; count what was lost and repeated."""
    study.folder.parent.mkdir(parents=True)
    study.start()
    done, seen = 0, -1
    finished: dict[str, str] = {}
    deadline = time.monotonic() + 1500
    while done < faults and time.monotonic() < deadline:
        time.sleep(0.05)
        epochs = len(study.table("metrics.csv"))
        if not study.runs():
            break
        # Anywhere in an epoch.
        if epochs > seen and epochs > 0 and not time.sleep(random.uniform(0, 1)) and study.runs() and fault():
            done += 1
            seen = len(study.table("metrics.csv"))
            finished |= study.finished()
            if not study.runs():
                study.process = None
                study.start()
    code = study.end()
    now = study.finished()
    lost = sum(now.get(trial) != score for trial, score in finished.items())
    assert code == 0, study.output()[-4000:]
    trials = study.table("trials.csv")
    failed = sum(row["state"] not in ENDED for row in trials)
    shown = re.findall(r"^(trial-\d+) epoch +(\d+)/", study.output(), re.MULTILINE)
    return done, lost, failed, len(shown) - len(set(shown))


def kill_one(title: str) -> Callable[[], bool]:
    def fault() -> bool:
        pids = pids_of(title)
        if not pids:
            return False
        os.kill(random.choice(pids), signal.SIGKILL)
        return True

    return fault


def train_worker(folder: Path, count: int) -> tuple[int, int, int, int]:
    study = Study(folder, ["--workers", "2", "--trials", "4", "--trial-epochs", "8", "--epochs", "8"])
    return inject(study, count, kill_one("ray::RayTrainWorker"))


def trial_driver(folder: Path, count: int) -> tuple[int, int, int, int]:
    study = Study(folder, ["--workers", "2", "--trials", "3", "--trial-epochs", "4", "--epochs", "4"])
    return inject(study, count, kill_one("ray::ImplicitFunc"))


def trial_in_its_own_process(folder: Path, count: int) -> tuple[int, int, int, int]:
    study = Study(folder, ["--trials", "6", "--trial-epochs", "6", "--epochs", "6"])
    return inject(study, count, kill_one("ray::ImplicitFunc"))


def main_process(folder: Path, count: int) -> tuple[int, int, int, int]:
    study = Study(folder, ["--trials", "6", "--trial-epochs", "6", "--epochs", "6"])

    def fault() -> bool:
        assert study.process is not None
        study.process.kill()
        study.process.wait()
        return True

    return inject(study, count, fault)


def node(folder: Path, count: int) -> tuple[int, int, int, int]:
    with ray_cluster(1, 1, 1, 1, 1) as cluster:
        options = ["--trials", "6", "--trial-epochs", "6", "--epochs", "6", "--concurrent", "3"]
        return inject(Study(folder, options, {"RAY_ADDRESS": cluster.address}), count, cluster.kill_a_node)


def save_forever(run: Folder, epoch: int, saved: Connection) -> None:
    """Save checkpoints, one after the other, and tell of each."""
    torch.set_num_threads(1)
    config = with_values(quick(PAPER_V1), {"generator/base_width": 8})
    generator = config.generator.build()
    saved.send(epoch)
    while True:
        epoch += 1
        metrics = {"epoch": epoch, "val_psnr": float(epoch)}
        save_checkpoint(run, config, metrics, Best.of(generator, metrics), {"generator": generator.state_dict()})
        saved.send(epoch)


def checkpoint_save(folder: Path, count: int) -> tuple[int, int, int, int]:
    """The epochs lost are those that were saved whole; those that fail are checkpoints that cannot be read."""
    run, config = Folder(folder), with_values(quick(PAPER_V1), {"generator/base_width": 8})
    # It imports torch once, for all processes.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["raygan.presets", "raygan.train.checkpoint", "raygan.train.denoisers"])
    epoch = lost = unreadable = 0
    for _ in range(count):
        ours, theirs = processes.Pipe(duplex=False)
        process = processes.Process(target=save_forever, args=(run, epoch, theirs))
        process.start()
        theirs.close()
        done = ours.recv()
        time.sleep(random.uniform(0, 0.2))
        process.kill()
        process.join()
        with contextlib.suppress(EOFError):
            while True:
                done = ours.recv()
        try:
            saved = load_checkpoint(run, config)
        except Exception:  # noqa: BLE001  (any of them is what is looked for)
            unreadable += 1
            continue
        epoch = saved.epoch if saved is not None else 0
        lost += epoch < done
        unreadable += saved is not None and saved.best.metrics["epoch"] != epoch
    left = [name for name in run.files() if not name.startswith("epoch-")]
    assert not left, left
    return count, lost, unreadable, 0


FAULTS = {
    "train-worker": (train_worker, 20, "train worker of a TorchTrainer"),
    "trial-driver": (trial_driver, 5, "driver of a trial with two workers"),
    "trial": (trial_in_its_own_process, 10, "trial in its own process"),
    "main": (main_process, 5, "main process"),
    "node": (node, 4, "node"),
    "save": (checkpoint_save, 200, "process that saves checkpoints"),
}
"""What injects a fault, how often, and its name in the table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "faults", nargs="*", metavar="FAULT", help=f"faults to inject: {', '.join(FAULTS)} (default: all)"
    )
    parser.add_argument("--injections", type=int, help="number of injections per fault (default: 20, 5, 10, 5, 4, 200)")
    options = parser.parse_args()
    # Of a checkpoint that a kill left incomplete.
    logging.disable(logging.WARNING)
    print("| killed by SIGKILL | injections | finished trials lost | trials failed | epochs reported twice | minutes |")
    print("|---|---|---|---|---|---|", flush=True)
    for chosen in options.faults or FAULTS:
        run, count, name = FAULTS[chosen]
        with tempfile.TemporaryDirectory() as scratch:
            started = time.monotonic()
            counts = run(Path(scratch) / "studies" / "study", options.injections or count)
            minutes = (time.monotonic() - started) / 60
            print(f"| {name} | {' | '.join(map(str, counts))} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    main()
