"""Asynchronous successive halving (Li et al., 2020): trials wait at rungs, from which the best are promoted."""

from __future__ import annotations

import math
from collections.abc import Mapping


class Promotion:
    """Which trials wait at which rung, and which goes on next.

    A trial that has trained to a rung waits there with its checkpoint. It goes on if it is among the best 1 / `factor`
    of all trials that have reached that rung, which may be long after: trials that start later change what is best.
    """

    def __init__(self, epochs: int, trials: int) -> None:
        """For a search of so many trials, each of at most so many epochs."""
        self.factor = halving_factor(epochs)
        powers = [self.factor**power for power in range(round(math.log(epochs, self.factor)))]
        # Rounded first, since powers of the factor are not exact.
        self.rungs = sorted({math.ceil(round(power, 6)) for power in powers} - {epochs})
        self.trials = trials
        self.scores: dict[int, dict[str, float]] = {rung: {} for rung in self.rungs}
        """Scores, of which higher is better, by rung and trial."""
        self.waiting: dict[str, int] = {}
        """The trials that wait, and their rungs."""

    def learn(self, trial: str, scores: Mapping[int, float]) -> None:
        """Take in a trial's scores by epoch, perhaps of an earlier start of the study."""
        for rung in self.rungs:
            if rung in scores:
                self.scores[rung][trial] = scores[rung]

    def wait(self, trial: str, rung: int) -> None:
        """Let a trial wait at a rung that it has reached."""
        self.waiting[trial] = rung

    def next(self) -> str | None:
        """The trial that goes on now, from the highest rung where one may; it no longer waits. None: none may."""
        for rung in reversed(self.rungs):
            best = self._ranked(rung)[: int(len(self.scores[rung]) / self.factor)]
            for trial in best:
                if self.waiting.get(trial) == rung:
                    del self.waiting[trial]
                    return trial
        return None

    def hopeless(self) -> list[str]:
        """The waiting trials that can never go on, whatever the search still finds; they no longer wait."""
        reach, found = self.trials, list[str]()
        for rung in self.rungs:
            ranked, most = self._ranked(rung), int(reach / self.factor)
            found += [trial for trial in ranked[most:] if self.waiting.get(trial) == rung]
            # At most so many reach the next rung: those that went on already may have fallen behind since.
            reach = most + sum(self.waiting.get(trial) != rung for trial in ranked)
        for trial in found:
            del self.waiting[trial]
        return found

    def _ranked(self, rung: int) -> list[str]:
        """The trials that have reached a rung, the best first."""
        scores = self.scores[rung]
        return sorted(scores, key=lambda trial: -scores[trial])


def halving_factor(epochs: int) -> float:
    """The factor, near 3, with which the rungs 1, factor, factor², … end exactly at the last epoch.

    With a factor of 3 whatever the budget, 30 epochs would have a rung at 27, where little is left to save.
    """
    rungs = max(1, round(math.log(epochs, 3)))
    # Rounded, since 27 ** (1 / 3) is slightly above 3, which would move the rungs by an epoch.
    return max(2.0, round(math.exp(math.log(epochs) / rungs), 9))
