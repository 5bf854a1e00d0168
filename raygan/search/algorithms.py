"""Search algorithms, which propose trials: Optuna's samplers, and TPE with a distance between trials."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from raygan.search.experiment import TrialSettings
from raygan.seeds import derived_seed

DISTANCE = 0.15
"""How near a proposal of TPE may be to a started trial: of the values that all trials have, at least `DIFFERING` differ
by this share of their range.

Chosen on recorded learning curves, `benchmarks/curves.csv`.
"""
DIFFERING = 0.25
"""The share of these values: a point that differs in one of many is nearly the same trial."""
RANDOM_TRIALS = 5
"""Least number of ended and waiting trials from which on TPE proposes, chosen likewise; Optuna's default is 10."""


class DistantTPE(TPESampler):
    """TPE whose candidates keep a distance from all started trials.

    Optuna's own trains its favourite again and again: nothing in it says that a trial of the same values tells little.
    """

    def __init__(self, seed: int, first: int, started: Sequence[FrozenTrial], distance: float) -> None:
        """It proposes at random until `first` trials have ended or wait."""
        # constant_liar: running trials repel new ones.
        super().__init__(seed=seed, n_startup_trials=first, multivariate=True, group=True, constant_liar=True)
        self.started = started
        self.distance = distance

    def _compute_acquisition_func(
        self, samples: dict[str, NDArray[Any]], mpe_below: Any, mpe_above: Any
    ) -> NDArray[Any]:
        acquisition: NDArray[Any] = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        # TPE samples what is searched always, and what is searched under one condition, apart: in the few values of a
        # condition, every candidate would soon be near, whatever the others are.
        if not self.started or any(samples.keys() - trial.params.keys() for trial in self.started):
            return acquisition
        distances = _distances(self.started, samples).min(axis=0)
        # If all candidates are near, the farthest is taken.
        masked: NDArray[Any] = np.where(distances < self.distance, distances - 1e9, acquisition)
        return masked


def _distances(trials: Sequence[FrozenTrial], samples: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Distances, (trials, candidates), of candidates' internal values by path from trials.

    In each value, the distance is the share of its range; between different choices, it is 1. Of all values together,
    it is that by which at least `DIFFERING` of them differ.
    """
    axes = []
    for path, values in samples.items():
        distribution = trials[0].distributions[path]
        own = np.array([distribution.to_internal_repr(trial.params[path]) for trial in trials])[:, None]
        if isinstance(distribution, CategoricalDistribution):
            axes.append(np.where(values == own, 0.0, 1.0))
            continue
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        scale = np.log if distribution.log else np.asarray
        width = float(scale(distribution.high) - scale(distribution.low))
        axes.append(np.abs(scale(values) - scale(own)) / max(width, 1e-12))
    distances: NDArray[Any] = np.sort(axes, axis=0)[-math.ceil(DIFFERING * len(axes))]
    return distances


def sampler(
    settings: TrialSettings, number: int, values: int, started: Sequence[FrozenTrial], distance: float
) -> BaseSampler:
    """Optuna's sampler for the proposal of that number, suited to concurrent trials that are stopped early.

    Each proposal has a seed of its own: a resumed search proposes what an uninterrupted one does. TPE keeps a distance
    from the trials that have `started`. It begins when more trials have ended or wait than there are `values` to
    search, as in BOHB (Falkner et al., 2018), or after the first third of the search.
    """
    # Optuna's seeds have 32 bits.
    seed = derived_seed("proposal", settings.seed, number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match settings.search_algorithm:
            case "tpe":
                first = max(RANDOM_TRIALS, min(values + 1, settings.trials // 3))
                return DistantTPE(seed, first, started, distance)
            case "gp":
                return GPSampler(seed=seed)
            case "cmaes":
                return CmaEsSampler(seed=seed, consider_pruned_trials=True)
            case "nsga2":
                # Optuna's default generations of 50 would often be the whole search.
                return NSGAIISampler(seed=seed, population_size=max(4, min(50, settings.trials // 5)))
            case "random":
                return RandomSampler(seed=seed)
