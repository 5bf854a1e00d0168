import math
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT
from optuna.distributions import FloatDistribution

from raygan.presets import PAPER_V1
from raygan.search.experiment import Search
from raygan.search.promotion import halving_factor
from raygan.search.stopping import HopelessTrials, StudyLimits
from raygan.study.trials import collapsed_from


def settings(**options: Any) -> Search:
    default = {"space": {"loss/content_weight": FloatDistribution(0, 1)}, "trials": 1, "trial_epochs": 9}
    return Search(**{"name": "s", "config": PAPER_V1, **default, **options})


def epoch(number: int, clean: float, denoised: float, best: float = 20.0) -> dict[str, Any]:
    return {
        "epoch": number,
        "epochs": 9,
        "discriminator_accuracy_clean": clean,
        "discriminator_accuracy_denoised": denoised,
        "best_val_psnr": best,
        "val_psnr_noisy": 17.0,
    }


@pytest.mark.parametrize(("epochs", "rungs"), [(3, 1), (4, 1), (9, 2), (12, 2), (27, 3), (30, 3), (81, 4), (100, 4)])
def test_halving_factor(epochs: int, rungs: int) -> None:
    factor = halving_factor(epochs)
    assert math.isclose(factor**rungs, epochs)
    assert 2 <= factor <= 4


def test_halving_factor_of_powers_of_three_is_exact() -> None:
    """Slightly above 3, it would move the rungs by an epoch."""
    assert [halving_factor(epochs) for epochs in (3, 9, 27, 81)] == [3, 3, 3, 3]
    assert halving_factor(1) == 2


def test_collapse_is_three_epochs_in_a_row_with_both_accuracies_pinned() -> None:
    always_right, always_clean, fair = (1.0, 0.995), (1.0, 0.0), (0.6, 0.5)
    assert collapsed_from([epoch(n, *always_right) for n in (1, 2, 3)]) == 1
    assert collapsed_from([epoch(n, *always_clean) for n in (1, 2, 3)]) == 1
    mixed = [always_right, always_right, fair, always_right, always_clean, always_right]
    assert collapsed_from([epoch(n, *one) for n, one in enumerate(mixed, start=1)]) == 4
    assert collapsed_from([epoch(n, *one) for n, one in enumerate(mixed[:5], start=1)]) is None
    # One of the two at an end is a lead, not a collapse.
    assert collapsed_from([epoch(n, 1.0, 0.5) for n in (1, 2, 3)]) is None


def test_trials_worse_than_the_noisy_input_stop_after_their_grace() -> None:
    hopeless = HopelessTrials(settings(grace_epochs=2))
    assert [hopeless("a", epoch(n, 0.5, 0.5, best=16.9)) for n in (1, 2)] == [False, True]
    assert not hopeless("b", epoch(2, 0.5, 0.5, best=17.1))
    assert not HopelessTrials(settings(grace_epochs=0))("a", epoch(8, 0.5, 0.5, best=1.0))


def test_collapsed_trials_stop_only_on_request() -> None:
    stop = HopelessTrials(settings(grace_epochs=0, stop_collapsed=True))
    keep = HopelessTrials(settings(grace_epochs=0))
    # Trials are counted apart.
    stop("b", epoch(1, 1.0, 1.0))
    assert [stop("a", epoch(n, 1.0, 1.0)) for n in (1, 2, 3)] == [False, False, True]
    assert not any(keep("a", epoch(n, 1.0, 1.0)) for n in (1, 2, 3))


def test_last_epoch_and_errors_are_not_stopped() -> None:
    stop = HopelessTrials(settings(grace_epochs=2, trial_epochs=3, stop_collapsed=True))
    assert not stop("a", epoch(3, 1.0, 1.0, best=1.0))
    assert not stop("a", epoch(2, 1.0, 1.0, best=1.0) | {"error": "training diverged"})


def test_all_trials_stop_where_the_time_or_the_disk_is_spent() -> None:
    seconds = 90.0
    limits = StudyLimits(settings(time_budget=2.0), lambda: seconds)
    assert not limits.stop_all()
    seconds += 31
    assert limits.stop_all()
    unlimited = StudyLimits(settings(), lambda: 1e9)
    assert not unlimited.stop_all()
    assert not unlimited("a", epoch(1, 1.0, 1.0) | {"error": "the disk is full: [Errno 28]"})
    assert unlimited.stop_all()
    assert unlimited.disk_full == "the disk is full: [Errno 28]"


@pytest.mark.parametrize(
    ("options", "grace"),
    [
        ({"trial_epochs": 30}, 6),
        ({"trial_epochs": 27}, 6),
        ({"trial_epochs": 4}, 3),
        ({"scheduler": "none"}, 0),
        ({"scheduler": "none", "grace_epochs": 5}, 5),
        ({"grace_epochs": 0}, 0),
    ],
)
def test_default_grace(options: dict[str, Any], grace: int) -> None:
    assert settings(**options).grace == grace


def test_grace_stops_none_of_the_best_recorded_trainings() -> None:
    """Of 216 trainings with epochs of eight steps, whose noisy input has 19.93 dB, none of the best fifth."""
    curves = pd.read_csv(ROOT / "benchmarks" / "curves.csv").filter(regex=r"^epoch_\d+$").cummax(axis=1)
    best = curves.sort_values("epoch_27", ascending=False).head(len(curves) // 5)
    hopeless = HopelessTrials(settings(trial_epochs=27))

    def stops(scores: pd.Series) -> bool:
        results = (epoch(number, 0.5, 0.5, best=score) for number, score in enumerate(scores, start=1))
        return any(hopeless(str(scores.name), one | {"val_psnr_noisy": 19.93, "epochs": 27}) for one in results)

    assert not best.apply(stops, axis=1).any()
    assert curves.apply(stops, axis=1).mean() > 0.5
