"""Plays searches on recorded learning curves; needs neither RayGAN nor Ray, so that `peers.py` can use it.

A table is two files: `NAME.csv`, one row per recorded configuration with its values and its score after each epoch
(columns `epoch_1`, `epoch_2`, …; empty from where the training diverged; higher is better), and `NAME.json`, its search
space: `{"space": {PATH: PARAMETER}}` with a `Parameter`'s fields. A grid is looked up by the nearest configuration. Of
configurations drawn at random, the nearest says little: with `"forest": true`, extremely randomized trees (Geurts et
al., 2006; scikit-learn's) predict the curve, as in YAHPO Gym (Pfisterer et al., 2022); at a recorded configuration, it
is the recorded one.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

AT_ONCE = 4
FULL_TRIALS = 40
"""A search's budget, in trainings to the last epoch."""
TREES = 100


@dataclass(frozen=True)
class Parameter:
    """What is searched at one path: a range, or one of `choices`."""

    default: Any
    """The expert's value, for methods that take a prior."""
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    when: tuple[str, Any] | None = None
    """The path and the value of another parameter without which this one does nothing."""

    def coordinate(self, value: Any) -> float:
        """A value as share of the range, or as index of the choice."""
        if self.choices:
            return float(self.choices.index(value))
        scale = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))


class Table:
    """Recorded learning curves, and what they say of other configurations."""

    def __init__(self, path: Path) -> None:
        described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.space = {
            name: Parameter(**{key: tuple(value) if isinstance(value, list) else value for key, value in one.items()})
            for name, one in described["space"].items()
        }
        rows = pd.read_csv(path)
        self.points = np.array([self._coordinates(row) for row in rows.to_dict("records")])
        self.is_choice = np.array([bool(parameter.choices) for parameter in self.space.values()])
        scores = rows.filter(regex=r"^epoch_\d+$")
        self.curves: list[list[float]] = scores.cummax(axis=1, skipna=False).to_numpy(dtype=float).tolist()
        self.epochs = scores.shape[1]
        self.budget = FULL_TRIALS * self.epochs
        self.forest = Forest(self.points, np.array(self.curves)) if described.get("forest") else None

    def curve(self, point: Mapping[str, Any]) -> list[float]:
        """Best score so far after each epoch; NaN from where the training diverged."""
        own = np.array(self._coordinates(point))
        return self.curves[self._nearest(own)] if self.forest is None else self.forest.curve(own)

    def _nearest(self, own: NDArray[np.float64]) -> int:
        differences = np.abs(self.points - own)
        differences[:, self.is_choice] = differences[:, self.is_choice] != 0
        # A parameter that does nothing in both does not matter; if in one only, it differs as another choice would.
        without, recorded_without = np.isnan(own), np.isnan(self.points)
        differences[:, without] = 1.0
        differences[recorded_without] = 1.0
        differences[recorded_without & without] = 0.0
        return int((differences**2).sum(axis=1).argmin())

    def is_active(self, name: str, point: Mapping[str, Any]) -> bool:
        """Whether the parameter does anything at a point."""
        when = self.space[name].when
        return when is None or (self.is_active(when[0], point) and point[when[0]] == when[1])

    def _coordinates(self, point: Mapping[Any, Any]) -> list[float]:
        """A point in the unit cube; NaN where a parameter does nothing."""
        return [
            parameter.coordinate(point[name]) if self.is_active(name, point) else math.nan
            for name, parameter in self.space.items()
        ]


class Forest:
    """Curves by configuration, and whether the training has diverged by an epoch, learned from recorded ones."""

    def __init__(self, points: NDArray[np.float64], curves: NDArray[np.float64]) -> None:
        from sklearn.ensemble import ExtraTreesRegressor

        diverged = np.isnan(curves)
        scores = pd.DataFrame(curves).ffill(axis=1).fillna(0.0).to_numpy()
        self.trees = ExtraTreesRegressor(TREES, random_state=0).fit(
            self._features(points), np.hstack([scores, diverged])
        )

    def curve(self, point: NDArray[np.float64]) -> list[float]:
        """The expected curve; NaN from where most such trainings have diverged."""
        scores, diverged = np.split(self.trees.predict(self._features(point[None]))[0], 2)
        curve: list[float] = np.where(diverged >= 0.5, math.nan, scores).tolist()
        return curve

    @staticmethod
    def _features(points: NDArray[np.float64]) -> NDArray[np.float64]:
        # A parameter that does nothing is below all values.
        return np.nan_to_num(points, nan=-1.0)


@dataclass
class Job:
    """What a method asks for: a training, up to an epoch."""

    training: Hashable
    """Its name; a training that a method asks for again goes on where it ended, without its earlier epochs' cost."""
    point: Mapping[str, Any]
    epochs: int
    handle: Any
    """What the method knows it by."""


class Method(Protocol):
    """A search algorithm with its early stopping."""

    def ask(self) -> Job | None:
        """The next job; None: not now."""

    def tell(self, job: Job, epoch: int, score: float) -> bool:
        """Take in the best score after an epoch, NaN if the training diverged; returns whether the job goes on."""


def play(method: Method, table: Table, goal: float = math.inf) -> list[float]:
    """The best score known after each epoch that a search spends, in the order in which the epochs end.

    `AT_ONCE` jobs run at once, and every epoch takes as long. A search ends when it reaches the goal or when its budget
    is spent.
    """
    best, known = -math.inf, list[float]()
    running: list[tuple[int, int, Job, list[float], int]] = []
    done: dict[Hashable, int] = {}
    started = now = 0
    while len(known) < table.budget and best < goal:
        while len(running) < AT_ONCE and (job := method.ask()) is not None:
            curve, epoch = table.curve(job.point), done.get(job.training, 0)
            if job.epochs <= epoch:
                method.tell(job, job.epochs, curve[job.epochs - 1])
                continue
            heapq.heappush(running, (now + 1, started, job, curve, epoch))
            started += 1
        if not running:
            break
        now, number, job, curve, epoch = heapq.heappop(running)
        epoch += 1
        done[job.training] = max(epoch, done.get(job.training, 0))
        score = curve[epoch - 1]
        diverged = math.isnan(score)
        known.append(best := best if diverged else max(best, score))
        goes_on = method.tell(job, epoch, score)
        if goes_on and epoch < job.epochs and not diverged:
            heapq.heappush(running, (now + 1, number, job, curve, epoch))
    return known


def epochs_to(goal: float, known: Sequence[float]) -> float:
    """After how many epochs the best score reaches the goal; infinity where it does not."""
    return next((epochs for epochs, best in enumerate(known, start=1) if best >= goal), math.inf)
