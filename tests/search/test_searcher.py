import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from raygan.config.section import with_values
from raygan.models.cost import training_computation
from raygan.presets import PAPER_V1
from raygan.search.algorithms import DISTANCE
from raygan.search.experiment import Scheduler, Search, SearchAlgorithm
from raygan.search.promotion import promotion_of
from raygan.search.repeats import number_of_repeats
from raygan.search.searcher import OptunaSearcher
from raygan.search.space import Space, When
from raygan.search.stopping import Rungs
from raygan.storage import Folder
from raygan.study.ledger import Ledger
from raygan.study.trials import Trials
from raygan.train.driver import RETRIES

X, POLICY, DEVIATION = "loss/adversarial_weight", "sampling", "sampling/deviation"
SPACE: Space = {X: FloatDistribution(0, 1), POLICY: CategoricalDistribution(["UniformPolicy", "NormalPolicy"])}
FIRST = {X: 0.25, POLICY: "NormalPolicy"}


def searching(
    folder: Path, space: Space = SPACE, first: Sequence[Mapping[str, Any]] = (), **options: Any
) -> OptunaSearcher:
    search = Search(name="s", space=space, **{"config": PAPER_V1, "trials": 9, "trial_epochs": 3, **options})
    trials = Trials(Folder(folder), "s", search.objectives)
    trials.enqueue(first)
    return OptunaSearcher(trials, search, Ledger(trials.folder))


def params(suggested: dict[str, Any] | str | None) -> dict[str, Any]:
    assert isinstance(suggested, dict)
    found: dict[str, Any] = suggested["params"]
    return found


def result(epoch: int, score: float, *, epochs: int = 3) -> dict[str, Any]:
    return {"epoch": epoch, "epochs": epochs, "best_val_psnr": score, "training_iteration": 1}


def test_first_points_are_suggested_first(tmp_path: Path) -> None:
    searcher = searching(tmp_path, first=[FIRST])
    assert searcher.suggest("t1") == {"trial": "trial-0001", "params": FIRST, "epochs": 3, "passed": 0, "seed": 0}
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
    searcher = searching(tmp_path, space, trials=20)
    points = [params(searcher.suggest(f"t{index}")) for index in range(20)]
    seen = {(point[POLICY], DEVIATION in point) for point in points}
    assert seen == {("UniformPolicy", False), ("NormalPolicy", True)}
    assert not any("discriminator/layers" in point for point in points)


def test_optuna_records_how_each_trial_ended(tmp_path: Path) -> None:
    searcher = searching(tmp_path, scheduler="none")
    for name in ("complete", "pruned", "failed", "diverged", "silent"):
        searcher.suggest(name)
    for epoch, score in ((1, 20.0), (2, 22.0), (3, 22.0)):
        searcher.on_trial_result("complete", result(epoch, score))
    searcher.on_trial_complete("complete", result(3, 22.0))
    searcher.on_trial_complete("pruned", result(1, 25.0))
    for retry in range(RETRIES):
        lost = "failed" if retry == 0 else f"failed, {retry}"
        searcher.on_trial_complete(lost, error=True)
        again = searcher.suggest(f"failed, {retry + 1}")
        assert isinstance(again, dict)
        assert again["trial"] == "trial-0003"
    searcher.on_trial_complete(f"failed, {RETRIES}", error=True)
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
    searcher = searching(tmp_path, trial_epochs=2, objectives=objectives, scheduler="none")
    for name, ssim, operations in (("good", 0.9, 9.0), ("fast", 0.5, 1.0), ("neither", 0.4, 9.5)):
        searcher.suggest(name)
        scores = {"best_val_ssim": ssim, "best_operations_per_pixel": operations, "epochs": 2}
        searcher.on_trial_result(name, scores | {"epoch": 1})
        searcher.on_trial_complete(name, scores | {"epoch": 2})
    assert [trial.values for trial in searcher.trials.study.best_trials] == [[0.9, 9.0], [0.5, 1.0]]


