"""What an earlier study knows, for a search that starts from there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from raygan.config import Config
from raygan.search.ledger import Ledger, StudyError, read_study
from raygan.search.space import Space, distribution_of, holds, space_to_json, value_of
from raygan.section import flat_values
from raygan.storage import Folder

FIRST = 3
"""How many of the earlier study's best points are tried first."""
OF_NO_MATTER = ("hardware/", "data/cache", "training/epochs", "training/seed")
"""Beginnings of the paths in which the studies may differ all the same."""


@dataclass(frozen=True)
class WarmStart:
    """What a search takes over."""

    points: list[dict[str, Any]]
    """The best points, best first, that lie in its space."""
    trials: list[FrozenTrial]
    """The trials as Optuna should know them; none where their scores would not compare."""
    told: str
    """All that in a sentence."""


def warm_start(location: str, space: Space, config: Config, epochs: int) -> WarmStart:
    """What the search in the folder or prefix `location` found, for trials of at most `epochs` epochs.

    Its best points are taken over as far as they lie in `space`; its trials, with their scores at each epoch, where
    it searched the same space with an otherwise equal configuration. Raises `StudyError` where there is no search, or
    nothing to take over.
    """
    folder = Folder(location)
    record = read_study(folder)
    if record is None or "space" not in record or not folder.exists("trials.csv"):
        raise StudyError(
            f"--warm-start {location} is no search: give the folder of one, which holds study.json and trials.csv"
        )
    ledger = Ledger(folder)
    theirs = {path: json_to_distribution(json.dumps(one)) for path, one in record["space"].items()}
    rows = sorted(ledger.good_trials(), key=lambda row: -float(row["val_psnr"]))
    found = {
        row["trial"]: {path: value_of(one, row[path]) for path, one in theirs.items() if row[path]} for row in rows
    }
    points = [point for point in found.values() if _lies_in(point, space)][:FIRST]
    if not points:
        raise StudyError(
            f"--warm-start {location} has no good trial whose values lie in the search space: widen "
            "it, or leave --warm-start out"
        )
    told = f"Warm start from {location}: its {len(points)} best points first"
    differing = ["the search space"] if record["space"] != space_to_json(space) else []
    differing = differing or differing_values(record["config"], space, config)
    if differing:
        return WarmStart(points, [], f"{told}; its scores are left out, since it differs in {', '.join(differing)}")
    trials = [
        _frozen(point, theirs, {int(row["epoch"]): row["best_val_psnr"] for row in ledger.epochs_of(name)}, epochs)
        for name, point in found.items()
    ]
    return WarmStart(points, trials, f"{told}, and its {len(trials)} trials known to the searcher")


def _lies_in(point: dict[str, Any], space: Space) -> bool:
    return point.keys() <= space.keys() and all(holds(distribution_of(space[path]), point[path]) for path in point)


def differing_values(record: dict[str, Any], space: Space, config: Config) -> list[str]:
    """The paths at which a recorded configuration differs so that scores, in the same space, do not compare."""
    ours, theirs = flat_values(config), flat_values(Config.from_json(record))
    return [
        path
        for path, value in ours.items()
        if value != theirs[path] and path not in space and not path.startswith(OF_NO_MATTER)
    ]


def _frozen(
    point: dict[str, Any], space: dict[str, BaseDistribution], scores: dict[int, float], epochs: int
) -> FrozenTrial:
    """A trial with its scores up to `epochs`: complete if it got there, else pruned."""
    scores = {epoch: score for epoch, score in scores.items() if epoch <= epochs}
    complete = max(scores) == epochs
    return create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        value=scores[epochs] if complete else None,
        params=point,
        distributions={path: space[path] for path in point},
        intermediate_values=scores,
    )
