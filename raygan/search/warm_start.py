"""What a search takes over from an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from raygan.config.run import Config
from raygan.config.section import flat_values
from raygan.search.experiment import TrialSettings
from raygan.search.space import Space, distribution_of, holds, space_to_json
from raygan.storage import Folder
from raygan.study.ledger import StudyError
from raygan.study.reader import StudyFiles

FIRST = 3
"""How many of the earlier study's best points are tried first."""
IRRELEVANT = ("hardware/", "data/cache", "data/evaluate_on", "training/epochs", "training/seed")
"""Prefixes of the paths in which the studies may differ all the same."""


@dataclass(frozen=True)
class WarmStart:
    """What a search takes over."""

    points: list[dict[str, Any]]
    """The best points that lie in the new search space, best first; each has the values of that space's parameters."""
    trials: list[FrozenTrial]
    """The earlier trials for Optuna; empty if their scores do not compare."""
    summary: str
    """The same in a sentence."""


def warm_start(settings: TrialSettings, space: Space, config: Config) -> WarmStart:
    """What the earlier search in the folder or prefix `settings.warm_start` found.

    Its best points, by the first objective, are taken over if they lie in the space; parameters outside the space must
    have the values of `config`. Its trials are taken over, with their scores at each epoch, if it searched the same
    space for the same objectives with an otherwise equal configuration.
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
    points, fixed = list[dict[str, Any]](), flat_values(config)
    for trial in trials:
        point = _point_in(space, fixed, trial.params)
        # Repeats have the values of their original.
        if point is not None and point not in points:
            points.append(point)
    points = points[:FIRST]
    if not points:
        raise StudyError(
            f"--warm-start {location} has no successful trial whose values lie in the search space: widen it, or leave "
            "--warm-start out"
        )
    summary = f"Warm start from {location}: its {len(points)} best points first"
    ours, theirs = (_with_absolute_folders(flat_values(one)) for one in (config, earlier.config))
    differing = {
        "the search space": earlier.record["space"] != space_to_json(space),
        "the objectives": earlier.objectives != list(objectives),
        # Their epochs are not those of this study.
        "equal_compute": settings.equal_compute or earlier.record.get("equal_compute", False),
    } | {
        path: ours.get(path) != theirs.get(path)
        for path in ours | theirs
        if path not in space and not path.startswith(IRRELEVANT)
    }
    if any(differing.values()):
        names = ", ".join(name for name, differs in differing.items() if differs)
        return WarmStart(points, [], f"{summary}; its scores are left out, since it differs in {names}")
    epochs = settings.trial_epochs if len(objectives) == 1 else None
    same = [_as_known(trial, epochs) for trial in earlier.optuna_study(objectives).trials]
    return WarmStart(points, same, f"{summary}, and its {len(same)} trials known to the search algorithm")


def _point_in(space: Space, fixed: dict[str, Any], params: dict[str, Any]) -> dict[str, Any] | None:
    """The point of a space with the values of `params`.

    None if one of them lies outside the space, or if one that the space does not have differs from that in `fixed`.
    """
    point = {path: value for path, value in params.items() if path in space}
    lies = all(holds(distribution_of(space[path]), value) for path, value in point.items())
    same = all(path in fixed and fixed[path] == value for path, value in params.items() if path not in space)
    return point if lies and same else None


def _with_absolute_folders(values: dict[str, Any]) -> dict[str, Any]:
    """The values with each folder of photos as an absolute path or address."""
    for path in ("data/photos", "data/evaluate_on", "data/pairs"):
        if (location := values.pop(f"{path}/location", None)) is not None:
            values[path] = Folder(location).location
    return values


def _as_known(trial: FrozenTrial, epochs: int | None) -> FrozenTrial:
    """A trial without its name, with its scores up to `epochs`: complete if it got there, otherwise pruned.

    None: as it ended, as Optuna keeps those of several objectives.
    """
    if epochs is None:
        return create_trial(
            state=trial.state, values=trial.values, params=trial.params, distributions=trial.distributions
        )
    scores = {epoch: score for epoch, score in trial.intermediate_values.items() if epoch <= epochs}
    return create_trial(
        state=TrialState.COMPLETE if epochs in scores else TrialState.PRUNED,
        value=scores.get(epochs),
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=scores,
    )
