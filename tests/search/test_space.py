import dataclasses
from pathlib import Path
from typing import Literal

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raygan.cli import load_experiment
from raygan.config.section import ConfigError, with_values
from raygan.noise import NormalPolicy
from raygan.presets import PAPER_V0, PAPER_V1
from raygan.search.experiment import Search
from raygan.search.space import Space, When, check_space, point_of, space_to_json, without

SPACE = {
    "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "training/batch_size": IntDistribution(4, 16),
    "sampling": CategoricalDistribution(["UniformPolicy", "NormalPolicy"]),
}


def test_valid_space() -> None:
    check_space(SPACE, PAPER_V1)


@pytest.mark.parametrize(
    ("path", "distribution", "message"),
    [
        ("optimizer/learning_rate", FloatDistribution(0, 1), "no setting 'optimizer/learning_rate'"),
        ("optimizers/generator/beta1", FloatDistribution(0.5, 1.0), r"beta1 < 1 must hold, but got beta1=1.0"),
        ("generator/base_width", IntDistribution(0, 64), "base_width >= 1"),
        ("data/crop_size", IntDistribution(64, 128), "data/crop_size cannot be searched"),
        ("noises/speckle/high", FloatDistribution(0.1, 0.2), "noises/speckle/high can be searched only with pairs"),
        ("noises", CategoricalDistribution(["Gaussian"]), "noises cannot be searched"),
        ("sampling", CategoricalDistribution(["UniformPolicy", "Gamma"]), "there is no SamplingPolicy 'Gamma'"),
        ("training/batch_size", FloatDistribution(1, 9), "batch_size must be int, but got 1.0"),
        ("training/batch_size", (1, 9), "is not an Optuna distribution"),
    ],
)
def test_invalid_space_raises(path: str, distribution: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space({path: distribution}, PAPER_V1)  # type: ignore[dict-item]


def test_what_trials_with_pairs_may_differ_in() -> None:
    odds = {"noises/speckle/odds": FloatDistribution(0.1, 2), "clean_share": FloatDistribution(0, 0.2)}
    check_space(odds, PAPER_V1)
    check_space({"data/max_enlargement": FloatDistribution(1, 4)}, PAPER_V1)
    pairs = with_values(PAPER_V1, {"data/pairs": "mine"})
    share = {"data/pairs_share": FloatDistribution(0.2, 1)}
    check_space({"noises/speckle/high": FloatDistribution(0.1, 0.2), **share}, pairs)
    with pytest.raises(ConfigError, match="data/pairs_share cannot be searched"):
        check_space(share, with_values(pairs, {"data/pairs_share": 0.0}))


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[2].joinpath("searches").glob("[a-z]*.py")), ids=lambda file: file.stem
)
def test_search_files_are_valid(file: Path) -> None:
    search = load_experiment(file.stem)
    search = dataclasses.replace(search, config=with_values(search.config, {"data/pairs": "mine"}))
    search.check()
    search.quick().check()


def test_training_without_trials_needs_no_searchable_space() -> None:
    search = load_experiment("camera")
    with pytest.raises(ConfigError, match="only with pairs"):
        search.check()
    dataclasses.replace(search, trials=0).check()


DEVIATION = When("sampling", "NormalPolicy", FloatDistribution(0.1, 0.5))


def test_conditional_distribution() -> None:
    space = SPACE | {"sampling/deviation": DEVIATION}
    check_space(space, PAPER_V1)
    normal = with_values(PAPER_V1, {"sampling": NormalPolicy(deviation=0.2)})
    assert point_of(normal, space)["sampling/deviation"] == 0.2
    assert "sampling/deviation" not in point_of(PAPER_V1, space)
    assert space_to_json(space)["sampling/deviation"] == {
        "name": "FloatDistribution",
        "attributes": {"step": None, "low": 0.1, "high": 0.5, "log": False},
        "when": "sampling",
        "is": "NormalPolicy",
    }


@pytest.mark.parametrize(
    ("fixed", "left"), [({"sampling": "NormalPolicy"}, DEVIATION.distribution), ({"sampling": "UniformPolicy"}, None)]
)
def test_space_without_fixed_values(fixed: dict[str, str], left: object) -> None:
    space = without(SPACE | {"sampling/deviation": DEVIATION}, fixed)
    assert space.get("sampling/deviation") == left
    assert "sampling" not in space


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"sampling/deviation": DEVIATION} | SPACE, "sampling, on which it depends, must precede it"),
        (
            {"sampling/deviation": When("sampling", "Gamma", DEVIATION.distribution)},
            "there is no SamplingPolicy 'Gamma'",
        ),
        (SPACE | {"loss/content_weight": When("sampling", "Gamma", FloatDistribution(0, 1))}, "is never 'Gamma'"),
        ({"sampling/deviation": When("sampling", "NormalPolicy", FloatDistribution(0, 1))}, "deviation > 0"),
        (
            SPACE
            | {"sampling/deviation": DEVIATION}
            | {"loss/content_weight": When("sampling/deviation", 0.2, FloatDistribution(0, 1))},
            "sampling/deviation, on which it depends, must be searched always",
        ),
    ],
)
def test_invalid_condition_raises(space: Space, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(space, PAPER_V1)


@pytest.mark.parametrize("algorithm", ["gp", "nsga2"])
def test_algorithms_that_need_all_values_sample_an_unconditional_space(algorithm: Literal["gp", "nsga2"]) -> None:
    space = SPACE | {"sampling/deviation": DEVIATION}
    search = Search(name="s", config=PAPER_V1, space=space, trials=4, trial_epochs=3, search_algorithm=algorithm)
    search.check()
    assert search.sampled_space == SPACE | {"sampling/deviation": DEVIATION.distribution}
    # What was drawn without meaning is left out of the trial's configuration.
    point = {"sampling": "UniformPolicy", "sampling/deviation": 0.3, "training/batch_size": 4}
    assert search.values_at(point) == {"sampling": "UniformPolicy", "training/batch_size": 4}
    assert search.values_at(point | {"sampling": "NormalPolicy"}) == point | {"sampling": "NormalPolicy"}
    assert dataclasses.replace(search, search_algorithm="tpe").sampled_space == space


def test_cmaes_requires_several_numerical_distributions() -> None:
    check_space({path: one for path, one in SPACE.items() if path != "sampling"}, PAPER_V1, "cmaes")
    with pytest.raises(ConfigError, match=r"numbers only, but sampling is categorical: --set it"):
        check_space(SPACE, PAPER_V1, "cmaes")
    with pytest.raises(ConfigError, match="at least two values"):
        check_space({"loss/content_weight": FloatDistribution(0, 1)}, PAPER_V1, "cmaes")


def test_empty_space_raises() -> None:
    with pytest.raises(ConfigError, match="space is empty"):
        check_space({}, PAPER_V1)


def test_point_of_a_configuration() -> None:
    assert point_of(PAPER_V0, SPACE) == {
        "optimizers/generator/learning_rate": 0.0005,
        "training/batch_size": 8,
        "sampling": "UniformPolicy",
    }


def test_point_outside_the_space_raises() -> None:
    narrow = {"optimizers/generator/learning_rate": FloatDistribution(1e-5, 1e-3)}
    with pytest.raises(ConfigError, match=r"learning_rate=0.005 lies outside the search space"):
        point_of(PAPER_V1, narrow)
