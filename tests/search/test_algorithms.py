import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from raygan.config.section import with_values
from raygan.presets import PAPER_V1
from raygan.search.algorithms import OptunaSearcher, scheduler
from raygan.search.experiment import Scheduler, Search, SearchAlgorithm
from raygan.search.space import Space, When
from raygan.study.storage import Folder
from raygan.study.trials import Trials

X, POLICY, DEVIATION = "loss/adversarial_weight", "sampling", "sampling/deviation"
SPACE: Space = {X: FloatDistribution(0, 1), POLICY: CategoricalDistribution(["UniformPolicy", "NormalPolicy"])}
FIRST = {X: 0.25, POLICY: "NormalPolicy"}


def searching(
    folder: Path, space: Space = SPACE, first: Sequence[Mapping[str, Any]] = (), **options: Any
) -> OptunaSearcher:
    search = Search(name="s", config=PAPER_V1, space=space, **{"trials": 9, "trial_epochs": 3, **options})
    trials = Trials(Folder(folder), "s", search.objectives)
    trials.enqueue(first)
    return OptunaSearcher(trials, search)


def params(suggested: dict[str, Any] | None) -> dict[str, Any]:
    assert suggested is not None
    found: dict[str, Any] = suggested["params"]
    return found


def result(epoch: int, score: float, *, restored: bool = False) -> dict[str, Any]:
    return {"epoch": epoch, "best_val_psnr": score, "training_iteration": 1, "restored": restored}


def test_first_points_are_suggested_first(tmp_path: Path) -> None:
    searcher = searching(tmp_path, first=[FIRST])
    assert searcher.suggest("t1") == {"trial": "trial-0001", "params": FIRST}
    second = searcher.suggest("t2")
    assert second is not None
    assert second["trial"] == "trial-0002"
    assert 0 <= params(second)[X] <= 1


def test_conditional_values_are_sampled_only_where_they_matter(tmp_path: Path) -> None:
    layers = When("discriminator", "PatchGAN", IntDistribution(1, 3))
    space = SPACE | {
        DEVIATION: When(POLICY, "NormalPolicy", FloatDistribution(0.1, 0.5)),
        "discriminator/layers": layers,
    }
    searcher = searching(tmp_path, space)
    points = [params(searcher.suggest(f"t{index}")) for index in range(20)]
    seen = {(point[POLICY], DEVIATION in point) for point in points}
    assert seen == {("UniformPolicy", False), ("NormalPolicy", True)}
    assert not any("discriminator/layers" in point for point in points)


def test_optuna_records_how_each_trial_ended(tmp_path: Path) -> None:
    searcher = searching(tmp_path)
    for name in ("complete", "pruned", "failed", "diverged", "silent"):
        searcher.suggest(name)
    for epoch, score in ((1, 20.0), (2, 22.0), (3, 22.0)):
        searcher.on_trial_result("complete", result(epoch, score))
    searcher.on_trial_complete("complete", result(3, 22.0))
    searcher.on_trial_complete("pruned", result(1, 25.0))
    searcher.on_trial_complete("failed", error=True)
    searcher.on_trial_result("diverged", {"epoch": 0, "error": "training diverged in epoch 1"})
    searcher.on_trial_complete("diverged", {"epoch": 0, "error": "training diverged in epoch 1"})
    searcher.on_trial_complete("silent", None)
    study = searcher.trials.study
    complete, pruned, *failed = study.trials
    assert (complete.state, pruned.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert [trial.state for trial in failed] == [TrialState.FAIL] * 3
    assert [trial.user_attrs["error"] for trial in failed] == [
        "it lost its process too often",
        "training diverged in epoch 1",
        "the trial ended before its first epoch",
    ]
    assert complete.intermediate_values == {1: 20.0, 2: 22.0, 3: 22.0}
    assert pruned.intermediate_values == {1: 25.0}
    # A pruned trial's high early score does not make it the best: the best trial has the full budget.
    assert study.best_trial.number == complete.number


def test_optuna_records_several_objectives_at_a_trials_end(tmp_path: Path) -> None:
    objectives = ("val_ssim", "operations_per_pixel")
    searcher = searching(tmp_path, trial_epochs=2, scheduler="none", objectives=objectives)
    for name, ssim, operations in (("good", 0.9, 9.0), ("fast", 0.5, 1.0), ("neither", 0.4, 9.5)):
        searcher.suggest(name)
        scores = {"best_val_ssim": ssim, "best_operations_per_pixel": operations}
        searcher.on_trial_result(name, scores | {"epoch": 1})
        searcher.on_trial_complete(name, scores | {"epoch": 2})
    assert [trial.values for trial in searcher.trials.study.best_trials] == [[0.9, 9.0], [0.5, 1.0]]


def test_resumed_search_continues_the_trials_left_running_and_the_random_stream(tmp_path: Path) -> None:
    uninterrupted, killed = (searching(tmp_path / name, first=[FIRST]) for name in ("whole", "killed"))
    for searcher in (uninterrupted, killed):
        searcher.suggest("t1")
        searcher.on_trial_result("t1", result(1, 20.0))
        searcher.suggest("t2")
        searcher.on_trial_complete("t2", result(3, 21.0))
    # Asked for, but killed before it had a name or values.
    killed.trials.study.ask()
    resumed = searching(tmp_path / "killed", first=[FIRST])
    first, second = resumed.suggest("u1"), resumed.suggest("u2")
    assert first == {"trial": "trial-0001", "params": FIRST}
    assert second is not None
    assert second["trial"] == "trial-0003"
    # Resumed, a trial may report its last epoch again.
    resumed.on_trial_result("u1", result(1, 20.0, restored=True))
    resumed.on_trial_complete("u1", result(2, 20.5))
    orphan, _, named = resumed.trials.study.trials
    assert (orphan.state, orphan.intermediate_values) == (TrialState.PRUNED, {1: 20.0, 2: 20.5})
    assert named.user_attrs["trial"] == "trial-0003"

    # Nothing is left to resume: what is proposed next depends on the seed and on what was proposed.
    uninterrupted.suggest("t3")
    uninterrupted.on_trial_complete("t1", result(2, 20.5))
    again = searching(tmp_path / "whole")
    again.suggest("u1")
    assert set(params(again.suggest("u2"))) == set(SPACE)


def test_searcher_keeps_no_state_for_ray(tmp_path: Path) -> None:
    """Ray pickles it with every snapshot; a study of a thousand trials would make each slower."""
    searcher = searching(tmp_path, first=[FIRST])
    empty = len(pickle.dumps(searcher))
    for index in range(20):
        searcher.suggest(f"t{index}")
    assert len(pickle.dumps(searcher)) == empty


PEAK = {
    "optimizers/generator/beta1": FloatDistribution(0, 0.9),
    "optimizers/generator/beta2": FloatDistribution(0, 0.9),
    "optimizers/discriminator/beta1": FloatDistribution(0, 0.9),
    "optimizers/discriminator/beta2": FloatDistribution(0, 0.9),
}


def highest(folder: Path, algorithm: SearchAlgorithm, seed: int, trials: int) -> float:
    """The best score of a search over a paraboloid that peaks at 0; every second trial stops at half its epochs."""
    searcher = searching(folder, PEAK, search_algorithm=algorithm, seed=seed, trials=trials, trial_epochs=2)
    best = -math.inf
    for index in range(trials):
        score = -sum((20 * value - 13) ** 2 for value in params(searcher.suggest(f"t{index}")).values())
        searcher.on_trial_result(f"t{index}", result(1, score - 1))
        searcher.on_trial_complete(f"t{index}", result(1, score - 1) if index % 2 else result(2, score))
        best = max(best, score)
    return best


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("algorithm", "trials"), [("tpe", 60), ("gp", 20), ("cmaes", 60), ("nsga2", 60)])
def test_search_algorithms_beat_random_search(algorithm: SearchAlgorithm, trials: int, tmp_path: Path) -> None:
    found, by_chance = (
        [highest(tmp_path / f"{one}-{seed}", one, seed, trials) for seed in range(3)] for one in (algorithm, "random")
    )
    assert median(found) > median(by_chance)


