"""The bookkeeping of `benchmarks/simulation.py`, on a table that is small enough to follow by hand."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT

from raygan.storage import Folder


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    return load("simulation")


SPACE = {
    "rate": {"low": 0.01, "high": 1.0, "log": True, "default": 0.1},
    "kind": {"choices": ["plain", "wide"], "default": "plain"},
    "width": {"low": 0.0, "high": 10.0, "default": 5.0, "when": ["kind", "wide"]},
}
CURVES = """rate,kind,width,epoch_1,epoch_2,epoch_3
0.01,plain,,1,3,2
1.0,plain,,4,,
0.1,wide,2,5,6,7
0.1,wide,8,8,9,10
"""
SLOW, DIVERGES = {"rate": 0.01, "kind": "plain"}, {"rate": 0.9, "kind": "plain"}


@pytest.fixture
def table(simulation: ModuleType, tmp_path: Path) -> Any:
    (tmp_path / "t.csv").write_text(CURVES)
    (tmp_path / "t.json").write_text(json.dumps({"space": SPACE}))
    return simulation.Table(tmp_path / "t.csv")


class Scripted:
    """Asks for given jobs, and records what it is told."""

    def __init__(self, jobs: list[Any]) -> None:
        self.jobs = jobs
        self.told: list[tuple[Any, int, float]] = []

    def ask(self) -> Any:
        return self.jobs.pop(0) if self.jobs else None

    def tell(self, job: Any, epoch: int, score: float) -> bool:
        self.told.append((job.training, epoch, score))
        return True


class OneAtATime(Scripted):
    """Asks when its last job has ended."""

    busy = False

    def ask(self) -> Any:
        if self.busy:
            return None
        self.busy = bool(self.jobs)
        return super().ask()

    def tell(self, job: Any, epoch: int, score: float) -> bool:
        self.busy = epoch < job.epochs
        return super().tell(job, epoch, score)


@pytest.mark.parametrize(
    ("point", "first"),
    [
        ({"rate": 0.05, "kind": "plain"}, 1),
        # Without its condition, a value does not count.
        ({"rate": 0.05, "kind": "plain", "width": 8.0}, 1),
        ({"rate": 0.2, "kind": "plain"}, 4),
        ({"rate": 0.01, "kind": "wide", "width": 4.0}, 5),
        ({"rate": 0.01, "kind": "wide", "width": 6.0}, 8),
    ],
)
def test_curve_of_the_nearest_recorded_configuration(table: Any, point: dict[str, Any], first: float) -> None:
    assert table.curve(point)[0] == first


def test_a_forest_knows_what_was_recorded_and_guesses_between(simulation: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CURVES)
    (tmp_path / "t.json").write_text(json.dumps({"forest": True, "space": SPACE}))
    table = simulation.Table(tmp_path / "t.csv")
    assert table.curve(SLOW) == pytest.approx([1, 3, 3])
    assert table.curve({"rate": 1.0, "kind": "plain"}) == pytest.approx([4, math.nan, math.nan], nan_ok=True)
    assert table.curve({"rate": 0.1, "kind": "wide", "width": 8.0}) == pytest.approx([8, 9, 10])
    between = table.curve({"rate": 0.1, "kind": "wide", "width": 5.0})
    assert all(low < one < high for low, one, high in zip([5, 6, 7], between, [8, 9, 10], strict=True))
    # Without its condition, a value does not count.
    assert table.curve(SLOW | {"width": 8.0}) == table.curve(SLOW)


def test_curves_are_best_so_far_up_to_where_a_training_diverged(table: Any) -> None:
    assert table.curve(SLOW) == [1, 3, 3]
    assert table.curve(DIVERGES) == [4, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True)]


def test_budget_is_that_of_forty_full_trainings(table: Any) -> None:
    assert (table.epochs, table.budget) == (3, 120)


def test_a_training_that_goes_on_costs_its_further_epochs_only(simulation: ModuleType, table: Any) -> None:
    method = OneAtATime([simulation.Job("a", SLOW, 2, None), simulation.Job("a", SLOW, 3, None)])
    assert simulation.play(method, table) == [1, 3, 3]
    assert method.told == [("a", 1, 1), ("a", 2, 3), ("a", 3, 3)]


def test_what_was_trained_already_is_told_at_no_cost(simulation: ModuleType, table: Any) -> None:
    method = OneAtATime([simulation.Job("a", SLOW, 2, None), simulation.Job("a", SLOW, 1, None)])
    assert simulation.play(method, table) == [1, 3]
    assert method.told[-1] == ("a", 1, 1)


def test_a_diverged_training_costs_the_epoch_and_ends(simulation: ModuleType, table: Any) -> None:
    method = Scripted([simulation.Job("a", DIVERGES, 3, None)])
    assert simulation.play(method, table) == [4, 4]
    assert [told[1] for told in method.told] == [1, 2]
    assert math.isnan(method.told[-1][2])


def test_four_jobs_at_once_take_turns(simulation: ModuleType, table: Any) -> None:
    jobs = [simulation.Job(name, SLOW, 2, None) for name in "abcde"]
    method = Scripted(jobs)
    simulation.play(method, table)
    assert "".join(told[0] for told in method.told) == "abcdabcdee"


def test_a_search_ends_at_its_goal_or_at_its_budget(simulation: ModuleType, table: Any) -> None:
    def jobs() -> list[Any]:
        return [simulation.Job(number, SLOW, 3, None) for number in range(100)]

    assert simulation.play(Scripted(jobs()), table, goal=3) == [1, 1, 1, 1, 3]
    assert len(simulation.play(Scripted(jobs()), table)) == table.budget


def test_epochs_to_the_goal(simulation: ModuleType) -> None:
    assert simulation.epochs_to(3, [1, 1, 3, 4]) == 3
    assert simulation.epochs_to(5, [1, 1, 3, 4]) == math.inf


def test_a_part_of_the_second_table_keeps_the_others(tmp_path: Path) -> None:
    curves, file = load("curves"), tmp_path / "curves-2.csv"
    for part, score in ((2, 20.0), (1, 10.0), (2, 30.0)):
        search, study = curves.search_of(part), tmp_path / str(part)
        study.mkdir(exist_ok=True)
        values = dict.fromkeys(search.space, 0)
        pd.DataFrame([{"trial": "trial-0001", **values}]).to_csv(study / "trials.csv", index=False)
        epoch = {"trial": "trial-0001", "epoch": 1, "operations_per_pixel": 9.0, "train_seconds": 2.0}
        pd.DataFrame([{**epoch, "val_psnr": score}]).to_csv(study / "metrics.csv", index=False)
        curves.write_table(search, Folder(study), file, part)
    table = pd.read_csv(file).sort_values("part")
    assert table["part"].tolist() == [1, 2]
    assert table["epoch_1"].tolist() == [10, 30]
    assert "trial" not in table


def test_the_searches_that_record_curves_are_valid() -> None:
    curves = load("curves")
    curves.SEARCH.check()
    parts = [curves.search_of(part) for part in curves.PARTS]
    for search in parts:
        search.check()
    assert sum(search.trials for search in parts) >= 300
    assert len({search.seed for search in parts}) == len(parts)
    described = curves.described(parts[0].space)
    assert described["generator/blocks"] == {"default": 1, "choices": [1, 2], "when": ["generator", "ResidualUNet"]}
    assert described["generator/depth"] == {"default": 4, "choices": [2, 3, 4]}
