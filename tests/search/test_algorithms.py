from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from raygan.search.algorithms import EpochAsha, EpochOptunaSearch

SPACE = {"a/x": FloatDistribution(0, 1), "a/kind": CategoricalDistribution(["p", "q"])}
FIRST = [{"a/x": 0.25, "a/kind": "q"}]


def result(epoch: int, score: float) -> dict[str, Any]:
    return {"epoch": epoch, "best_val_psnr": score, "training_iteration": 1}


def test_first_points_come_first_and_values_are_nested_paths() -> None:
    search = EpochOptunaSearch(SPACE, FIRST, seed=0, epochs=3)
    assert search.suggest("t1") == {"a": {"x": 0.25, "kind": "q"}}
    second = search.suggest("t2")
    assert second is not None
    assert 0 <= second["a"]["x"] <= 1


def test_optuna_learns_how_each_trial_ended() -> None:
    search = EpochOptunaSearch(SPACE, [], seed=0, epochs=3)
    for name in ("complete", "pruned", "failed"):
        search.suggest(name)
    for epoch, score in ((1, 20.0), (2, 22.0), (3, 21.0)):
        search.on_trial_result("complete", result(epoch, score))
    search.on_trial_complete("complete", result(3, 21.0))
    search.on_trial_complete("pruned", result(1, 25.0))
    search.on_trial_complete("failed", error=True)
    complete, pruned, failed = search._ot_study.trials
    assert (complete.state, pruned.state, failed.state) == (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    assert complete.intermediate_values == {1: 20.0, 2: 22.0, 3: 21.0}
    assert pruned.intermediate_values == {1: 25.0}
    # A pruned trial of a high early score is not the best: the study's best is the one of full budget.
    assert search._ot_study.best_trial.number == complete.number


def test_a_saved_search_goes_on_with_what_it_knew(tmp_path: Any) -> None:
    search = EpochOptunaSearch(SPACE, FIRST, seed=0, epochs=3)
    search.suggest("t1")
    search.on_trial_result("t1", result(1, 20.0))
    search.save(str(tmp_path / "state"))
    restored = EpochOptunaSearch(SPACE, FIRST, seed=0, epochs=3)
    restored.restore(str(tmp_path / "state"))
    restored.on_trial_complete("t1", result(1, 20.0))
    assert restored._ot_study.trials[0].state == TrialState.PRUNED
    assert restored.suggest("t2") == search.suggest("t2")


def test_it_finds_a_synthetic_optimum() -> None:
    search = EpochOptunaSearch({"x": FloatDistribution(-10, 10)}, [], seed=1, epochs=1)
    best = max((-((point["x"] - 3) ** 2), point["x"]) for point in (_run(search, f"t{index}") for index in range(60)))
    assert best[1] == pytest.approx(3, abs=0.5)


def _run(search: EpochOptunaSearch, name: str) -> dict[str, float]:
    point: dict[str, float] = search.suggest(name)
    score = result(1, -((point["x"] - 3) ** 2))
    search.on_trial_result(name, score)
    search.on_trial_complete(name, score)
    return point


def test_scheduler_halves_on_epochs() -> None:
    from ray.tune.schedulers import TrialScheduler

    class Trial:
        def __init__(self, trial_id: str) -> None:
            self.trial_id = trial_id

    asha = EpochAsha(9)
    asha.set_search_properties(None, None)
    decisions = {}
    for index, score in enumerate((30.0, 20.0, 10.0)):
        trial = Trial(str(index))
        asha.on_trial_add(None, trial)
        decisions[score] = asha.on_trial_result(None, trial, result(1, score))
    assert decisions == {30.0: TrialScheduler.CONTINUE, 20.0: TrialScheduler.STOP, 10.0: TrialScheduler.STOP}


def test_a_trial_ends_its_last_epoch_by_itself() -> None:
    """Stopped there, as Ray's own scheduler does, it would be killed while it closes down."""
    from ray.tune.schedulers import TrialScheduler

    asha = EpochAsha(9)
    asha.set_search_properties(None, None)
    assert asha.on_trial_result(None, None, result(9, -1.0)) == TrialScheduler.CONTINUE
