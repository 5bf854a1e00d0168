"""Asynchronous successive halving (Li et al., 2020): trials wait at rungs, from which the best are promoted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from raygan.search.experiment import TrialSettings
from raygan.search.repeats import number_of_repeats
from raygan.study.objectives import dominating

Scores = tuple[float, ...]
"""A trial's objectives, of which higher is better."""


class Promotion:
    """Which trials wait at which rung, and which goes on next.

    A trial that has trained to a rung waits there with its checkpoint. It goes on if it is among the best 1 / `factor`
    of all trials that have reached that rung, which may be long after: trials that start later change what is best.
    With several objectives, the best are those of the first non-dominated fronts and, of the front that is divided,
    those farthest from their neighbors (Deb et al., 2002: NSGA-II).
    """

    def __init__(self, epochs: int, trials: int) -> None:
        """For a search of so many trials, each of at most so many epochs."""
        self.factor = halving_factor(epochs)
        powers = [self.factor**power for power in range(round(math.log(epochs, self.factor)))]
        # Rounded first, since powers of the factor are not exact.
        self.rungs = sorted({math.ceil(round(power, 6)) for power in powers} - {epochs})
        self.epochs = epochs
        self.trials = trials
        self.scores: dict[int, dict[str, Scores]] = {rung: {} for rung in self.rungs}
        """Scores by rung and trial."""
        self.passed: dict[str, int] = {}
        """The highest rung from which each trial went on."""
        self.waiting: dict[str, int] = {}
        """The trials that wait, and their rungs."""

    def rung_at(self, epoch: int, epochs: int) -> int:
        """The highest rung that a trial of so many epochs has reached after one of them; 0: none."""
        return max((rung for rung in self.rungs if self._epoch_of(rung, epochs) <= epoch), default=0)

    def _epoch_of(self, rung: int, epochs: int) -> int:
        """The epoch at which a trial of so many epochs reaches a rung."""
        return math.ceil(rung * epochs / self.epochs)

    def learn(self, trial: str, scores: Mapping[int, Scores], epochs: int) -> None:
        """Take in the scores by epoch of a trial of so many epochs, perhaps of an earlier start of the study."""
        for rung in self.rungs:
            epoch = self._epoch_of(rung, epochs)
            if epoch in scores:
                self.scores[rung][trial] = scores[epoch]
            if epoch < max(scores, default=0):
                self.passed[trial] = rung

    def next(self) -> str | None:
        """The trial that goes on now, from the highest rung where one may; it no longer waits. None: none may."""
        for rung in reversed(self.rungs):
            trials, scores = list(self.scores[rung]), _array(self.scores[rung])
            for index in best_first(scores)[: int(len(trials) / self.factor)]:
                if self.waiting.get(trials[index]) == rung:
                    del self.waiting[trials[index]]
                    self.passed[trials[index]] = rung
                    return trials[index]
        return None

    def expected_epochs(self, trials: Sequence[tuple[float, bool]]) -> float:
        """Epochs of the whole search, if no more trials go on than must.

        `trials` has the epochs of each trial so far, of as many as `self.epochs`, and whether it has ended.
        """
        expected, reach, before = 0.0, self.trials, 0
        for rung in [*self.rungs, self.epochs]:
            # Those that ended on their way to this rung; at the one before, they would only have waited.
            fallen = [epochs for epochs, ended in trials if ended and (before < epochs < rung or epochs == before == 0)]
            reach -= len(fallen)
            expected += reach * (rung - before) + sum(fallen) - before * len(fallen)
            reach, before = max(int(reach / self.factor), sum(epochs > rung for epochs, _ in trials)), rung
        return expected

    def hopeless(self) -> list[str]:
        """The waiting trials that can never go on, whatever the search still finds; they no longer wait."""
        reach, found = self.trials, list[str]()
        for rung in self.rungs:
            most, scores = int(reach / self.factor), self.scores[rung]
            better = dict(zip(scores, dominating(_array(scores)), strict=True))
            found += [trial for trial in scores if self.waiting.get(trial) == rung and better[trial] >= most]
            # At most so many reach the next rung: those that went on already may have fallen behind since.
            reach = most + sum(self.waiting.get(trial) != rung for trial in scores)
        for trial in found:
            del self.waiting[trial]
        return found


def promotion_of(settings: TrialSettings) -> Promotion:
    """The promotion of these settings; without ASHA, there are no rungs to wait at."""
    epochs = settings.trial_epochs if settings.scheduler == "asha" else 1
    return Promotion(epochs, settings.trials - number_of_repeats(settings))


def _array(scores: Mapping[str, Scores]) -> NDArray[np.float64]:
    """The scores as rows."""
    return np.array(list(scores.values()), dtype=float) if scores else np.zeros((0, 1))


def best_first(scores: NDArray[np.float64]) -> list[int]:
    """The indices of scores, (trials, objectives), from the best on; of equal ones, the first comes first."""
    if scores.shape[1] <= 1:
        return [int(index) for index in np.argsort(-scores.ravel(), kind="stable")]
    left, order = np.arange(len(scores)), list[int]()
    while len(left):
        is_front = dominating(scores[left]) == 0
        front = left[is_front]
        order += [int(index) for index in front[np.argsort(-_crowding(scores[front]), kind="stable")]]
        left = left[~is_front]
    return order


def _crowding(front: NDArray[np.float64]) -> NDArray[np.float64]:
    """The crowding distance of each of a front's scores: infinite at its ends."""
    distances = np.zeros(len(front))
    for values in front.T:
        order = np.argsort(values, kind="stable")
        width = max(values[order[-1]] - values[order[0]], 1e-12)
        distances[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / width
        distances[order[[0, -1]]] = math.inf
    return distances


def halving_factor(epochs: int) -> float:
    """The factor, near 3, with which the rungs 1, factor, factor², … end exactly at the last epoch.

    With a factor of 3 whatever the budget, 30 epochs would have a rung at 27, where little is left to save.
    """
    rungs = max(1, round(math.log(epochs, 3)))
    # Rounded, since 27 ** (1 / 3) is slightly above 3, which would move the rungs by an epoch.
    return max(2.0, round(math.exp(math.log(epochs) / rungs), 9))
