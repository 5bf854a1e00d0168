import csv
import io
import math
from pathlib import Path

import pytest

from raygan.study.ledger import Ledger, StudyError, TrialRow, package_versions, read_study, write_study
from raygan.study.storage import Folder


def row(trial: str, state: str, val_psnr: float) -> TrialRow:
    values = {"loss/adversarial_weight": 0.1 + 0.2, "noise/policy": "normal"}
    return TrialRow(trial, state, 2, val_psnr, 0.5, 4.0, 1.5, None, f"tune/{trial}/checkpoint_000001", values)


def test_trials_table_has_the_documented_columns(tmp_path: Path) -> None:
    Ledger(Folder(tmp_path)).write_trials([row("trial-0001", "complete", 21.25), row("trial-0002", "failed", math.nan)])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    assert list(rows[0]) == [
        *("trial", "state", "epochs", "val_psnr", "val_ssim", "val_milliseconds", "seconds", "collapsed", "checkpoint"),
        *("loss/adversarial_weight", "noise/policy"),
    ]
    assert rows[0]["val_psnr"] == "21.25"
    # Values survive the table to the last bit.
    assert float(rows[0]["loss/adversarial_weight"]) == 0.1 + 0.2
    assert rows[1]["val_psnr"] == "nan"


def test_epochs_are_kept_once_each_and_survive_reopening(tmp_path: Path) -> None:
    ledger = Ledger(Folder(tmp_path))
    ledger.add_epoch("trial-0001", {"epoch": 1, "val_psnr": 1 / 3})
    ledger.add_epoch("trial-0002", {"epoch": 1, "val_psnr": 5.0})
    ledger.add_epoch("trial-0001", {"epoch": 2, "val_psnr": 7.0})
    again = Ledger(Folder(tmp_path))
    assert again.epochs == ledger.epochs
    again.add_epoch("trial-0001", {"epoch": 2, "val_psnr": 8.0})
    assert [(e["epoch"], e["val_psnr"]) for e in Ledger(Folder(tmp_path)).epochs_of("trial-0001")] == [
        (1, 1 / 3),
        (2, 8.0),
    ]


def test_an_epoch_is_added_to_the_table_without_writing_the_others_again(tmp_path: Path) -> None:
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


def test_a_torn_line_is_left_out_and_mended_with_the_next_epoch(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text("trial,epoch,val_psnr\na,1,20.5\na,2,21")
    ledger = Ledger(Folder(tmp_path))
    assert [epoch["epoch"] for epoch in ledger.epochs_of("a")] == [1]
    ledger.add_epoch("a", {"epoch": 2, "val_psnr": 21.25})
    assert table.read_text() == "trial,epoch,val_psnr\na,1,20.5\na,2,21.25\n"


def test_the_best_trial_never_is_a_failed_one(tmp_path: Path) -> None:
    ledger = Ledger(Folder(tmp_path))
    ledger.write_trials(
        [row("a", "complete", 20.0), row("b", "failed", 30.0), row("c", "pruned", math.nan), row("d", "complete", 25.0)]
    )
    assert ledger.best_trial(["val_psnr"])["trial"] == "d"
    ledger.write_trials([row("a", "failed", 20.0), row("b", "failed", math.nan)])
    with pytest.raises(StudyError, match="all 2 trials failed"):
        ledger.best_trial(["val_psnr"])


def test_without_a_whole_epoch_there_is_no_best_trial(tmp_path: Path) -> None:
    ledger = Ledger(Folder(tmp_path))
    ledger.write_trials([row("a", "pruned", math.nan), row("b", "pruned", math.nan)])
    with pytest.raises(StudyError, match=r"none of 2 trials came to the end of an epoch: .* longer --time-budget"):
        ledger.best_trial(["val_psnr"])


def test_study_record(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new")
    assert read_study(folder) is None
    write_study(folder, {"name": "x", "versions": package_versions()})
    study = read_study(folder)
    assert study is not None
    assert {"python", "ray", "torch", "optuna", "raygan"} <= set(study["versions"])