def test_resumed_search_continues_the_trials_left_running_and_the_random_stream(tmp_path: Path) -> None:
    uninterrupted, killed = (
        searching(tmp_path / name, first=[FIRST], scheduler="none") for name in ("whole", "killed")
    )
    for searcher in (uninterrupted, killed):
        searcher.suggest("t1")
        searcher.on_trial_result("t1", result(1, 20.0))
        searcher.suggest("t2")
        searcher.on_trial_complete("t2", result(3, 21.0))
    # Asked for, but killed before it had a name or values.
    killed.trials.study.ask()
    resumed = searching(tmp_path / "killed", first=[FIRST], scheduler="none")
    first, second = resumed.suggest("u1"), resumed.suggest("u2")
    assert first == {"trial": "trial-0001", "params": FIRST, "epochs": 3, "passed": 0, "seed": 0}
    assert second is not None
    assert second["trial"] == "trial-0003"
    # Resumed, a trial may report its last epoch again.
    resumed.on_trial_result("u1", result(1, 20.0))
    resumed.on_trial_complete("u1", result(2, 20.5))
    orphan, _, named = resumed.trials.study.trials
    assert (orphan.state, orphan.intermediate_values) == (TrialState.PRUNED, {1: 20.0, 2: 20.5})
    assert named.user_attrs["trial"] == "trial-0003"

    # Nothing is left to resume: what is proposed next depends on the seed and on what was proposed.
    uninterrupted.suggest("t3")
    uninterrupted.on_trial_complete("t1", result(2, 20.5))
    again = searching(tmp_path / "whole", scheduler="none")
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
    options: dict[str, Any] = {"search_algorithm": algorithm, "seed": seed, "scheduler": "none", "repeats": 0}
    searcher = searching(folder, PEAK, trials=trials, trial_epochs=2, **options)
    best = -math.inf
    for index in range(trials):
        score = -sum((20 * value - 13) ** 2 for value in params(searcher.suggest(f"t{index}")).values())
        searcher.on_trial_result(f"t{index}", result(1, score - 1, epochs=2))
        searcher.on_trial_complete(f"t{index}", result(1 if index % 2 else 2, score - index % 2, epochs=2))
        best = max(best, score)
    return best


@pytest.mark.parametrize(("algorithm", "trials"), [("tpe", 60), ("gp", 36), ("cmaes", 60), ("nsga2", 60)])
def test_search_algorithms_beat_random_search(algorithm: SearchAlgorithm, trials: int, tmp_path: Path) -> None:
    found, by_chance = (
        [highest(tmp_path / f"{one}-{seed}", one, seed, trials) for seed in range(3)] for one in (algorithm, "random")
    )
    assert median(found) > median(by_chance)


def run_part(searcher: OptunaSearcher, trial_id: str, epochs: range, score: float) -> str:
    """Let the search algorithm's next trial train these epochs; returns its name."""
    suggested = searcher.suggest(trial_id)
    assert isinstance(suggested, dict)
    ledger = Ledger(searcher.trials.folder)
    for epoch in epochs:
        ledger.add_epoch(suggested["trial"], {**result(epoch, score), "seconds": 1.0})
    for epoch in epochs[:-1]:
        searcher.on_trial_result(trial_id, result(epoch, score, epochs=suggested["epochs"]))
    searcher.on_trial_complete(trial_id, result(epochs[-1], score, epochs=suggested["epochs"]))
    return str(suggested["trial"])


