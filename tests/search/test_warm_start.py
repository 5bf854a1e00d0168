"""What a search takes over from an earlier one."""

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import Study, run_search
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from raygan.config.section import ConfigError, with_values
from raygan.presets import PAPER_V1
from raygan.search.experiment import Search
from raygan.search.searcher import OptunaSearcher
from raygan.search.space import When
from raygan.search.warm_start import WarmStart, warm_start
from raygan.storage import Folder
from raygan.study.ledger import Ledger, StudyError, TrialRow, write_study
from raygan.study.trials import Trials

RATE = "optimizers/generator/learning_rate"
SEARCH = Search(
    name="earlier",
    config=PAPER_V1,
    space={
        RATE: FloatDistribution(1e-4, 1e-2, log=True),
        "sampling": CategoricalDistribution(["UniformPolicy", "NormalPolicy"]),
        "sampling/deviation": When("sampling", "NormalPolicy", FloatDistribution(0.1, 0.5)),
    },
    trials=5,
    trial_epochs=3,
)
UNIFORM = {"sampling": "UniformPolicy", "sampling/deviation": None}
NORMAL = {"sampling": "NormalPolicy", "sampling/deviation": 0.2}
TRIALS: list[tuple[str, str, list[float], dict[str, Any]]] = [
    ("trial-0001", "complete", [20.0, 21.0, 22.0], {RATE: 0.001, **UNIFORM}),
    ("trial-0002", "pruned", [19.0], {RATE: 0.005, **UNIFORM}),
    ("trial-0003", "complete", [21.0, 25.0, 24.0], {RATE: 0.0005, **NORMAL}),
    ("trial-0004", "failed", [], {RATE: 0.01, **UNIFORM}),
    ("trial-0005", "pruned", [20.5, 20.5], {RATE: 0.009, **UNIFORM}),
]


@pytest.fixture
def earlier(tmp_path: Path) -> str:
    folder = Folder(tmp_path)
    write_study(folder, {"schema": 2, "name": "earlier", **SEARCH.identity()})
    ledger = Ledger(folder)
    for name, _, scores, _ in TRIALS:
        for epoch, score in enumerate(scores, start=1):
            ledger.add_epoch(name, {"epoch": epoch, "val_psnr": score, "val_ssim": 1 - score / 100})
    ledger.write_trials(
        [
            TrialRow(name, state, len(scores), max(scores, default=math.nan), 0.5, 4.0, 1.0, None, "", "", "", values)
            for name, state, scores, values in TRIALS
        ]
    )
    return str(tmp_path)


def taken_over(search: Search, location: str) -> WarmStart:
    changed = dataclasses.replace(search, warm_start=location)
    return warm_start(changed.settings, changed.sampled_space, changed.config)


def test_best_points_are_tried_first_and_successful_trials_are_known(earlier: str, tmp_path: Path) -> None:
    known = taken_over(SEARCH, earlier)
    assert known.points == [
        {RATE: 0.0005, **NORMAL},
        {RATE: 0.001, "sampling": "UniformPolicy"},
        {RATE: 0.009, "sampling": "UniformPolicy"},
    ]
    assert known.summary == (
        f"Warm start from {earlier}: its 3 best points first, and its 4 trials known to the search algorithm"
    )
    states = {trial.params[RATE]: trial.state for trial in known.trials}
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert states == {0.001: complete, 0.005: pruned, 0.0005: complete, 0.009: pruned}
    # At each epoch, the best score so far.
    scores = {trial.params[RATE]: trial.intermediate_values for trial in known.trials}
    assert scores[0.0005] == {1: 21.0, 2: 25.0, 3: 25.0}
    assert scores[0.009] == {1: 20.5, 2: 20.5}

    for _ in range(2):
        trials = Trials(Folder(tmp_path / "later"), "later", SEARCH.objectives)
        trials.enqueue(known.points, known.trials)
    searcher = OptunaSearcher(trials, SEARCH, Ledger(trials.folder))
    suggested = [searcher.suggest(f"t{index}") for index in range(3)]
    assert [one["params"] for one in suggested if one is not None] == known.points
    # Four that are known, and the three points to try.
    assert len(trials.study.trials) == 7
    assert trials.study.best_value == 25.0
    assert trials.ended() == []


def test_trials_of_a_longer_budget_are_cut_to_the_epochs_that_compare(earlier: str) -> None:
    known = taken_over(dataclasses.replace(SEARCH, trial_epochs=2), earlier)
    values = {trial.params[RATE]: trial.value for trial in known.trials}
    assert values == {0.001: 21.0, 0.005: None, 0.0005: 25.0, 0.009: 20.5}


def test_trials_with_several_objectives_are_known(earlier: str, tmp_path: Path) -> None:
    search = dataclasses.replace(SEARCH, objectives=("val_psnr", "val_ssim"), repeats=0)
    write_study(Folder(earlier), {"schema": 2, "name": "earlier", **search.identity()})
    known = taken_over(search, earlier)
    # Of several objectives, Optuna has no scores of trials that were stopped early.
    assert len(known.trials) == 2
    for _ in range(2):
        trials = Trials(Folder(tmp_path / "later"), "later", search.objectives)
        trials.enqueue(known.points, known.trials)
    suggested = OptunaSearcher(trials, search, Ledger(trials.folder)).suggest("t")
    assert isinstance(suggested, dict)
    assert (suggested["trial"], suggested["params"]) == ("trial-0001", known.points[0])


