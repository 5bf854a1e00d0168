"""Repeats of the best trials with other seeds, at the end of a search: they tell luck from quality."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from raygan.search.experiment import TrialSettings
from raygan.study.objectives import LESS_IS_BETTER
from raygan.study.trials import REPEATS, Trials

FINALISTS = 3
"""How many of the best trials are repeated, in turn."""
SEED = "seed"
"""Optuna user attribute of a repeat: its `training/seed`."""


def number_of_repeats(settings: TrialSettings) -> int:
    """How many of the search's trials, the last ones, repeat earlier ones."""
    if settings.repeats is not None:
        return settings.repeats
    # Few, since each is of full length where most trials stop early.
    return settings.trials // 20 if settings.trials >= 40 and len(settings.objectives) == 1 else 0


def is_repeat(trial: FrozenTrial | optuna.Trial) -> bool:
    """Whether a trial repeats another one."""
    return REPEATS in trial.user_attrs


def ask_repeat(trials: Trials, settings: TrialSettings, seed: int) -> optuna.Trial | None:
    """The next repeat, as a new trial, with the seed after those that its original has had (the first: `seed`).

    None: there have been all, or no trial was trained in full.
    """
    started = trials.started()
    done = sum(map(is_repeat, started))
    complete = [one for one in started if one.state == TrialState.COMPLETE and not is_repeat(one)]
    less_is_better = settings.objectives[0] in LESS_IS_BETTER
    complete.sort(key=lambda one: one.values[0], reverse=not less_is_better)
    finalists = complete[: min(FINALISTS, number_of_repeats(settings))]
    if done >= number_of_repeats(settings) or not finalists:
        return None
    original, number = finalists[done % len(finalists)], done // len(finalists)
    attributes = {REPEATS: original.user_attrs["trial"], SEED: seed + 1 + number}
    # Not enqueued: other points may still be, and would come first.
    repeat = create_trial(
        state=TrialState.RUNNING,
        params=original.params,
        distributions=original.distributions,
        user_attrs=attributes,
    )
    trials.study.add_trial(repeat)
    return trials.unfinished()[-1]


def name_of(trial: FrozenTrial | optuna.Trial) -> str:
    """The name of a repeat."""
    return f"{trial.user_attrs[REPEATS]}-seed-{trial.user_attrs[SEED]}"