def test_the_best_waiting_trial_goes_on_after_a_restart_too(tmp_path: Path) -> None:
    searcher = searching(tmp_path, trials=9, trial_epochs=9)
    for index, score in enumerate((20.0, 25.0, 22.0), start=1):
        assert run_part(searcher, f"t{index}", range(1, 2), score) == f"trial-000{index}"
    # A kill: what waits is known from the ledger.
    searcher = searching(tmp_path, trials=9, trial_epochs=9)
    assert set(searcher.trials.waiting) == {"trial-0001", "trial-0002", "trial-0003"}
    assert run_part(searcher, "u1", range(2, 4), 26.0) == "trial-0002"
    assert {trial: searcher.promotion.waiting[trial] for trial in sorted(searcher.trials.waiting)} == {
        "trial-0001": 1,
        "trial-0002": 3,
        "trial-0003": 1,
    }
    assert run_part(searcher, "u2", range(1, 2), 30.0) == "trial-0004"
    assert run_part(searcher, "u3", range(2, 4), 31.0) == "trial-0004"
    # Of nine, three may go on from the first rung: the fourth best never will.
    states = [trial.state for trial in searcher.trials.started()]
    assert states == [TrialState.PRUNED, TrialState.RUNNING, TrialState.RUNNING, TrialState.RUNNING]
    searcher.end_unfinished()
    assert {trial.state for trial in searcher.trials.started()} == {TrialState.PRUNED}


def test_several_objectives_promote_both_ends_of_the_trade_off(tmp_path: Path) -> None:
    objectives = ("val_psnr", "operations_per_pixel")

    def part(searcher: OptunaSearcher, trial_id: str, epoch: int, psnr: float, operations: float) -> str:
        suggested = searcher.suggest(trial_id)
        assert isinstance(suggested, dict)
        scores = {"epoch": epoch, "epochs": 3, "best_val_psnr": psnr, "best_operations_per_pixel": operations}
        scores |= {"seconds": 1.0}
        Ledger(searcher.trials.folder).add_epoch(suggested["trial"], scores)
        searcher.on_trial_complete(trial_id, scores)
        return str(suggested["trial"])

    searcher = searching(tmp_path, trials=6, trial_epochs=3, objectives=objectives)
    for index, (psnr, operations) in enumerate([(20.0, 1.0), (25.0, 5.0), (26.0, 9.0), (19.0, 4.0), (24.0, 6.0)]):
        # With three at a rung, one goes on: an end of the front; with six, two.
        assert part(searcher, f"t{index}", 1, psnr, operations)
        if index == 2:
            searcher = searching(tmp_path, trials=6, trial_epochs=3, objectives=objectives)
            assert part(searcher, "u", 3, 21.0, 1.0) == "trial-0001"
    assert part(searcher, "v", 1, 10.0, 10.0) == "trial-0006"
    assert part(searcher, "w", 3, 27.0, 9.0) == "trial-0003"
    assert [trial.values for trial in searcher.trials.study.best_trials] == [[21.0, 1.0], [27.0, 9.0]]
    assert searcher.suggest("x") == searcher.FINISHED


def test_the_last_trials_repeat_the_best_with_other_seeds(tmp_path: Path) -> None:
    searcher = searching(tmp_path, trials=10, repeats=5, trial_epochs=3)
    scores = [20.0, 25.0, 22.0, 26.0, 24.0]
    for index in range(5):
        assert searcher.suggest(f"t{index}") is not None
    for index, score in enumerate(scores):
        # What still runs may be among the best.
        assert searcher.suggest("too early") is None
        # None waits: all are at their last epoch.
        searcher.on_trial_complete(f"t{index}", result(3, score))
    repeated = [searcher.suggest(f"r{index}") for index in range(2)]
    # A kill: what was repeated is known from the Optuna study, and what ran goes on.
    searcher = searching(tmp_path, trials=10, repeats=5, trial_epochs=3)
    again = [searcher.suggest(f"s{index}") for index in range(5)]
    assert again[:2] == repeated
    assert all(isinstance(point, dict) and point["passed"] == 3 for point in again)
    found = [(point["trial"], point["seed"]) for point in again if isinstance(point, dict)]
    assert found == [
        *(("trial-0004-seed-1", 1), ("trial-0002-seed-1", 1), ("trial-0005-seed-1", 1)),
        *(("trial-0004-seed-2", 2), ("trial-0002-seed-2", 2)),
    ]
    params_of = {trial.user_attrs["trial"]: trial.params for trial in searcher.trials.started()}
    assert params(again[0]) == params_of["trial-0004"]
    assert searcher.suggest("no more") is None
    for index, score in enumerate((21.0, 25.5, 23.0, 22.0, 24.5)):
        searcher.on_trial_complete(f"s{index}", result(3, score))
    assert searcher.suggest("no more") == searcher.FINISHED
    rows = searcher.trials.rows(Ledger(Folder(tmp_path)), [])
    assert [row.repeats for row in rows[5:]] == [name.rpartition("-seed")[0] for name, _ in found]
    assert {row.state for row in rows} == {"complete"}


