import math
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT
from optuna.distributions import FloatDistribution

from raygan.config.run import Config
from raygan.search.experiment import Search
from raygan.search.stopping import Hopeless, collapsed_from, halving_factor


def epoch(number: int, clean: float, denoised: float, best: float = 20.0) -> dict[str, Any]:
    return {
        "epoch": number,
        "discriminator_accuracy_clean": clean,
        "discriminator_accuracy_denoised": denoised,
        "best_val_psnr": best,
        "val_psnr_noisy": 17.0,
    }


@pytest.mark.parametrize(("epochs", "rungs"), [(3, 1), (4, 1), (9, 2), (12, 2), (27, 3), (30, 3), (100, 4)])
def test_the_rungs_end_at_the_last_epoch(epochs: int, rungs: int) -> None:
    factor = halving_factor(epochs)
    assert math.isclose(factor**rungs, epochs)
    assert 2 <= factor <= 4


def test_a_budget_of_one_epoch_has_a_factor_too() -> None:
    assert halving_factor(1) == 2


def test_a_collapse_is_three_epochs_in_a_row_with_both_accuracies_pinned() -> None:
    always_right, always_clean, fair = (1.0, 0.995), (1.0, 0.0), (0.6, 0.5)
    assert collapsed_from([epoch(n, *always_right) for n in (1, 2, 3)]) == 1
    assert collapsed_from([epoch(n, *always_clean) for n in (1, 2, 3)]) == 1
    mixed = [always_right, always_right, fair, always_right, always_clean, always_right]
    assert collapsed_from([epoch(n, *one) for n, one in enumerate(mixed, start=1)]) == 4
    assert collapsed_from([epoch(n, *one) for n, one in enumerate(mixed[:5], start=1)]) is None
    # One of the two at an end is a lead, not a collapse.
    assert collapsed_from([epoch(n, 1.0, 0.5) for n in (1, 2, 3)]) is None


def test_a_trial_below_the_noisy_input_ends_once_its_grace_is_over() -> None:
    hopeless = Hopeless(2, 9, stop_collapsed=False)
    assert [hopeless("a", epoch(n, 0.5, 0.5, best=16.9)) for n in (1, 2)] == [False, True]
    assert not hopeless("b", epoch(2, 0.5, 0.5, best=17.1))
    assert not Hopeless(0, 27, stop_collapsed=False)("a", epoch(9, 0.5, 0.5, best=1.0))


def test_a_collapsed_trial_ends_only_if_asked_to() -> None:
    stop, keep = Hopeless(0, 9, stop_collapsed=True), Hopeless(0, 9, stop_collapsed=False)
    # Trials are counted apart.
    stop("b", epoch(1, 1.0, 1.0))
    assert [stop("a", epoch(n, 1.0, 1.0)) for n in (1, 2, 3)] == [False, False, True]
    assert not any(keep("a", epoch(n, 1.0, 1.0)) for n in (1, 2, 3))


def test_a_trial_ends_its_last_epoch_by_itself() -> None:
    assert not Hopeless(2, 3, stop_collapsed=True)("a", epoch(3, 1.0, 1.0, best=1.0))


@pytest.mark.parametrize(
    ("options", "grace"),
    [
        ({}, 6),
        ({"trial_epochs": 27}, 6),
        ({"scheduler": "median", "trial_epochs": 4}, 3),
        ({"scheduler": "none"}, 0),
        ({"scheduler": "none", "grace_epochs": 5}, 5),
        ({"grace_epochs": 0}, 0),
    ],
)
def test_the_grace_follows_from_the_budget_and_the_scheduler(options: dict[str, Any], grace: int) -> None:
    search = Search(
        **({"name": "s", "config": Config(), "space": {"x": FloatDistribution(0, 1)}, "trials": 1, "trial_epochs": 30})
        | options
    )
    assert search.grace == grace


def test_the_grace_ends_none_of_the_best_recorded_trainings() -> None:
    """Of 216 trainings with epochs of eight steps, whose noisy input has 19.93 dB, none of the best fifth."""
    curves = pd.read_csv(ROOT / "benchmarks" / "curves.csv").filter(regex=r"^epoch_\d+$").cummax(axis=1)
    best = curves.sort_values("epoch_27", ascending=False).head(len(curves) // 5)
    search = Search(name="s", config=Config(), space={"x": FloatDistribution(0, 1)}, trials=1, trial_epochs=27)
    stopper = Hopeless(search.grace, search.trial_epochs, stop_collapsed=False)

    def ends(scores: pd.Series) -> bool:
        told = (epoch(number, 0.5, 0.5, best=score) for number, score in enumerate(scores, start=1))
        return any(stopper(str(scores.name), one | {"val_psnr_noisy": 19.93}) for one in told)

    assert not best.apply(ends, axis=1).any()
    assert curves.apply(ends, axis=1).mean() > 0.5
