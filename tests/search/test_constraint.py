"""Limits on what a search's generators cost."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import raygan_here
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from raygan.config.run import Config
from raygan.config.section import ConfigError, with_values
from raygan.models.cost import operations_per_pixel, parameters
from raygan.presets import PAPER_V1
from raygan.search.experiment import Search
from raygan.search.limits import check_first_points, refusal
from raygan.search.searcher import OptunaSearcher
from raygan.storage import Folder
from raygan.study.ledger import Ledger
from raygan.study.trials import Trials

SMALL = with_values(PAPER_V1, {"generator/base_width": 4, "generator/depth": 2, "data/crop_size": 64})
SEARCH = Search(
    name="s",
    config=SMALL,
    space={
        "generator/base_width": IntDistribution(2, 64),
        "generator/upsampling": CategoricalDistribution(["transposed", "resize"]),
        "loss/adversarial_weight": FloatDistribution(0.0, 0.1),
    },
    first_points=[SMALL],
    trials=50,
    trial_epochs=2,
)
LIMIT = parameters(with_values(SMALL, {"generator/base_width": 8}).generator)


def limited(count: int | None, operations: float | None, first_points: Sequence[Config] = ()) -> Search:
    return dataclasses.replace(SEARCH, max_parameters=count, max_operations=operations, first_points=first_points)


def searcher(search: Search, folder: Path) -> OptunaSearcher:
    trials = Trials(Folder(folder), "s", search.objectives)
    trials.enqueue(search.points())
    return OptunaSearcher(trials, search, Ledger(trials.folder))


def params(suggested: dict[str, Any] | None) -> dict[str, Any]:
    assert suggested is not None
    found: dict[str, Any] = suggested["params"]
    return found


@pytest.mark.parametrize("algorithm", ["tpe", "random", "nsga2", "cmaes"])
def test_no_trial_exceeds_the_limit(algorithm: Any, tmp_path: Path) -> None:
    space = {path: one for path, one in SEARCH.space.items() if algorithm != "cmaes" or path != "generator/upsampling"}
    search = dataclasses.replace(SEARCH, search_algorithm=algorithm, max_parameters=LIMIT, space=space)
    proposer = searcher(search, tmp_path)
    count = 12 if algorithm == "cmaes" else 30
    for index in range(count):
        values = params(proposer.suggest(f"t{index}"))
        assert parameters(with_values(SMALL, values).generator) <= LIMIT
        # The wider the better: what is best lies beyond the limit.
        if index % 3:
            result = {"epoch": 2, "epochs": 2, "best_val_psnr": float(values["generator/base_width"])}
            proposer.on_trial_complete(f"t{index}", result)
    trials = proposer.trials.study.trials
    refused = [trial for trial in trials if "trial" not in trial.user_attrs]
    assert len(refused) == len(trials) - count > 0
    assert {(trial.state, trial.value) for trial in refused} == {(TrialState.PRUNED, None)}
    assert all(trial.constraints["cost"] > 0 for trial in refused if algorithm != "cmaes")


def test_tpe_finds_a_narrow_feasible_region_from_refused_points(tmp_path: Path) -> None:
    space = {"generator/base_width": IntDistribution(4, 64), "generator/depth": IntDistribution(2, 6)}
    limit = parameters(with_values(SMALL, {"generator/base_width": 5, "generator/depth": 2}).generator)
    search = dataclasses.replace(SEARCH, space=space, first_points=[], max_parameters=limit)
    proposer = searcher(search, tmp_path)
    for index in range(8):
        assert proposer.suggest(f"t{index}") is not None
    assert len(proposer.trials.study.trials) < 300


def test_impossible_limit_names_the_smallest_generator(tmp_path: Path) -> None:
    search = dataclasses.replace(SEARCH, search_algorithm="random", first_points=[], max_parameters=10)
    cheapest = min(
        parameters(with_values(SMALL, {"generator/base_width": 2, "generator/upsampling": one}).generator)
        for one in ("transposed", "resize")
    )
    with pytest.raises(ConfigError, match=rf"of 1,000 .* none can be trained; .* has {cheapest:,} trainable"):
        searcher(search, tmp_path).suggest("t")


def test_values_that_are_invalid_together_are_not_trained(tmp_path: Path) -> None:
    # Each enlargement is valid beside the other one's own value.
    space = {"data/min_enlargement": FloatDistribution(1, 3), "data/max_enlargement": FloatDistribution(2, 6)}
    config = with_values(SMALL, {"data/min_enlargement": 1.0, "data/max_enlargement": 6.0})
    search = dataclasses.replace(SEARCH, config=config, space=space, first_points=[])
    search.check()
    proposer = searcher(search, tmp_path)
    for index in range(12):
        values = params(proposer.suggest(f"t{index}"))
        assert values["data/min_enlargement"] <= values["data/max_enlargement"]
    assert len(proposer.trials.study.trials) > 12
    never = {"data/min_enlargement": FloatDistribution(4, 5), "data/max_enlargement": FloatDistribution(2, 3)}
    search = dataclasses.replace(search, space=never)
    with pytest.raises(ConfigError, match="the values are invalid together: 1 <= min_enlargement <= max_enlargement"):
        searcher(search, tmp_path / "never").suggest("t")


def test_a_proposal_beyond_the_limit_is_not_trained_after_a_kill_either(tmp_path: Path) -> None:
    proposer = searcher(limited(LIMIT, None), tmp_path)
    # Killed before it was refused.
    proposer.trials.study.enqueue_trial({"generator/base_width": 64})
    proposer.trials.study.ask().suggest_int("generator/base_width", 2, 64)
    values = params(searcher(limited(LIMIT, None), tmp_path).suggest("t"))
    assert parameters(with_values(SMALL, values).generator) <= LIMIT


def test_excess_is_that_of_the_limit_exceeded_most() -> None:
    generator = SMALL.generator
    count, operations = parameters(generator), operations_per_pixel(generator)
    assert refusal(limited(None, None), generator) is None
    assert refusal(limited(count, operations), generator) is None
    for limits, excess in ((limited(count // 2, None), 1), (limited(count, operations / 4), 3)):
        refused = refusal(limits, generator)
        assert refused is not None
        assert refused.excess == pytest.approx(excess, rel=1e-2)


def test_first_points_that_exceed_a_limit_raise() -> None:
    points = [SMALL, with_values(SMALL, {"generator/base_width": 64})]
    count = parameters(points[1].generator)
    check_first_points(limited(LIMIT, None, points[:1]))
    with pytest.raises(
        ConfigError,
        match=rf"first point 2: its generator has {count:,} trainable parameters and [\d,]+ operations per pixel "
        rf"\(UNet\(.*\), but --max-parameters {LIMIT} was asked for",
    ):
        check_first_points(limited(LIMIT, None, points))
    with pytest.raises(ConfigError, match=r"first point 1: .* but --max-parameters 1000000000 --max-operations 0.5"):
        check_first_points(limited(10**9, 0.5, points))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_parameters": 0}, r"max_parameters > 0 must hold, but got max_parameters=0"),
        ({"max_operations": 0.0}, r"max_operations > 0 must hold, but got max_operations=0.0"),
        ({"max_operations": 9.0, "search_algorithm": "gp"}, "a Gaussian process would propose"),
    ],
)
def test_invalid_limits_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SEARCH, **options).check()


def test_limits_are_part_of_a_studys_identity() -> None:
    limited = dataclasses.replace(SEARCH, max_parameters=9, max_operations=2.0).identity()
    assert limited == SEARCH.identity() | {"max_parameters": 9, "max_operations": 2.0}


def test_system_search_refuses_an_expensive_first_point_before_it_begins(tmp_path: Path) -> None:
    options = ("--quick", "--max-parameters", "1000000", "--storage", tmp_path / "studies")
    ended = raygan_here("search", "system", *options)
    assert ended.returncode == 2
    assert "first point 1: its generator has 1,0" in ended.stderr
    assert not (tmp_path / "studies").exists()
