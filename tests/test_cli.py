import argparse
import os
import subprocess
from pathlib import Path

import pytest
from conftest import search_command

from raygan.config.section import ConfigError
from raygan.search.experiment import Comparison, Search
from raygan.search.options import apply_options, search_parser
from searches.adversarial_weight import SEARCH as ABLATION
from searches.v1 import SEARCH


def applied(*arguments: str) -> Search:
    options: argparse.Namespace = search_parser(SEARCH).parse_args(arguments)
    search = apply_options(SEARCH, options)
    assert isinstance(search, Search)
    return search


def test_without_options_it_is_the_papers_scale() -> None:
    search = applied()
    assert search == SEARCH
    assert (search.config.data.photos, search.config.data.evaluate_on) == ("coco", "bsd300")
    assert (search.config.training.epochs, search.trial_epochs) == (30, 30)


def test_quick_needs_no_data_and_no_weights() -> None:
    search = applied("--quick")
    assert (search.name, search.config.data.photos, search.config.data.evaluate_on) == (
        "v1-quick",
        "samples",
        "samples",
    )
    assert search.config.loss.content == "mse"
    assert search.space == SEARCH.space


def test_every_option_reaches_its_value() -> None:
    search = applied(
        *("--quick", "--photos", "p", "--evaluate-on", "e", "--vgg19", "w.npz", "--name", "n", "--trials", "5"),
        *("--epochs", "7", "--trial-epochs", "2", "--concurrent", "3", "--workers", "2", "--seed", "9"),
        *("--together", "all", "--trials-only"),
        *("--set", "loss/feature_scale=relative", "--set", "noise/kinds=gaussian,speckle"),
        *("--max-parameters", "3000000", "--max-milliseconds", "2.5"),
    )
    config = search.config
    assert (config.data.photos, config.data.evaluate_on) == ("p", "e")
    assert (config.loss.content, config.loss.vgg19_weights) == ("vgg19", "w.npz")
    assert (config.loss.feature_scale, config.noise.kinds) == ("relative", ("gaussian", "speckle"))
    assert (config.training.epochs, config.training.seed, config.hardware.workers) == (7, 9, 2)
    assert (search.name, search.trials, search.trial_epochs, search.concurrent, search.seed) == ("n", 5, 2, 3, 9)
    assert (search.max_parameters, search.max_milliseconds) == (3_000_000, 2.5)
    assert (search.together, search.trials_only) == ("all", True)


def test_a_value_that_is_set_is_not_searched() -> None:
    search = applied("--set", "noise/policy=normal")
    assert search.config.noise.policy == "normal"
    assert set(search.space) == set(SEARCH.space) - {"noise/policy"}


def test_trials_get_no_more_epochs_than_the_winner() -> None:
    assert applied("--epochs", "3").trial_epochs == 3
    assert applied("--quick", "--epochs", "3").trial_epochs == 3
    assert applied("--epochs", "3", "--trial-epochs", "5").trial_epochs == 3
    assert applied("--set", "training/epochs=2").trial_epochs == 2


def test_set_overrides_other_options() -> None:
    assert applied("--epochs", "5", "--set", "training/epochs=4").config.training.epochs == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "loss/adversarial_weight"], "--set needs path=value"),
        (["--set", "loss/lambda=1"], "no setting 'loss/lambda'"),
        (["--set", "data/crop_size=100"], "multiple of 32"),
        (["--workers", "3"], "multiple of hardware/workers"),
        (["--vgg19", "w.npz", "--set", "loss/content=mse"], "where vgg19_weights are given"),
        (["--quick", "--set", "loss/vgg19_weights=w.npz"], "where vgg19_weights are given"),
    ],
)
def test_wrong_values_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        applied(*arguments)


def test_help_explains_every_option_with_its_default() -> None:
    result = subprocess.run(search_command("--help"), capture_output=True, text=True, check=True)
    for text in ("--photos PATH", "coco, downloaded", "bsd300, downloaded", "default: 50, quick 8", "default: studies"):
        assert text in " ".join(result.stdout.split())


def compared(*arguments: str) -> Comparison:
    experiment = apply_options(ABLATION, search_parser(ABLATION).parse_args(arguments))
    assert isinstance(experiment, Comparison)
    return experiment


def test_comparisons_take_the_same_options() -> None:
    options = ["--quick", "--photos", "p", "--evaluate-on", "e", "--vgg19", "w.npz", "--name", "n", "--trials", "5"]
    options += ["--concurrent", "3", "--workers", "2", "--seed", "9", "--set", "loss/feature_scale=relative"]
    comparison = compared(*options, "--epochs", "7", "--trial-epochs", "2")
    config = comparison.config
    assert (config.data.photos, config.data.evaluate_on, config.loss.vgg19_weights) == ("p", "e", "w.npz")
    assert (comparison.name, comparison.seeds, comparison.concurrent, config.hardware.workers) == ("n", 5, 3, 2)
    # Every trial gets the full budget, whichever of the two options names it.
    assert config.training.epochs == comparison.trial_epochs == 2
    assert compared("--epochs", "7").trial_epochs == 7
    assert {point["seed"] for point in comparison.points()} == {9, 10, 11, 12, 13}
    assert comparison.values_at({"arm": "0.001", "seed": 11}) == {
        "loss/adversarial_weight": 0.001,
        "training/seed": 11,
    }


def test_what_the_arms_differ_in_cannot_be_set() -> None:
    with pytest.raises(ConfigError, match="--set loss/adversarial_weight: the arms differ in it"):
        compared("--set", "loss/adversarial_weight=0.1")


def test_no_trials_train_the_configuration_as_it_is() -> None:
    assert applied("--trials", "0").trials == 0
    with pytest.raises(SystemExit):
        compared("--trials", "0")


def test_a_signal_while_python_imports_ray_ends_as_one_later_does(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPROFILEIMPORTTIME": "1"}
    command = search_command("--quick", "--storage", tmp_path)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        # What raygan.search.study imports, from inside `run_search`.
        assert any("raygan.data.crops" in line for line in process.stderr)
        process.terminate()
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. Go on with the same command: python " in output
    assert "Traceback" not in errors