def test_a_repeat_is_not_tried_first_as_well(earlier: str) -> None:
    table = Path(earlier, "trials.csv").read_text()
    best = next(line for line in table.splitlines() if line.startswith("trial-0003"))
    Path(earlier, "trials.csv").write_text(f"{table}{best.replace('trial-0003', 'trial-0006', 1)}\n")
    metrics = Path(earlier, "metrics.csv").read_text()
    more = [line.replace("trial-0003", "trial-0006") for line in metrics.splitlines() if line.startswith("trial-0003")]
    Path(earlier, "metrics.csv").write_text(metrics + "\n".join([*more, ""]))
    points = taken_over(SEARCH, earlier).points
    assert [point[RATE] for point in points] == [0.0005, 0.001, 0.009]


@pytest.mark.parametrize(
    ("search", "reason"),
    [
        (dataclasses.replace(SEARCH, config=with_values(PAPER_V1, {"training/batch_size": 4})), "training/batch_size"),
        (dataclasses.replace(SEARCH, space=SEARCH.space | {RATE: FloatDistribution(1e-4, 0.1)}), "the search space"),
        (dataclasses.replace(SEARCH, objectives=("val_psnr", "val_ssim"), scheduler="none"), "the objectives"),
    ],
)
def test_scores_that_do_not_compare_are_left_out(earlier: str, search: Search, reason: str) -> None:
    known = taken_over(search, earlier)
    assert known.summary.endswith(f"; its scores are left out, since it differs in {reason}")
    assert (len(known.points), known.trials) == (3, [])


def test_scores_compare_whatever_the_evaluation_photos_are(earlier: str) -> None:
    config = with_values(PAPER_V1, {"data/evaluate_on": "samples"})
    assert len(taken_over(dataclasses.replace(SEARCH, config=config), earlier).trials) == 4


def test_points_outside_the_space_are_left_out(earlier: str) -> None:
    narrower = SEARCH.space | {RATE: FloatDistribution(1e-3, 1e-2)}
    known = taken_over(dataclasses.replace(SEARCH, space=narrower), earlier)
    assert [point[RATE] for point in known.points] == [0.001, 0.009, 0.005]
    with pytest.raises(StudyError, match="has no successful trial whose values lie in the search space"):
        taken_over(dataclasses.replace(SEARCH, space={RATE: FloatDistribution(1e-6, 1e-5)}), earlier)


def test_what_a_space_leaves_out_must_be_as_in_the_configuration(earlier: str) -> None:
    narrower = dataclasses.replace(SEARCH, space={RATE: SEARCH.space[RATE]})
    assert taken_over(narrower, earlier).points == [{RATE: rate} for rate in (0.001, 0.009, 0.005)]
    normal = with_values(PAPER_V1, {"sampling": "NormalPolicy", "sampling/deviation": 0.2})
    assert taken_over(dataclasses.replace(narrower, config=normal), earlier).points == [{RATE: 0.0005}]
    other = with_values(normal, {"sampling/deviation": 0.3})
    with pytest.raises(StudyError, match="has no successful trial whose values lie in the search space"):
        taken_over(dataclasses.replace(narrower, config=other), earlier)


def test_a_warm_start_without_trials_is_refused(earlier: str) -> None:
    with pytest.raises(ConfigError, match="a warm start needs trials, but there are none: set --trials"):
        dataclasses.replace(SEARCH, warm_start=earlier, trials=0).check()


def test_warm_start_from_anything_but_a_search_raises(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nothing holds no study \(no study\.json\)"):
        taken_over(SEARCH, str(tmp_path / "nothing"))
    comparison = {"schema": 2, "name": "c", "config": PAPER_V1.to_json(), "arms": {"a": {}}, "seeds": 1}
    write_study(Folder(tmp_path), comparison)
    with pytest.raises(StudyError, match=r"--warm-start .* is not a search: give the folder of one"):
        taken_over(SEARCH, str(tmp_path))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_warm_started_search_ends_with_its_time_budget(study: Study) -> None:
    options = (option if option != study.folder.name else "later" for option in study.options)
    more = ["--trials", "400", "--warm-start", study.folder, "--time-budget", "1"]
    run = run_search(*options, *more, timeout=1100)
    assert run.returncode == 0, run.stderr
    assert "best points first, and its 3 trials known to the search algorithm" in run.stdout
    assert "The time budget of 1 minutes is spent" in run.stdout
    later = study.folder.parent / "later"
    with (later / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert 1 <= len(rows) < 400
    best = max(study.table("trials.csv"), key=lambda row: float(row["val_psnr"]))
    searched = [path for path in best if "/" in path]
    assert [rows[0][path] for path in searched] == [best[path] for path in searched]
    assert (later / "best" / "generator.safetensors").exists()
