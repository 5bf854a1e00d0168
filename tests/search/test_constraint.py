"""Limits on what a search's generators cost."""

import dataclasses
import pickle
from typing import Any

import pytest
from conftest import run_search
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from raygan.config.section import ConfigError, flat_values, with_values
from raygan.models.cost import parameters
from raygan.presets import PAPER_V1
from raygan.search.algorithms import EpochOptunaSearch, sampler
from raygan.search.constraint import constraint_of
from raygan.search.experiment import Search

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


def searching(search: Search) -> EpochOptunaSearch:
    values = flat_values(search.config)
    return EpochOptunaSearch(
        sampler(search), search.space, search.points(), 2, values, constraint=constraint_of(search)
    )


@pytest.mark.parametrize("searcher", ["tpe", "random", "nsga2"])
def test_nothing_is_proposed_that_exceeds_the_limit(searcher: Any) -> None:
    search = dataclasses.replace(SEARCH, searcher=searcher, max_parameters=LIMIT)
    proposer = searching(search)
    counts = []
    for index in range(50):
        name = f"t{index}"
        proposed = proposer.suggest(name)
        assert proposed is not None
        values = {f"generator/{key}": value for key, value in proposed["generator"].items()}
        counts.append(parameters(with_values(SMALL, values).generator))
        # The wider the better: what is best lies beyond the limit.
        score = float(proposed["generator"]["base_width"])
        if index % 3:
            proposer.on_trial_complete(name, {"epoch": 2, "best_val_psnr": score})
    assert max(counts) <= LIMIT
    trials = proposer._ot_study.trials
    refused = [trial for trial in trials if trial.constraints]
    assert len(refused) == len(trials) - 50 > 0
    assert {(trial.state, trial.value) for trial in refused} == {(TrialState.PRUNED, None)}


def test_of_few_that_run_the_searcher_finds_the_narrow_feasible_part() -> None:
    """While its first trials run, all that TPE knows is what was refused."""
    space = {"generator/base_width": IntDistribution(4, 64), "generator/depth": IntDistribution(2, 6)}
    limit = parameters(with_values(SMALL, {"generator/base_width": 5, "generator/depth": 2}).generator)
    search = dataclasses.replace(SEARCH, space=space, first_points=[], max_parameters=limit)
    proposer = searching(search)
    for index in range(8):
        assert proposer.suggest(f"t{index}") is not None
    assert len(proposer._ot_study.trials) < 300


def test_cma_es_goes_on_from_what_is_feasible() -> None:
    space = {path: one for path, one in SEARCH.space.items() if not isinstance(one, CategoricalDistribution)}
    proposer = searching(dataclasses.replace(SEARCH, space=space, searcher="cmaes", max_parameters=LIMIT))
    for index in range(12):
        proposed = proposer.suggest(f"t{index}")
        assert proposed is not None
        assert proposed["generator"]["base_width"] <= 8
        proposer.on_trial_complete(f"t{index}", {"epoch": 2, "best_val_psnr": 20.0 + index})


def test_an_impossible_limit_names_the_cheapest() -> None:
    search = dataclasses.replace(SEARCH, searcher="random", first_points=[], max_parameters=10)
    cheapest = min(
        parameters(with_values(SMALL, {"generator/base_width": 2, "generator/upsampling": one}).generator)
        for one in ("transposed", "resize")
    )
    with pytest.raises(ConfigError, match=rf"of 1,000 .* none met --max-parameters 10: .* has {cheapest:,} trainable"):
        searching(search).suggest("t")


def test_a_saved_search_keeps_its_limits(tmp_path: Any) -> None:
    search = dataclasses.replace(SEARCH, max_parameters=LIMIT)
    saved = searching(search)
    saved.suggest("t1")
    saved.save(str(tmp_path / "state"))
    restored = pickle.loads(pickle.dumps(searching(SEARCH)))
    restored.restore(str(tmp_path / "state"))
    assert restored.constraint == saved.constraint
    assert restored.suggest("t2") == saved.suggest("t2")


def test_first_points_that_exceed_a_limit_are_refused() -> None:
    points = [SMALL, with_values(SMALL, {"generator/base_width": 64})]
    search = dataclasses.replace(SEARCH, first_points=points, max_parameters=LIMIT)
    constraint = constraint_of(search)
    assert constraint is not None
    constraint.check(search.points()[:1])
    count = parameters(points[1].generator)
    with pytest.raises(
        ConfigError,
        match=rf"first point 2: its generator has {count:,} trainable parameters \(generator/base_width=64, .*\), but "
        rf"--max-parameters {LIMIT} was asked for",
    ):
        constraint.check(search.points())


def test_time_is_a_limit_too() -> None:
    generous = constraint_of(dataclasses.replace(SEARCH, max_milliseconds=1e6))
    assert generous is not None
    cost = generous.cost(SEARCH.points()[0])
    assert cost.excess < 0
    assert " ms a crop" in cost.told
    search = dataclasses.replace(SEARCH, max_milliseconds=1e-6, max_parameters=10**9)
    with pytest.raises(ConfigError, match="--max-parameters 1000000000 --max-milliseconds 1e-06"):
        constraint_of(search).check(search.points())  # type: ignore[union-attr]


def test_without_limits_there_is_no_constraint() -> None:
    assert constraint_of(SEARCH) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_parameters": 0}, r"max_parameters >= 1 must hold, but got max_parameters=0"),
        ({"max_milliseconds": 0.0}, r"max_milliseconds > 0 must hold, but got max_milliseconds=0.0"),
        ({"max_parameters": 9, "scheduler": "pbt"}, "cannot search networks' shapes: leave --max-parameters"),
        ({"max_milliseconds": 9.0, "searcher": "gp"}, "a Gaussian process would propose"),
    ],
)
def test_limits_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SEARCH, **options).check()


def test_limits_are_part_of_what_a_study_is() -> None:
    limited = dataclasses.replace(SEARCH, max_parameters=9, max_milliseconds=2.0).identity()
    assert limited == SEARCH.identity() | {"max_parameters": 9, "max_milliseconds": 2.0}


def test_a_search_over_the_architecture_refuses_its_first_point_before_it_begins(tmp_path: Any) -> None:
    options = ("--quick", "--max-parameters", "1000000", "--storage", tmp_path / "studies")
    ended = run_search(*options, file="architecture")
    assert ended.returncode == 2
    assert "first point 1: its generator has 1,8" in ended.stderr
    assert not (tmp_path / "studies").exists()
