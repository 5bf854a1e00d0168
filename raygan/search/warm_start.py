"""Warm start: what a search takes over from an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from raygan.config.run import Config
from raygan.config.section import flat_values
from raygan.search.experiment import TrialSettings
from raygan.search.space import Space, distribution_of, holds, space_to_json
from raygan.study.ledger import StudyError
from raygan.study.reader import StudyFiles
from raygan.study.storage import Folder

FIRST = 3
"""How many of the earlier study's best points are tried first."""
IRRELEVANT = ("hardware/", "data/cache", "training/epochs", "training/seed")
"""Prefixes of the paths in which the studies may differ all the same."""


@dataclass(frozen=True)
class WarmStart:
    """What a search takes over."""

    points: list[dict[str, Any]]
    """The best points that lie in its space, best first."""
    trials: list[FrozenTrial]
    """The earlier trials for Optuna; empty if their scores do not compare."""
    summary: str
    """The same in a sentence."""


def warm_start(settings: TrialSettings, space: Space, config: Config) -> WarmStart:
    """What the earlier search in the folder or prefix `settings.warm_start` found.

    Its best points, by the first objective, are taken over as far as they lie in the space; its trials, with their
    scores at each epoch, if it searched the same space for the same objectives with an otherwise equal configuration.
    Raises `StudyError` if there is no search, or nothing to take over.
    """
    location, objectives = settings.warm_start, settings.objectives
    if location is None:
        return WarmStart([], [], "")
    earlier = StudyFiles(Folder(location))
    if "space" not in earlier.record:
        raise StudyError(f"--warm-start {location} is not a search: give the folder of one")
    known = earlier.optuna_study(objectives[:1])
    minimize = known.direction.name == "MINIMIZE"
    trials = sorted(known.trials, key=lambda trial: trial.value or 0.0, reverse=not minimize)
    points = [trial.params for trial in trials if _lies_in(trial.params, space)][:FIRST]
    if not points:
        raise StudyError(
            f"--warm-start {location} has no successful trial whose values lie in the search space: widen it, or leave "
            "--warm-start out"
        )
    summary = f"Warm start from {location}: its {len(points)} best points first"
    differing = ["the search space"] if earlier.record["space"] != space_to_json(space) else []
    differing += ["the objectives"] if earlier.objectives != list(objectives) else []
    ours, theirs = flat_values(config), flat_values(earlier.config)
    differing += [
        path
        for path in dict.fromkeys([*ours, *theirs])
        if ours.get(path) != theirs.get(path) and path not in space and not path.startswith(IRRELEVANT)
    ]
    if differing:
        return WarmStart(points, [], f"{summary}; its scores are left out, since it differs in {', '.join(differing)}")
    same = earlier.optuna_study(objectives).trials
    taken = [_up_to(trial, settings.trial_epochs, len(objectives)) for trial in same]
    return WarmStart(points, taken, f"{summary}, and its {len(taken)} trials known to the search algorithm")


def _lies_in(point: dict[str, Any], space: Space) -> bool:
    return point.keys() <= space.keys() and all(holds(distribution_of(space[path]), point[path]) for path in point)


def _up_to(trial: FrozenTrial, epochs: int, objectives: int) -> FrozenTrial:
    """A trial with its scores up to `epochs`: complete if it got there, otherwise pruned."""
    if objectives > 1:
        return trial
    scores = {epoch: score for epoch, score in trial.intermediate_values.items() if epoch <= epochs}
    complete = epochs in scores
    return create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        value=scores[epochs] if complete else None,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=scores,
    )
