"""A run's losses and accuracies, step by step, as a CSV file."""

from __future__ import annotations

from torch import Tensor

from raygan.study.storage import Folder


class StepLog:
    """Keeps `steps/<run>.csv` in a study's folder: `epoch`, `step` (from 1 over all epochs), and a column a value."""

    def __init__(self, folder: Folder, run: str, epochs_done: int) -> None:
        """Go on from the file of an earlier start, of which `epochs_done` epochs count."""
        self.folder = folder
        self.name = f"steps/{run}.csv"
        self.lines: list[str] = []
        if epochs_done and folder.exists(self.name):
            _, *lines = folder.read(self.name).decode().splitlines()
            self.lines = [line for line in lines if int(line.partition(",")[0]) <= epochs_done]

    def add_epoch(self, epoch: int, names: list[str], values: Tensor) -> None:
        """Append an epoch's steps, `values` of shape (steps, len(names)), to the file."""
        first = len(self.lines) + 1
        self.lines += [
            ",".join([str(epoch), str(step), *(f"{value:.6g}" for value in row)])
            for step, row in enumerate(values.tolist(), start=first)
        ]
        self.folder.write(self.name, "\n".join([",".join(["epoch", "step", *names]), *self.lines]) + "\n")
