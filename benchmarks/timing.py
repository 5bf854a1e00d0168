"""What the speed benchmarks share: fair timing of alternatives, and their tables."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

Runs = Mapping[str, Callable[[], object]]
"""What is timed, by its name in the table."""


def fastest(runs: Runs, rounds: int = 5) -> dict[str, float]:
    """The seconds of each run's fastest of some rounds, after one that does not count; they take turns in every round,
    so that whatever slows the machine down slows all of them."""
    best = dict.fromkeys(runs, float("inf"))
    for counted in [False] + [True] * rounds:
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if counted:
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table under a heading."""
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(map(_cell, row))} |", flush=True)


def machine() -> str:
    """The machine in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0] if names else platform.processor()}"


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