def test_points_that_were_not_tried_are_no_repeats(tmp_path: Path) -> None:
    first = [{X: index / 5, POLICY: "UniformPolicy"} for index in range(5)]
    searcher = searching(tmp_path, first=first, trials=4, repeats=2, trial_epochs=3)
    for index in range(2):
        searcher.suggest(f"t{index}")
    for index in range(2):
        searcher.on_trial_complete(f"t{index}", result(3, 20.0 + index))
    repeated = [searcher.suggest(f"r{index}") for index in range(2)]
    names = [point["trial"] for point in repeated if isinstance(point, dict)]
    assert names == ["trial-0002-seed-1", "trial-0001-seed-1"]
    assert [params(point) for point in repeated] == [first[1], first[0]]


def test_without_a_full_training_nothing_is_repeated(tmp_path: Path) -> None:
    searcher = searching(tmp_path, trials=4, repeats=2, trial_epochs=1)
    for index in range(2):
        searcher.suggest(f"t{index}")
        searcher.on_trial_complete(f"t{index}", {"epoch": 0, "error": "training diverged in epoch 1"})
    proposed = searcher.suggest("t2")
    assert isinstance(proposed, dict)
    assert (proposed["trial"], proposed["seed"]) == ("trial-0003", 0)


def test_number_of_repeats() -> None:
    search = Search(name="s", config=PAPER_V1, space=SPACE, trials=100, trial_epochs=9)
    counts = {trials: number_of_repeats(replace(search, trials=trials)) for trials in (8, 39, 40, 100)}
    assert counts == {8: 0, 39: 0, 40: 2, 100: 5}
    assert number_of_repeats(replace(search, repeats=7)) == 7
    assert number_of_repeats(replace(search, objectives=("val_psnr", "val_ssim"))) == 0
    # They do not come to a rung, where others may hope for them.
    assert promotion_of(search).trials == 95


def test_a_search_waits_for_what_may_let_a_trial_go_on(tmp_path: Path) -> None:
    searcher = searching(tmp_path, trials=3, trial_epochs=9)
    run_part(searcher, "t1", range(1, 2), 20.0)
    run_part(searcher, "t2", range(1, 2), 21.0)
    assert searcher.suggest("t3") is not None
    assert searcher.suggest("t4") is None
    searcher.on_trial_complete("t3", result(1, 19.0, epochs=9))
    assert run_part(searcher, "t5", range(2, 4), 22.0) == "trial-0002"
    assert searcher.suggest("t6") == searcher.FINISHED


def test_tpe_sees_waiting_trials_as_pruned(tmp_path: Path) -> None:
    searcher = searching(tmp_path, trial_epochs=9)
    run_part(searcher, "t1", range(1, 2), 20.0)
    (seen,) = searcher.trials.with_waiting_as_pruned().get_trials()
    assert (seen.state, seen.intermediate_values) == (TrialState.PRUNED, {1: 20.0})
    assert searcher.trials.study.trials[0].state == TrialState.RUNNING


