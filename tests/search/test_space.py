from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raygan.config.run import Config
from raygan.config.section import ConfigError, with_values
from raygan.presets import PAPER_V0, PAPER_V1
from raygan.search.experiment import Search
from raygan.search.space import Space, When, check_searcher, check_space, point_of, space_to_json, without

SPACE = {
    "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "training/batch_size": IntDistribution(4, 16),
    "noise/policy": CategoricalDistribution(["uniform", "normal"]),
}


def test_a_sound_space_passes() -> None:
    check_space(SPACE, Config())


@pytest.mark.parametrize(
    ("path", "distribution", "message"),
    [
        ("optimizer/learning_rate", FloatDistribution(0, 1), "no setting 'optimizer/learning_rate'"),
        ("optimizers/generator/beta1", FloatDistribution(0.5, 1.0), r"beta1 < 1 must hold, but got beta1=1.0"),
        ("generator/base_width", IntDistribution(0, 64), "base_width >= 1"),
        ("data/crop_size", IntDistribution(64, 128), "data/crop_size cannot be searched"),
        ("noise/speckle/high", FloatDistribution(0.1, 0.2), "noise/speckle/high cannot be searched"),
        ("noise/policy", CategoricalDistribution(["uniform", "gamma"]), "but got 'gamma'"),
        ("training/batch_size", FloatDistribution(1, 9), "batch_size must be int, but got 1.0"),
        ("training/batch_size", (1, 9), "is not an Optuna distribution"),
    ],
)
def test_a_space_that_does_not_fit_the_configuration_is_refused(path: str, distribution: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space({path: distribution}, Config())  # type: ignore[dict-item]


DEVIATION = When("noise/policy", "normal", FloatDistribution(0.1, 0.5))


def test_a_value_that_depends_on_another() -> None:
    space = SPACE | {"noise/normal_deviation": DEVIATION}
    check_space(space, Config())
    normal = with_values(PAPER_V1, {"noise/policy": "normal", "noise/normal_deviation": 0.2})
    assert point_of(normal, space)["noise/normal_deviation"] == 0.2
    assert "noise/normal_deviation" not in point_of(PAPER_V1, space)
    assert space_to_json(space)["noise/normal_deviation"] == {
        "name": "FloatDistribution",
        "attributes": {"step": None, "low": 0.1, "high": 0.5, "log": False},
        "when": "noise/policy",
        "is": "normal",
    }


@pytest.mark.parametrize(
    ("fixed", "left"), [({"noise/policy": "normal"}, DEVIATION.distribution), ({"noise/policy": "uniform"}, None)]
)
def test_what_a_fixed_value_leaves_to_search(fixed: dict[str, str], left: object) -> None:
    space = without(SPACE | {"noise/normal_deviation": DEVIATION}, fixed)
    assert space.get("noise/normal_deviation") == left
    assert "noise/policy" not in space


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"noise/normal_deviation": DEVIATION} | SPACE, "noise/policy, on which it depends, must stand before it"),
        ({"noise/normal_deviation": When("noise/policy", "gamma", DEVIATION.distribution)}, "but got 'gamma'"),
        (SPACE | {"loss/content_weight": When("noise/policy", "gamma", FloatDistribution(0, 1))}, "is never 'gamma'"),
        ({"noise/normal_deviation": When("noise/policy", "normal", FloatDistribution(0, 1))}, "normal_deviation > 0"),
    ],
)
def test_a_dependence_that_cannot_be_is_refused(space: Space, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(space, Config())


@pytest.mark.parametrize("options", [{"searcher": "gp"}, {"scheduler": "pbt"}])
def test_what_cannot_leave_values_out_draws_all(options: dict[str, Any]) -> None:
    space = SPACE | {"noise/normal_deviation": DEVIATION}
    search = Search(name="s", config=PAPER_V1, space=space, trials=4, trial_epochs=3, **options)
    assert search.space["noise/normal_deviation"] == DEVIATION.distribution
    search.check()


def test_cma_es_wants_numbers_and_more_than_one() -> None:
    check_searcher("cmaes", {path: one for path, one in SPACE.items() if path != "noise/policy"})
    with pytest.raises(ConfigError, match=r"numbers only, but noise/policy is chosen from a list: --set it"):
        check_searcher("cmaes", SPACE)
    with pytest.raises(ConfigError, match="at least two values"):
        check_searcher("cmaes", {"loss/content_weight": FloatDistribution(0, 1)})


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="space is empty"):
        check_space({}, Config())


def test_points_are_configurations_values() -> None:
    assert point_of(PAPER_V0, SPACE) == {
        "optimizers/generator/learning_rate": 0.0005,
        "training/batch_size": 8,
        "noise/policy": "uniform",
    }


def test_a_point_outside_the_space_is_refused() -> None:
    narrow = {"optimizers/generator/learning_rate": FloatDistribution(1e-5, 1e-3)}
    with pytest.raises(ConfigError, match=r"learning_rate=0.005 lies outside the search space"):
        point_of(PAPER_V1, narrow)
