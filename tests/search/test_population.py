"""Population-based training: trials go on from better ones with changed values, in both ways to run them."""

import csv
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_OPTIONS, ray_cluster, run_search, start_and_stop
from optuna.distributions import FloatDistribution
from ray import tune

from raygan.search.algorithms import EpochPopulation, Population

pytestmark = pytest.mark.timeout(600)


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def population_options(tmp_path: Path) -> list[str]:
    return [*TINY_OPTIONS, "--storage", str(tmp_path), "--name", "study", "--scheduler", "pbt"]


def population(tmp_path: Path, *options: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The trials and epochs of a search by population-based training, at whose every epoch the worst is replaced."""
    run = run_search(*population_options(tmp_path), *options, timeout=580)
    assert (run.returncode, run.stderr) == (0, ""), run.stdout + run.stderr
    return table(tmp_path / "study" / "trials.csv"), table(tmp_path / "study" / "metrics.csv")


def check(trials: list[dict[str, str]], epochs: list[dict[str, str]], last: str) -> None:
    assert {row["state"] for row in trials} == {"complete"}
    assert {row["epochs"] for row in trials} == {last}
    rate = "optimizers/generator/learning_rate"
    histories = {row["trial"]: [epoch[rate] for epoch in epochs if epoch["trial"] == row["trial"]] for row in trials}
    changed = {trial for trial, rates in histories.items() if len(set(rates)) > 1}
    assert changed
    for row in trials:
        own = [epoch for epoch in epochs if epoch["trial"] == row["trial"]]
        # The rate that was asked for is the one that Adam had, also after it took over another's state.
        assert all(float(epoch[rate]) == float(epoch["generator_learning_rate"]) for epoch in own)
        # What the table gives is the best epoch's.
        best = max(own, key=lambda epoch: float(epoch["val_psnr"]))
        assert float(row[rate]) == float(best[rate])


@pytest.mark.long
def test_trials_in_their_own_processes_take_turns_and_go_on_after_a_kill(tmp_path: Path) -> None:
    options = ["--trials", "3", "--trial-epochs", "3", "--epochs", "3"]

    def some_are_past_the_first_exchange() -> bool:
        metrics = tmp_path / "study" / "metrics.csv"
        return metrics.exists() and len(table(metrics)) >= 4

    start_and_stop([*population_options(tmp_path), *options], some_are_past_the_first_exchange, signal.SIGKILL)
    seconds = {(row["trial"], row["epoch"]): row["seconds"] for row in table(tmp_path / "study" / "metrics.csv")}
    trials, epochs = population(tmp_path, *options)
    check(trials, epochs, "3")
    # All trials have all epochs, and only the last of those that were there may have been trained again.
    assert len(epochs) == 9
    again = [row for row in epochs if seconds.get((row["trial"], row["epoch"]), row["seconds"]) != row["seconds"]]
    assert len(again) <= 1


@pytest.mark.long
def test_trials_with_workers_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_cluster(4) as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        options = ["--trials", "2", "--trial-epochs", "2", "--epochs", "2", "--workers", "2"]
        trials, epochs = population(tmp_path, *options)
    check(trials, epochs, "2")


def climbing() -> Callable[[dict[str, Any]], None]:
    """A trial whose score is its value times its epoch; with values above 0.9 it fails in its second epoch."""

    # Inside, so that it travels by value: Ray's processes cannot import tests.
    def climb(config: dict[str, Any]) -> None:
        epochs_behind = 0
        if checkpoint := tune.get_checkpoint():
            with checkpoint.as_directory() as folder:
                epochs_behind = int((Path(folder) / "epoch").read_text())
        for epoch in range(epochs_behind + 1, 5):
            if config["x"] > 0.9 and epoch == 2:
                time.sleep(config["wait"])
                raise RuntimeError("it diverged")
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "epoch").write_text(str(epoch))
                score = {"epoch": epoch, "val_psnr": config["x"] * epoch}
                tune.report(score, checkpoint=tune.Checkpoint.from_directory(folder))

    return climb


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("wait", [0, 3])
def test_a_trial_that_fails_does_not_hold_the_others_up(tmp_path: Path, wait: float) -> None:
    """Neither where the others have still to come to the next exchange, nor where they wait for it already."""
    points = [{"x": x} for x in (0.95, 0.3, 0.2, 0.1)]
    tuner = tune.Tuner(
        tune.with_resources(climbing(), {"CPU": 0.25}),
        param_space={"x": tune.uniform(0, 1), "wait": wait},
        tune_config=tune.TuneConfig(
            search_alg=Population(points_to_evaluate=points),
            scheduler=EpochPopulation({"x": FloatDistribution(0, 1)}, epochs=4),
            num_samples=4,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    failed = [result for result in results if result.error]
    assert failed
    assert {result.metrics["epoch"] for result in results if not result.error} == {4}
    assert len(results) == 4


def test_a_population_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    command = ["--scheduler", "pbt", "--workers", "2", "--trials", "9", "--storage", str(tmp_path)]
    run = run_search(*TINY_OPTIONS, *command)
    assert run.returncode == 2
    assert "needs room for all 9 trials at once, but the cluster holds" in run.stderr