def test_tpe_proposes_nothing_near_a_started_trial(tmp_path: Path) -> None:
    """Fails when Optuna's acquisition function is no longer where it is overridden."""
    space = {path: PEAK[path] for path in list(PEAK)[:2]}
    searcher = searching(tmp_path, space, trials=30, trial_epochs=1)
    for index in range(30):
        values = params(searcher.suggest(f"t{index}")).values()
        searcher.on_trial_complete(f"t{index}", result(1, -sum((value - 0.4) ** 2 for value in values), epochs=1))
    points = [list(trial.params.values()) for trial in searcher.trials.started()]
    # The first ones are random; late ones are forced: thirty squares of this size nearly fill the space.
    nearest = [
        min(max(abs(a - b) / 0.9 for a, b in zip(point, other, strict=True)) for other in points[:index])
        for index, point in enumerate(points)
        if index >= 10
    ]
    assert sum(distance >= DISTANCE for distance in nearest[:8]) >= 7


def test_of_many_values_tpe_changes_a_quarter(tmp_path: Path) -> None:
    more = ("loss/content_weight", "loss/adversarial_weight", "loss/pixel_weight", "training/average_decay")
    space = PEAK | {path: FloatDistribution(0, 0.9) for path in more}
    searcher = searching(tmp_path, space, trials=40, trial_epochs=1, repeats=0)
    for index in range(40):
        values = params(searcher.suggest(f"t{index}")).values()
        searcher.on_trial_complete(f"t{index}", result(1, -sum((value - 0.4) ** 2 for value in values), epochs=1))
    points = [list(trial.params.values()) for trial in searcher.trials.started()]
    nearest = [
        min(sorted(abs(a - b) / 0.9 for a, b in zip(point, other, strict=True))[-2] for other in points[:index])
        for index, point in enumerate(points)
        if index
    ]
    assert min(nearest) >= DISTANCE


def test_tpe_learns_values_that_matter_under_a_condition(tmp_path: Path) -> None:
    """The distance from started trials is not kept in the conditional values alone, which would soon be all taken."""
    conditional = When(POLICY, "NormalPolicy", FloatDistribution(0.1, 0.5))
    space = {**dict(list(PEAK.items())[:3]), POLICY: SPACE[POLICY], DEVIATION: conditional}
    errors = []
    for seed in range(3):
        searcher = searching(tmp_path / str(seed), space, trials=50, trial_epochs=1, seed=seed)
        for index in range(50):
            values = params(searcher.suggest(f"t{index}"))
            score = -sum((value - 0.4) ** 2 for value in list(values.values())[:3])
            if DEVIATION in values:
                score += 0.5 - 40 * (values[DEVIATION] - 0.2) ** 2
            searcher.on_trial_complete(f"t{index}", result(1, score, epochs=1))
        drawn = [trial.params[DEVIATION] for trial in searcher.trials.started() if DEVIATION in trial.params]
        errors += [abs(deviation - 0.2) for deviation in drawn[-15:]]
    # Random values would have 0.125.
    assert sum(errors) / len(errors) < 0.075


class Trial:
    """As much of a Tune trial as schedulers look at."""

    def __init__(self, trial_id: str, passed: int = 0) -> None:
        self.trial_id = trial_id
        self.config = {"passed": passed}


class _Controller:
    def get_live_trials(self) -> list[Trial]:
        return []


GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def scheduling(name: Scheduler) -> Any:
    search = Search(name="s", config=PAPER_V1, space=SPACE, trials=9, trial_epochs=9, scheduler=name)
    return Rungs(promotion_of(search.settings))


def decide(scheduler: Any, scores: dict[str, float], epoch: int, passed: int = 0, **more: Any) -> dict[str, str]:
    """What the scheduler says of trials that report these scores, one after another, having passed a rung."""
    decisions = {}
    for name, score in scores.items():
        trial = Trial(name, passed)
        scheduler.on_trial_add(None, trial)
        decisions[name] = scheduler.on_trial_result(_Controller(), trial, result(epoch, score, epochs=9) | more)
    return decisions


