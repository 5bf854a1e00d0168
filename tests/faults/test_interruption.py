"""A search that is stopped or killed goes on under the same command: nothing finished is lost or repeated."""

import csv
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_OPTIONS, run_search, search_command

pytestmark = pytest.mark.timeout(500)
Rows = dict[tuple[str, str], dict[str, str]]


def table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def finished(study: Path) -> set[str]:
    return {row["trial"] for row in table(study / "trials.csv") if row["state"] in ("complete", "pruned")}


def epochs(study: Path) -> Rows:
    return {(row["trial"], row["epoch"]): row for row in table(study / "metrics.csv")}


def start_and_stop(options: list[str], when: Callable[[], bool], how: signal.Signals) -> tuple[int, str]:
    """Start a search, signal its main process once `when` holds, and give back how it ended and what it said."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        search_command(*options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 200
        while not when():
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if how == signal.SIGINT:
            # As a terminal does: to all processes that it started.
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.fixture
def options(write_photos: Callable[..., Path], tmp_path: Path) -> list[str]:
    photos = str(write_photos(10))
    places = ["--photos", photos, "--evaluate-on", photos, "--storage", str(tmp_path), "--name", "study"]
    return [*TINY_OPTIONS, *places, "--trials", "4", "--epochs", "3", "--set", "training/steps_per_epoch=8"]


def test_killed_in_the_search_and_in_the_winners_training(options: list[str], tmp_path: Path) -> None:
    study = tmp_path / "study"
    code, _ = start_and_stop(options, lambda: bool(finished(study)), signal.SIGKILL)
    assert code == -signal.SIGKILL
    done, known = finished(study), epochs(study)
    assert done
    assert len(done) < 4

    code, _ = start_and_stop(options, lambda: bool(table(study / "best" / "metrics.csv")), signal.SIGKILL)
    assert code == -signal.SIGKILL
    # A finished trial is not trained again: its epochs are those of the first start, to the measured second.
    later = epochs(study)
    assert {key: row for key, row in later.items() if key[0] in done} == {
        key: row for key, row in known.items() if key[0] in done
    }
    assert [row["trial"] for row in table(study / "trials.csv")] == [f"trial-000{number}" for number in range(1, 5)]
    assert len(finished(study)) == 4
    winners = {row["epoch"]: row for row in table(study / "best" / "metrics.csv")}

    ended = run_search(*options)
    assert ended.returncode == 0
    assert "trial-0001 starts" not in ended.stdout
    assert epochs(study) == later
    rows = table(study / "best" / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    # The epochs that a checkpoint holds are not trained again.
    assert f"winner epoch  {len(winners) + 1}/3" in ended.stdout
    assert "winner epoch  1/3" not in ended.stdout


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(options: list[str], tmp_path: Path) -> None:
    study = tmp_path / "study"

    def in_the_last_trials() -> bool:
        return len(table(study / "trials.csv")) == 4 and len(finished(study)) < 4

    code, output = start_and_stop(options, in_the_last_trials, signal.SIGINT)
    assert code == 130
    assert "Stopped. Go on with the same command: python " in output
    assert "Traceback" not in output
    done, known = finished(study), epochs(study)

    code, output = start_and_stop(options, lambda: bool(table(study / "best" / "metrics.csv")), signal.SIGINT)
    assert code == 130
    assert "Stopped. Go on with the same command: python " in output
    assert "Traceback" not in output

    ended = run_search(*options)
    assert ended.returncode == 0
    assert {key: row for key, row in epochs(study).items() if key[0] in done} == {
        key: row for key, row in known.items() if key[0] in done
    }
    assert len(finished(study)) == 4
