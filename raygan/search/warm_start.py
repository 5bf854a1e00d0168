"""What an earlier study knows, for a search that starts from there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from raygan.config.run import Config
from raygan.study.objectives import LESS_IS_BETTER
from raygan.search.experiment import Objective, Search
from raygan.study.ledger import Ledger, StudyError, read_study
from raygan.search.space import Space, distribution_of, holds, space_to_json, value_of
from raygan.config.section import flat_values
from raygan.study.storage import Folder

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


def warm_start(search: Search) -> WarmStart:
    """What the earlier search in the folder or prefix `search.warm_start` found.

    Its best points, by the first objective, are taken over as far as they lie in the space; its trials, with their
    scores at each epoch, where it searched the same space for the same objectives, with an otherwise equal
    configuration.
    Raises `StudyError` where there is no search, or nothing to take over.
    """
    location, space, objectives = search.warm_start, search.space, search.objectives
    assert location is not None
    folder = Folder(location)
    record = read_study(folder)
    if record is None or "space" not in record or not folder.exists("trials.csv"):
        raise StudyError(
            f"--warm-start {location} is no search: give the folder of one, which holds study.json and trials.csv"
        )
    ledger = Ledger(folder)
    theirs = {path: json_to_distribution(json.dumps(one)) for path, one in record["space"].items()}
    sign = 1 if objectives[0] in LESS_IS_BETTER else -1
    rows = sorted(ledger.good_trials(), key=lambda row: sign * float(row[objectives[0]]))
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
    differing += ["the objectives"] if record.get("objectives", ["val_psnr"]) != list(objectives) else []
    differing = differing or differing_values(record["config"], space, search.config)
    if differing:
        return WarmStart(points, [], f"{told}; its scores are left out, since it differs in {', '.join(differing)}")
    trials = [
        _frozen(point, theirs, ledger.epochs_of(name), search.trial_epochs, objectives) for name, point in found.items()
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
    point: dict[str, Any],
    space: dict[str, BaseDistribution],
    rows: Sequence[Mapping[str, Any]],
    epochs: int,
    objectives: Sequence[Objective],
) -> FrozenTrial:
    """A trial with its scores up to `epochs`: complete if it got there, else pruned."""
    rows = [row for row in rows if row["epoch"] <= epochs]
    complete = rows[-1]["epoch"] == epochs
    return create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        values=[rows[-1][f"best_{objective}"] for objective in objectives] if complete else None,
        params=point,
        distributions={path: space[path] for path in point},
        # Of several objectives Optuna takes the scores at a trial's end only.
        intermediate_values={row["epoch"]: row[f"best_{objectives[0]}"] for row in rows}
        if len(objectives) == 1
        else None,
    )