class Trial:
    """As much of a Tune trial as schedulers look at."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


class _Controller:
    def get_live_trials(self) -> list[Trial]:
        return []


GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def scheduling(name: Scheduler, earlier: Mapping[str, Any] | None = None, **options: Any) -> Any:
    search = Search(name="s", config=PAPER_V1, space=SPACE, trials=9, trial_epochs=9, scheduler=name, **options)
    return scheduler(search.settings, earlier or {})


def decide(scheduler: Any, scores: dict[str, float], epoch: int, **more: Any) -> dict[str, str]:
    """What the scheduler says of new trials that report these scores, one after another."""
    decisions = {}
    for name, score in scores.items():
        trial = Trial(name)
        scheduler.on_trial_add(None, trial)
        decisions[name] = scheduler.on_trial_result(_Controller(), trial, result(epoch, score) | more)
    return decisions


def test_successive_halving_rung_check() -> None:
    scores = {"a": 30.0, "b": 20.0, "c": 10.0}
    assert decide(scheduling("asha"), scores, epoch=1) == {"a": GO, "b": STOP, "c": STOP}


def test_successive_halving_by_another_objective() -> None:
    asha = scheduling("asha", objectives=("operations_per_pixel",))
    decisions = {}
    for name, operations in (("a", 3.0), ("b", 5.0), ("c", 1.0)):
        decisions |= decide(asha, {name: 0.0}, epoch=1, best_operations_per_pixel=operations)
    assert decisions == {"a": GO, "b": STOP, "c": GO}


def test_median_stopping() -> None:
    scores = {"a": 30.0, "b": 20.0, "c": 10.0, "d": 15.0, "e": 25.0}
    assert decide(scheduling("median"), scores, epoch=1) == {"a": GO, "b": GO, "c": GO, "d": STOP, "e": GO}


@pytest.mark.parametrize("name", ["asha", "median"])
def test_schedulers_learn_earlier_trials(name: Scheduler) -> None:
    earlier = {trial: [result(1, 30.0), result(2, 31.0)] for trial in ("a", "b", "c")}
    assert decide(scheduling(name, earlier), {"d": 20.0, "e": 40.0}, epoch=1) == {"d": STOP, "e": GO}


@pytest.mark.parametrize("name", ["asha", "median", "none"])
def test_schedulers_do_not_stop_last_and_restored_epochs_or_errors(name: Scheduler) -> None:
    """Stopped at its last epoch, as Ray's own schedulers do, a trial would be killed while it closes down."""
    scores = {"a": 30.0, "b": 20.0, "c": 10.0, "d": -1.0, "e": -2.0}
    assert set(decide(scheduling(name), scores, epoch=9).values()) == {GO}
    assert set(decide(scheduling(name), scores, epoch=1, restored=True).values()) == {GO}
    assert set(decide(scheduling(name), scores, epoch=0, error="training diverged").values()) == {GO}


def test_values_of_the_search_reach_the_trial() -> None:
    search = Search(name="s", config=PAPER_V1, space=SPACE, trials=1, trial_epochs=3)
    config = with_values(PAPER_V1, search.values_at(FIRST))
    assert (config.loss.adversarial_weight, config.sampling.key) == (0.25, "NormalPolicy")
