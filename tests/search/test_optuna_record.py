import json
import math
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path
from subprocess import PIPE, Popen

import optuna
import pytest
from conftest import Study
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState
from raygan.search.optuna_record import OptunaRecord, open_storage, open_study

from raygan.study.ledger import Ledger, StudyError, TrialRow
from raygan.study.storage import Folder

SPACE = {"a/x": FloatDistribution(0, 1), "a/kind": CategoricalDistribution(["p", "q"])}


def row(trial: str, state: str, val_psnr: float = math.nan) -> TrialRow:
    return TrialRow(trial, state, 1, val_psnr, 0.5, 4.0, 1.0, None, "", {"a/x": 0.5, "a/kind": "q"})


@pytest.fixture(params=["journal", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "optuna.log") if request.param == "journal" else f"sqlite:///{tmp_path}/optuna.db"


def trials_at(place: str) -> dict[str, optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name="study", storage=open_storage(place))
    return {trial.user_attrs["trial"]: trial for trial in study.get_trials()}


def test_the_storage_follows_the_ledger_across_interruptions(place: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "study")
    ledger = Ledger(folder)
    first = OptunaRecord(place, "study", SPACE, folder)
    ledger.add_epoch("one", {"epoch": 1, "best_val_psnr": 20.0})
    first.update([row("one", "running", 20.0), row("two", "pending")], ledger)
    assert {name: trial.state for name, trial in trials_at(place).items()} == dict.fromkeys(
        ("one", "two"), TrialState.RUNNING
    )
    # Killed; what the ledger has learnt meanwhile reaches the storage, and what it has already is not told twice.
    later = OptunaRecord(place, "study", SPACE, folder)
    ledger.add_epoch("one", {"epoch": 1, "best_val_psnr": 20.0})
    ledger.add_epoch("one", {"epoch": 2, "best_val_psnr": 21.0})
    ledger.add_epoch("two", {"epoch": 1, "best_val_psnr": 15.0})
    rows = [row("one", "complete", 21.0), row("two", "pruned", 15.0), row("three", "failed")]
    later.update(rows, ledger)
    later.update(rows, ledger)
    found = trials_at(place)
    assert found["one"].state == TrialState.COMPLETE
    assert found["one"].value == 21.0
    assert found["one"].params == {"a/x": 0.5, "a/kind": "q"}
    assert found["one"].intermediate_values == {1: 20.0, 2: 21.0}
    assert (found["two"].state, found["three"].state) == (TrialState.PRUNED, TrialState.FAIL)
    assert found["two"].intermediate_values == {1: 15.0}
    assert len(found) == 3


@pytest.mark.parametrize("url", ["bad://x", "sqlite:////no/such/folder/optuna.db"])
def test_a_storage_that_cannot_be_opened_is_refused(url: str) -> None:
    with pytest.raises(StudyError, match=r"(?s)cannot open the Optuna storage .*give a database URL"):
        open_storage(url)


def test_another_study_of_the_same_name_is_not_mixed_in(place: str, tmp_path: Path) -> None:
    open_study(place, "study", Folder(tmp_path / "study"))
    open_study(place, "study", Folder(tmp_path / "study"))
    with pytest.raises(StudyError, match=r"already has a study 'study', which is of .*/study: give another --name"):
        open_study(place, "study", Folder(tmp_path / "elsewhere"))


def test_a_studys_journal_agrees_with_its_tables(study: Study) -> None:
    storage = open_storage(str(study.folder / "optuna.log"))
    trials = optuna.load_study(study_name="tiny", storage=storage).get_trials()
    rows = {row["trial"]: row for row in study.table("trials.csv")}
    assert {trial.user_attrs["trial"] for trial in trials} == set(rows)
    for trial in trials:
        expected = rows[trial.user_attrs["trial"]]
        assert trial.state.name.lower() == expected["state"]
        assert trial.params["noise/policy"] == expected["noise/policy"]
        assert max(trial.intermediate_values.values()) == float(expected["val_psnr"])
        # Its picture is an artifact, which is a file of the study.
        assert optuna.artifacts.get_all_artifact_meta(trial, storage=storage)
    assert len(list((study.folder / "artifacts").iterdir())) == len(rows)


def test_the_dashboard_shows_the_studys_trials(study: Study) -> None:
    command = [sys.executable, "-c", "from raygan.cli import main; main()", "dashboard", str(study.folder)]
    options = ["--port", "18423", "--tensorboard-port", "18424"]
    with Popen([*command, *options], stdout=PIPE, stderr=PIPE, text=True, start_new_session=True) as process:
        try:
            studies = json.loads(answer("http://127.0.0.1:18423/api/studies", process))
            assert [one["study_name"] for one in studies["study_summaries"]] == ["tiny"]
            number = studies["study_summaries"][0]["study_id"]
            detail = json.loads(answer(f"http://127.0.0.1:18423/api/studies/{number}?after=0", process))
            assert len(detail["trials"]) == 3
            runs = json.loads(answer("http://127.0.0.1:18424/data/runs", process))
            assert "winner" in runs
        finally:
            os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)


def answer(url: str, process: Popen[str]) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return str(response.read().decode())
        except OSError:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.3)


def test_of_several_objectives_the_storage_has_each_trials_scores(place: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "study")
    ledger = Ledger(folder)
    record = OptunaRecord(place, "study", SPACE, folder, objectives=("val_psnr", "val_milliseconds"))
    ledger.add_epoch("one", {"epoch": 1, "best_val_psnr": 20.0, "best_val_milliseconds": 4.0})
    record.update([row("one", "running", 20.0)], ledger)
    record.update([row("one", "complete", 20.0)], ledger)
    study = optuna.load_study(study_name="study", storage=open_storage(place))
    assert study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert [trial.values for trial in study.best_trials] == [[20.0, 4.0]]
