import math
import pickle
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from raygan.config.run import Config
from raygan.search.algorithms import EpochAsha, EpochMedian, EpochOptunaSearch, EpochPopulation, sampler
from raygan.search.experiment import Search, Searcher
from raygan.search.space import Space, When
from raygan.search.stopping import TimeBudget
from raygan.study.ledger import Ledger
from raygan.study.storage import Folder

SPACE = {"a/x": FloatDistribution(0, 1), "a/kind": CategoricalDistribution(["p", "q"])}
FIRST = [{"a/x": 0.25, "a/kind": "q"}]


def searching(
    space: Space,
    first_points: Sequence[Mapping[str, Any]] = (),
    *,
    searcher: Searcher = "tpe",
    seed: int = 0,
    trials: int = 9,
    epochs: int = 3,
    values: Mapping[str, Any] | None = None,
) -> EpochOptunaSearch:
    search = Search(
        name="s", config=Config(), space=space, trials=trials, trial_epochs=epochs, searcher=searcher, seed=seed
    )
    return EpochOptunaSearch(sampler(search), space, first_points, epochs, values or {})


def result(epoch: int, score: float) -> dict[str, Any]:
    return {"epoch": epoch, "best_val_psnr": score, "training_iteration": 1}


def test_first_points_come_first_and_values_are_nested_paths() -> None:
    search = searching(SPACE, FIRST)
    assert search.suggest("t1") == {"a": {"x": 0.25, "kind": "q"}}
    second = search.suggest("t2")
    assert second is not None
    assert 0 <= second["a"]["x"] <= 1


def test_a_value_that_depends_on_another_is_drawn_only_where_it_matters() -> None:
    space = SPACE | {"a/q": When("a/kind", "q", IntDistribution(1, 3)), "a/z": When("b", 1, IntDistribution(1, 3))}
    search = searching(space, FIRST, values={"b": 2})
    points = [search.suggest(f"t{index}") for index in range(20)]
    kinds = {(point["a"]["kind"], "q" in point["a"]) for point in points if point is not None}
    assert kinds == {("p", False), ("q", True)}
    assert not any("z" in point["a"] for point in points if point is not None)


def test_optuna_learns_how_each_trial_ended() -> None:
    search = searching(SPACE)
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


def test_of_several_objectives_optuna_learns_each_trials_scores_at_its_end() -> None:
    search = Search(
        name="s",
        config=Config(),
        space=SPACE,
        trials=3,
        trial_epochs=2,
        scheduler="none",
        objectives=("val_ssim", "val_milliseconds"),
    )
    assert search.config.training.best_by == "val_ssim"
    proposer = EpochOptunaSearch(sampler(search), SPACE, [], 2, {}, objectives=search.objectives)
    for name, ssim, milliseconds in (("good", 0.9, 9.0), ("fast", 0.5, 1.0), ("neither", 0.4, 9.5)):
        proposer.suggest(name)
        told = {"best_val_ssim": ssim, "best_val_milliseconds": milliseconds, "training_iteration": 1}
        proposer.on_trial_result(name, told | {"epoch": 1})
        proposer.on_trial_complete(name, told | {"epoch": 2})
    assert [trial.values for trial in proposer._ot_study.best_trials] == [[0.9, 9.0], [0.5, 1.0]]


def test_asha_may_halve_by_another_objective(tmp_path: Path) -> None:
    asha = EpochAsha(str(tmp_path), 9, "val_milliseconds")
    decisions = {}
    for name, milliseconds in (("a", 3.0), ("b", 5.0), ("c", 1.0)):
        told = {"epoch": 1, "best_val_milliseconds": milliseconds}
        asha.on_trial_add(None, Trial(name))
        decisions[name] = asha.on_trial_result(_Controller(), Trial(name), told)
    assert decisions == {"a": GO, "b": STOP, "c": GO}


def test_a_saved_search_goes_on_with_what_it_knew(tmp_path: Any) -> None:
    search = searching(SPACE, FIRST)
    search.suggest("t1")
    search.on_trial_result("t1", result(1, 20.0))
    search.save(str(tmp_path / "state"))
    restored = searching(SPACE, FIRST)
    restored.restore(str(tmp_path / "state"))
    restored.on_trial_complete("t1", result(1, 20.0))
    assert restored._ot_study.trials[0].state == TrialState.PRUNED
    assert restored.suggest("t2") == search.suggest("t2")


BOWL = {name: FloatDistribution(-10, 10) for name in "abcd"}


def height(point: Mapping[str, float]) -> float:
    """Of a bowl turned over; highest, 0, where all are 3."""
    return -sum((value - 3) ** 2 for value in point.values())


