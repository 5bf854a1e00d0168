"""What a search takes over from an earlier one."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest
from conftest import Study, run_search
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from raygan.config.section import flat_values, with_values
from raygan.presets import PAPER_V1
from raygan.search.algorithms import EpochOptunaSearch, sampler
from raygan.search.experiment import Search
from raygan.search.space import When
from raygan.search.warm_start import warm_start
from raygan.study.ledger import Ledger, StudyError, TrialRow, write_study
from raygan.study.storage import Folder

RATE = "optimizers/generator/learning_rate"
SEARCH = Search(
    name="earlier",
    config=PAPER_V1,
    space={
        RATE: FloatDistribution(1e-4, 1e-2, log=True),
        "noise/policy": CategoricalDistribution(["uniform", "normal"]),
        "noise/normal_deviation": When("noise/policy", "normal", FloatDistribution(0.1, 0.5)),
    },
    trials=5,
    trial_epochs=3,
)
UNIFORM = {"noise/policy": "uniform", "noise/normal_deviation": None}
TRIALS = [
    ("trial-0001", "complete", [20.0, 21.0, 22.0], {RATE: 0.001, **UNIFORM}),
    ("trial-0002", "pruned", [19.0], {RATE: 0.005, **UNIFORM}),
    (
        "trial-0003",
        "complete",
        [21.0, 25.0, 25.0],
        {RATE: 0.0005, "noise/policy": "normal", "noise/normal_deviation": 0.2},
    ),
    ("trial-0004", "failed", [], {RATE: 0.01, **UNIFORM}),
    ("trial-0005", "pruned", [20.5, 20.5], {RATE: 0.009, **UNIFORM}),
]


@pytest.fixture
def earlier(tmp_path: Path) -> str:
    folder = Folder(tmp_path)
    write_study(folder, {"name": "earlier", **SEARCH.identity()})
    ledger = Ledger(folder)
    for name, _, scores, _ in TRIALS:
        for epoch, score in enumerate(scores, start=1):
            ssim = 1 - score / 100
            epoch_metrics = {"epoch": epoch, "val_psnr": score - 0.1, "best_val_psnr": score, "best_val_ssim": ssim}
            ledger.add_epoch(name, epoch_metrics)
    ledger.write_trials(
        [
            TrialRow(name, state, len(scores), max(scores, default=math.nan), 0.5, 4.0, 1.0, None, "", values)
            for name, state, scores, values in TRIALS
        ]
    )
    return str(tmp_path)


def test_the_best_points_come_first_and_every_good_trial_is_known(earlier: str) -> None:
    known = warm_start(dataclasses.replace(SEARCH, warm_start=earlier))
    assert [point[RATE] for point in known.points] == [0.0005, 0.001, 0.009]
    assert known.points[0] == {RATE: 0.0005, "noise/policy": "normal", "noise/normal_deviation": 0.2}
    assert known.points[1] == {RATE: 0.001, "noise/policy": "uniform"}
    assert known.told.endswith("its 3 best points first, and its 4 trials known to the searcher")
    states = {trial.params[RATE]: trial.state for trial in known.trials}
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert states == {0.001: complete, 0.005: pruned, 0.0005: complete, 0.009: pruned}
    assert {trial.params[RATE]: trial.intermediate_values for trial in known.trials}[0.009] == {1: 20.5, 2: 20.5}

    search = EpochOptunaSearch(sampler(SEARCH), SEARCH.space, known.points, 3, flat_values(SEARCH.config), known.trials)
    first = search.suggest("t1")
    assert first == {
        "optimizers": {"generator": {"learning_rate": 0.0005}},
        "noise": {"policy": "normal", "normal_deviation": 0.2},
    }
    # Four that are known, the three points to try, the first of which runs.
    assert len(search._ot_study.trials) == 7
    assert search._ot_study.best_value == 25.0


def test_of_a_longer_budget_the_epochs_that_compare_are_known(earlier: str) -> None:
    known = warm_start(dataclasses.replace(SEARCH, warm_start=earlier, trial_epochs=2))
    values = {trial.params[RATE]: trial.value for trial in known.trials}
    assert values == {0.001: 21.0, 0.005: None, 0.0005: 25.0, 0.009: 20.5}


@pytest.mark.parametrize(
    ("search", "reason"),
    [
        (dataclasses.replace(SEARCH, config=with_values(PAPER_V1, {"training/batch_size": 4})), "training/batch_size"),
        (dataclasses.replace(SEARCH, space=SEARCH.space | {RATE: FloatDistribution(1e-4, 0.1)}), "the search space"),
        (dataclasses.replace(SEARCH, objectives=("val_psnr", "val_ssim"), scheduler="none"), "the objectives"),
    ],
)
def test_scores_that_do_not_compare_are_left_out(earlier: str, search: Search, reason: str) -> None:
    known = warm_start(dataclasses.replace(search, warm_start=earlier))
    assert known.told.endswith(f"; its scores are left out, since it differs in {reason}")
    assert (len(known.points), known.trials) == (3, [])


def test_points_outside_the_space_are_left_out(earlier: str) -> None:
    narrower = SEARCH.space | {RATE: FloatDistribution(1e-3, 1e-2)}
    known = warm_start(dataclasses.replace(SEARCH, warm_start=earlier, space=narrower))
    assert [point[RATE] for point in known.points] == [0.001, 0.009, 0.005]
    with pytest.raises(StudyError, match="has no good trial whose values lie in the search space"):
        warm_start(dataclasses.replace(SEARCH, warm_start=earlier, space={RATE: FloatDistribution(1e-6, 1e-5)}))


def test_what_is_no_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nothing is no search: give the folder of one"):
        warm_start(dataclasses.replace(SEARCH, warm_start=str(tmp_path / "nothing")))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_search_starts_from_another_and_ends_with_its_time(study: Study) -> None:
    options = (option if option != study.folder.name else "later" for option in study.options)
    more = ["--trials", "200", "--warm-start", study.folder, "--time-budget", "0.4"]
    run = run_search(*options, *more, timeout=380)
    assert run.returncode == 0, run.stderr
    assert "best points first, and its 3 trials known to the searcher" in run.stdout
    assert "The time budget of 0.4 minutes is spent" in run.stdout
    later = study.folder.parent / "later"
    with (later / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert 1 <= len(rows) < 200
    best = max(study.table("trials.csv"), key=lambda row: float(row["val_psnr"]))
    searched = [path for path in best if "/" in path]
    assert [rows[0][path] for path in searched] == [best[path] for path in searched]
    assert (later / "best" / "generator.safetensors").exists()
