"""A long search under random SIGKILLs, to its end: `python tests/faults/soak.py [--trials 300] [--minutes 40]`.

Every 20 to 60 s, a trial's process or, one time in four, the main process is killed; the main process is started again.
Prints what was lost and how much memory the main process and Ray's own processes took over time; ends with 1 if a trial
is missing, failed or appears twice, or a finished one has changed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from inject import ENDED, Study, pids_of

OPTIONS = ["--trial-epochs", "9", "--epochs", "9", "--set", "data/train_photos=8"]
RAYS_OWN = ("gcs_server", "raylet")


def memory(study: Study) -> float:
    """Resident memory of the main process and of Ray's own, in MB."""
    assert study.process is not None
    pids = [study.process.pid]
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            pids += [int(path.parent.name)] if path.read_text().strip() in RAYS_OWN else []
        except OSError:
            continue
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return total * os.sysconf("SC_PAGE_SIZE") / 1e6


def soak(study: Study, minutes: float) -> Counter[str]:
    """Run the study to its end, killing something now and then for so many minutes; the kills of each kind."""
    study.folder.parent.mkdir(parents=True)
    study.start()
    kills: Counter[str] = Counter()
    finished: dict[str, str] = {}
    started = time.monotonic()
    next_kill = started + random.uniform(20, 60)
    print("| minutes | trials finished | kills | memory, MB |\n|---|---|---|---|", flush=True)
    while study.runs():
        time.sleep(0.5)
        now = time.monotonic()
        if now < next_kill:
            continue
        next_kill = now + random.uniform(20, 60)
        changed = [name for name, score in study.finished().items() if finished.setdefault(name, score) != score]
        assert not changed, changed
        print(f"| {(now - started) / 60:.1f} | {len(finished)} | {kills.total()} | {memory(study):.0f} |", flush=True)
        if now - started > 60 * minutes:
            continue
        trials = pids_of("ray::ImplicitFunc")
        if trials and random.random() < 0.75:
            os.kill(random.choice(trials), signal.SIGKILL)
            kills["trial"] += 1
        elif study.runs():
            assert study.process is not None
            study.process.kill()
            study.process.wait()
            kills["main process"] += 1
            study.start()
    assert study.end() == 0, study.output()[-4000:]
    return kills


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        study = Study(
            Path(scratch) / "studies" / "study", [*OPTIONS, "--trials", str(options.trials)], scheduler="asha"
        )
        started = time.monotonic()
        kills = soak(study, options.minutes)
        rows = study.table("trials.csv")
        names = {row["trial"] for row in rows}
        states = Counter(row["state"] for row in rows)
        epochs = Counter((row["trial"], row["epoch"]) for row in study.table("metrics.csv"))
        twice = sum(count > 1 for count in epochs.values())
        print(f"\n{(time.monotonic() - started) / 60:.1f} minutes; killed: {dict(kills)}; trials: {dict(states)}")
        lines = study.output().splitlines()
        # Of each traceback, the line after its last indented one.
        ends = Counter(
            next((line for line in lines[start + 1 :] if not line.startswith(" ")), "")
            for start, line in enumerate(lines)
            if line.startswith("Traceback")
        )
        print(f"epochs recorded twice: {twice}; tracebacks: {ends.total()}", *ends, sep="\n")
        complete = len(rows) == len(names) == options.trials and set(states) <= set(ENDED) and not twice
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