def highest(searcher: Searcher, seed: int, trials: int) -> float:
    """What a search finds of which every second trial is ended at half its epochs, and half its height."""
    search = searching(BOWL, searcher=searcher, seed=seed, trials=trials, epochs=2)
    best = -math.inf
    for index in range(trials):
        point = search.suggest(f"t{index}")
        assert point is not None
        score = height(point)
        search.on_trial_result(f"t{index}", result(1, score - 1))
        if index % 2:
            search.on_trial_complete(f"t{index}", result(1, score - 1))
        else:
            search.on_trial_complete(f"t{index}", result(2, score))
        best = max(best, score)
    return best


@pytest.mark.parametrize(("searcher", "trials"), [("tpe", 100), ("gp", 30), ("cmaes", 100), ("nsga2", 100)])
def test_every_searcher_beats_random_search(searcher: Searcher, trials: int) -> None:
    found, by_chance = ([highest(one, seed, trials) for seed in range(5)] for one in (searcher, "random"))
    assert median(found) > median(by_chance)


class Trial:
    """As much of a Tune trial as schedulers look at."""

    def __init__(self, trial_id: str, *, has_reported_at_least_once: bool = False) -> None:
        self.trial_id = trial_id
        self.has_reported_at_least_once = has_reported_at_least_once

    def __str__(self) -> str:
        return self.trial_id


def decide(scheduler: Any, scores: dict[str, float], epoch: int) -> dict[str, str]:
    """What the scheduler says of new trials that report these scores, one after another."""
    decisions = {}
    for name, score in scores.items():
        trial = Trial(name)
        scheduler.on_trial_add(None, trial)
        decisions[name] = scheduler.on_trial_result(_Controller(), trial, result(epoch, score))
    return decisions


class _Controller:
    def get_live_trials(self) -> list[Trial]:
        return []


GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def test_asha_halves_on_epochs(tmp_path: Path) -> None:
    scores = {"a": 30.0, "b": 20.0, "c": 10.0}
    assert decide(EpochAsha(str(tmp_path), 9), scores, epoch=1) == {"a": GO, "b": STOP, "c": STOP}


def test_median_stops_what_falls_below_the_others(tmp_path: Path) -> None:
    scores = {"a": 30.0, "b": 20.0, "c": 10.0, "d": 15.0, "e": 25.0}
    decisions = decide(EpochMedian(str(tmp_path), 9), scores, epoch=1)
    assert decisions == {"a": GO, "b": GO, "c": GO, "d": STOP, "e": GO}


@pytest.mark.parametrize("scheduler", [EpochAsha, EpochMedian])
def test_schedulers_remember_the_trials_of_an_earlier_start(tmp_path: Path, scheduler: Any) -> None:
    ledger = Ledger(Folder(tmp_path))
    later = scheduler(str(tmp_path), 9)
    for name in ("a", "b", "c"):
        ledger.add_epoch(name, {"epoch": 1, "best_val_psnr": 30.0})
        ledger.add_epoch(name, {"epoch": 2, "best_val_psnr": 31.0})
    for name in ("a", "b", "c"):
        later.on_trial_add(None, Trial(name, has_reported_at_least_once=True))
    assert decide(later, {"d": 20.0, "e": 40.0}, epoch=1) == {"d": STOP, "e": GO}


@pytest.mark.parametrize("scheduler", [EpochAsha, EpochMedian])
def test_a_trial_ends_its_last_epoch_by_itself(tmp_path: Path, scheduler: Any) -> None:
    """Stopped there, as Ray's own schedulers do, it would be killed while it closes down."""
    last = scheduler(str(tmp_path), 9)
    assert set(decide(last, {"a": 30.0, "b": 20.0, "c": 10.0, "d": -1.0, "e": -2.0}, epoch=9).values()) == {GO}


def test_a_time_budget_counts_all_starts_of_a_study() -> None:
    budget = TimeBudget(0.5)
    assert not budget.stop_all()
    time.sleep(0.3)
    assert not budget.stop_all()
    later = pickle.loads(pickle.dumps(budget))
    # The time in between is not counted.
    time.sleep(0.3)
    assert not later.stop_all()
    assert not TimeBudget.spent
    time.sleep(0.3)
    assert later.stop_all()
    assert TimeBudget.spent


def test_a_population_changes_values_within_the_space() -> None:
    space = SPACE | {"a/count": IntDistribution(1, 3)}
    population = EpochPopulation(space, epochs=30)
    assert population._perturbation_interval == 3
    values = {"a/x": 0.99, "a/kind": "p", "a/count": 3}
    seen = []
    for _ in range(60):
        values, _ = population._get_new_config(None, _Donor(values))
        seen.append(values)
    assert all(0 <= one["a/x"] <= 1 and one["a/kind"] in ("p", "q") and one["a/count"] in (1, 2, 3) for one in seen)
    assert {one["a/kind"] for one in seen} == {"p", "q"}
    assert len({one["a/x"] for one in seen}) > 5


class _Donor:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
