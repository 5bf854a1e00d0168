import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import raygan_here

from raygan.presets import PAPER_V1
from raygan.storage import Folder
from raygan.study.ledger import SCHEMA, Ledger, StudyError, TrialRow, package_versions, read_study, write_study
from raygan.study.reader import StudyFiles


def row(trial: str, state: str, val_psnr: float, error: str = "") -> TrialRow:
    values = {"loss/adversarial_weight": 0.1 + 0.2, "sampling": "NormalPolicy"}
    return TrialRow(trial, state, 2, val_psnr, 0.5, 1e5, 1.5, None, f"checkpoints/{trial}", error, "", values)


def test_trials_table_has_the_documented_columns(tmp_path: Path) -> None:
    failed = row("trial-0002", "failed", math.nan, 'content_loss is nan, "inf"')
    Ledger(Folder(tmp_path)).write_trials([row("trial-0001", "complete", 21.25), failed])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    assert list(rows[0]) == [
        *("trial", "state", "epochs", "val_psnr", "val_ssim", "operations_per_pixel", "seconds", "collapsed"),
        *("checkpoint", "error", "repeats", "loss/adversarial_weight", "sampling"),
    ]
    assert rows[0]["val_psnr"] == "21.25"
    # Values survive the table to the last bit.
    assert float(rows[0]["loss/adversarial_weight"]) == 0.1 + 0.2
    assert (rows[1]["val_psnr"], rows[1]["error"]) == ("nan", 'content_loss is nan, "inf"')


def test_epochs_are_kept_once_and_survive_reopening(tmp_path: Path) -> None:
    ledger = Ledger(Folder(tmp_path))
    ledger.add_epoch("trial-0001", {"epoch": 1, "val_psnr": 1 / 3})
    ledger.add_epoch("trial-0002", {"epoch": 1, "val_psnr": 5.0})
    ledger.add_epoch("trial-0001", {"epoch": 2, "val_psnr": 7.0})
    again = Ledger(Folder(tmp_path))
    assert again.epochs == ledger.epochs
    again.add_epoch("trial-0001", {"epoch": 2, "val_psnr": 8.0})
    epochs = Ledger(Folder(tmp_path)).epochs_of("trial-0001")
    assert [(one["epoch"], one["val_psnr"]) for one in epochs] == [(1, 1 / 3), (2, 8.0)]
    # In the order in which they were first recorded.
    order = [line.split(",")[:2] for line in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]
    assert order == [["trial-0001", "1"], ["trial-0002", "1"], ["trial-0001", "2"]]


def test_epochs_are_appended(tmp_path: Path) -> None:
    ledger = Ledger(Folder(tmp_path))
    ledger.add_epoch("a", {"epoch": 1, "val_psnr": 1.0})
    before = (tmp_path / "metrics.csv").stat().st_ino
    ledger.add_epoch("a", {"epoch": 2, "val_psnr": 2.0})
    assert (tmp_path / "metrics.csv").stat().st_ino == before
    assert (tmp_path / "metrics.csv").read_text() == "trial,epoch,val_psnr\na,1,1.0\na,2,2.0\n"
    # A value that the epochs before did not have is a new column, of all.
    ledger.add_epoch("b", {"epoch": 1, "val_psnr": 3.0, "extra": 0.5})
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        *("trial,epoch,val_psnr,extra", "a,1,1.0,", "a,2,2.0,", "b,1,3.0,0.5"),
    ]


def test_torn_last_line_is_dropped_and_repaired_with_the_next_epoch(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text("trial,epoch,val_psnr\na,1,20.5\na,2,21")
    ledger = Ledger(Folder(tmp_path))
    assert [epoch["epoch"] for epoch in ledger.epochs_of("a")] == [1]
    ledger.add_epoch("a", {"epoch": 2, "val_psnr": 21.25})
    assert table.read_text() == "trial,epoch,val_psnr\na,1,20.5\na,2,21.25\n"


def test_failed_trials_are_never_best(tmp_path: Path) -> None:
    ledger = Ledger(Folder(tmp_path))
    write_study(ledger.folder, {"schema": 2, "name": "x", "config": PAPER_V1.to_json(), "objectives": ["val_psnr"]})
    ledger.write_trials(
        [row("a", "complete", 20.0), row("b", "failed", 30.0), row("c", "pruned", math.nan), row("d", "complete", 25.0)]
    )
    assert StudyFiles(ledger.folder).best_trial()["trial"] == "d"
    ledger.write_trials([row("a", "failed", 20.0), row("b", "failed", math.nan, "content_loss is nan")])
    with pytest.raises(StudyError, match=r"all 2 trials failed \(b: content_loss is nan\)"):
        StudyFiles(ledger.folder).best_trial()
    ledger.write_trials([row("a", "pruned", math.nan), row("b", "pruned", math.nan)])
    with pytest.raises(StudyError, match=r"none of 2 trials completed an epoch: .* longer --time-budget"):
        StudyFiles(ledger.folder).best_trial()


def test_study_record(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new")
    assert read_study(folder) is None
    write_study(folder, {"schema": 2, "name": "x", "versions": package_versions()})
    study = read_study(folder)
    assert study is not None
    assert {"python", "ray", "torch", "optuna", "raygan"} <= set(study["versions"])


def test_folders_of_an_older_schema_are_refused_in_one_sentence(tmp_path: Path) -> None:
    """As RayGAN 0.1 wrote them, without a schema number."""
    folder = tmp_path / "v1-quick"
    record = {"name": "v1-quick", "status": "finished", "versions": {"raygan": "0.1.0"}}
    Folder(folder).write("study.json", json.dumps(record))
    Folder(folder).write("evaluation/summary.csv", "")
    sentence = (
        f"{folder} holds a study of schema 1, but this version of RayGAN reads schema 2: read it with RayGAN 0.1.0, or "
        "give another --name\n"
    )
    report, search = raygan_here("report", folder), raygan_here("search", "v1", "--quick", "--storage", tmp_path)
    assert [(one.returncode, one.stderr) for one in (report, search)] == [(2, f"raygan: {sentence}")] * 2
    assert json.loads((folder / "study.json").read_text()) == record


def test_the_best_repeated_trial_is_that_of_the_best_mean(tmp_path: Path) -> None:
    write_study(Folder(tmp_path), {"schema": SCHEMA, "name": "s", "config": PAPER_V1.to_json()})
    scores = {"lucky": (30.0, 20.0), "good": (29.0, 28.0), "once": (29.5,)}
    rows = [
        replace(row(name + "-seed-1" * bool(index), "complete", score), repeats=name * bool(index))
        for name, several in scores.items()
        for index, score in enumerate(several)
    ]
    Ledger(Folder(tmp_path)).write_trials(rows)
    files = StudyFiles(Folder(tmp_path))
    assert files.best_trial()["trial"] == "good"
    repeated = files.repeated().set_index("trial")
    assert repeated.loc["good", ["seeds", "mean"]].tolist() == [2, 28.5]
    assert repeated.loc["lucky", "deviation"] == pytest.approx(50**0.5)
    assert set(repeated.index) == {"lucky", "good"}
