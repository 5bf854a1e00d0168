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
    trials = sorted(known.trials, key=lambda trial: trial.value or 0.0, reverse=known.direction.name == "MAXIMIZE")
    points = [
        trial.params
        for trial in trials
        if all(path in space and holds(distribution_of(space[path]), value) for path, value in trial.params.items())
    ][:FIRST]
    if not points:
        raise StudyError(
            f"--warm-start {location} has no successful trial whose values lie in the search space: widen it, or leave "
            "--warm-start out"
        )
    summary = f"Warm start from {location}: its {len(points)} best points first"
    ours, theirs = flat_values(config), flat_values(earlier.config)
    differing = {
        "the search space": earlier.record["space"] != space_to_json(space),
        "the objectives": earlier.objectives != list(objectives),
    } | {
        path: ours.get(path) != theirs.get(path)
        for path in ours | theirs
        if path not in space and not path.startswith(IRRELEVANT)
    }
    if any(differing.values()):
        names = ", ".join(name for name, differs in differing.items() if differs)
        return WarmStart(points, [], f"{summary}; its scores are left out, since it differs in {names}")
    same = earlier.optuna_study(objectives).trials
    if len(objectives) == 1:
        same = [_up_to(trial, settings.trial_epochs) for trial in same]
    return WarmStart(points, same, f"{summary}, and its {len(same)} trials known to the search algorithm")


def _up_to(trial: FrozenTrial, epochs: int) -> FrozenTrial:
    """A trial with its scores up to `epochs`: complete if it got there, otherwise pruned."""
    scores = {epoch: score for epoch, score in trial.intermediate_values.items() if epoch <= epochs}
    return create_trial(
        state=TrialState.COMPLETE if epochs in scores else TrialState.PRUNED,
        value=scores.get(epochs),
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=scores,
    )
