import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raygan.config import Config
from raygan.presets import PAPER_V0, PAPER_V1
from raygan.search.space import check_searcher, check_space, point_of
from raygan.section import ConfigError

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