def test_successive_halving_ends_a_part_at_every_rung() -> None:
    scores = {"a": 30.0, "b": 20.0, "c": 10.0}
    asha = scheduling("asha")
    decisions = [decide(asha, scores, epoch, passed) for epoch, passed in ((1, 0), (2, 1), (3, 1), (4, 3))]
    assert [set(one.values()) for one in decisions] == [{STOP}, {GO}, {STOP}, {GO}]


def test_successive_halving_does_not_end_a_part_at_rungs_that_were_passed() -> None:
    asha, went_on = scheduling("asha"), Trial("a", passed=1)
    decisions = [asha.on_trial_result(_Controller(), went_on, result(epoch, 30.0, epochs=9)) for epoch in (1, 2, 3)]
    assert decisions == [GO, GO, STOP]
    # A kill between its checkpoint and our record: the epoch is restored, and was never compared.
    assert asha.on_trial_result(_Controller(), went_on, result(3, 30.0, epochs=9)) == STOP


@pytest.mark.parametrize("name", ["asha", "none"])
def test_schedulers_stop_neither_last_epochs_nor_passed_rungs_nor_errors(name: Scheduler) -> None:
    """Stopped at its last epoch, as Ray's own schedulers do, a trial would be killed while it closes down."""
    scores = {"a": 30.0, "b": 20.0, "c": 10.0, "d": -1.0, "e": -2.0}
    assert set(decide(scheduling(name), scores, epoch=9).values()) == {GO}
    assert set(decide(scheduling(name), scores, epoch=2, passed=1).values()) == {GO}
    assert set(decide(scheduling(name), scores, epoch=0, error="training diverged").values()) == {GO}


def test_equal_compute_moves_epochs_and_rungs_with_the_cost(tmp_path: Path) -> None:
    widths = {"generator/base_width": CategoricalDistribution([16, 32, 64])}
    base, asha = with_values(PAPER_V1, {"loss/content": "MeanSquaredError"}), scheduling("asha")
    options = {"config": base, "trial_epochs": 9, "equal_compute": True, "search_algorithm": "random"}
    first = [{"generator/base_width": width} for width in (16, 64)]
    searcher = searching(tmp_path, widths, first, **options)
    cost = {width: training_computation(with_values(base, {"generator/base_width": width}), 1) for width in (16, 64)}
    epochs = {}
    for name, width in (("small", 16), ("large", 64)):
        point = searcher.suggest(name)
        assert isinstance(point, dict)
        epochs[width] = point["epochs"]
        assert point["epochs"] == round(training_computation(base, 9) / cost[width])
        # The first rung is a ninth of the computation, whatever the network.
        trial, rung = Trial(name), math.ceil(point["epochs"] / 9)
        stops = [
            epoch
            for epoch in range(1, rung + 1)
            if asha.on_trial_result(_Controller(), trial, result(epoch, 20.0, epochs=point["epochs"])) == STOP
        ]
        assert stops == [rung]
        for epoch in range(1, rung):
            searcher.on_trial_result(name, result(epoch, 20.0, epochs=point["epochs"]))
        searcher.on_trial_complete(name, result(rung, 20.0 + width, epochs=point["epochs"]))
    assert epochs[16] > epochs[64]
    assert searcher.promotion.waiting == {"trial-0001": 1, "trial-0002": 1}
    small, large = searcher.trials.started()
    # Optuna compares equal computation: its steps are epochs of the configuration as it is.
    assert max(small.intermediate_values) == max(large.intermediate_values) == 1


def test_values_of_the_search_reach_the_trial() -> None:
    search = Search(name="s", config=PAPER_V1, space=SPACE, trials=1, trial_epochs=3)
    config = with_values(PAPER_V1, search.values_at(FIRST))
    assert (config.loss.adversarial_weight, config.sampling.key) == (0.25, "NormalPolicy")
