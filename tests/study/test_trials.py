import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image

from raygan.storage import Folder
from raygan.study.ledger import Ledger, StudyError
from raygan.study.trials import Trials, dashboard_storage, open_database

PATH = "loss/adversarial_weight"


def opened(folder: Path, **options: Any) -> Trials:
    return Trials(Folder(folder), "s", ["val_psnr"], **options)


def name(number: int, _: Mapping[str, Any]) -> str:
    return f"trial-{number:04d}"


def begun(trials: Trials, count: int = 1) -> list[optuna.Trial]:
    asked = [trials.study.ask({PATH: FloatDistribution(0, 1)}) for _ in range(count)]
    for trial in asked:
        trials.begin(trial, name)
    return asked


def metrics(epoch: int, psnr: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "epochs": 3,
        "val_psnr": psnr,
        "best_val_psnr": psnr,
        "best_val_ssim": 0.5,
        "operations_per_pixel": 100.0,
        "seconds": 1.5,
        "discriminator_accuracy_clean": 1.0,
        "discriminator_accuracy_denoised": 1.0,
    }


def test_trials_table_derives_from_the_optuna_study_and_the_ledger(tmp_path: Path) -> None:
    trials, ledger = opened(tmp_path), Ledger(Folder(tmp_path))
    running, pruned, complete, failed = begun(trials, 4)
    for trial, epochs in ((pruned, 1), (complete, 3)):
        for epoch in range(1, epochs + 1):
            ledger.add_epoch(trial.user_attrs["trial"], metrics(epoch, 20.0 + epoch))
            trials.report(trial, metrics(epoch, 20.0 + epoch), epoch)
        trials.end(trial, metrics(epochs, 20.0 + epochs))
    trials.end(failed, None, error="training diverged")
    # Refused, and never begun: it has no row.
    trials.study.tell(trials.study.ask(), state=TrialState.PRUNED)
    rows = opened(tmp_path).rows(Ledger(Folder(tmp_path)), [PATH, "sampling/deviation"])
    table = [(row.trial, row.state, row.epochs, row.seconds, row.collapsed, row.checkpoint, row.error) for row in rows]
    assert table == [
        ("trial-0001", "running", 0, 0, None, "", ""),
        ("trial-0002", "pruned", 1, 1.5, None, "checkpoints/trial-0002", ""),
        ("trial-0003", "complete", 3, 4.5, 1, "checkpoints/trial-0003", ""),
        ("trial-0004", "failed", 0, 0, None, "", "training diverged"),
    ]
    assert [row.val_psnr for row in rows[1:3]] == [21.0, 23.0]
    assert (rows[2].val_ssim, rows[2].operations_per_pixel) == (0.5, 100.0)
    assert math.isnan(rows[0].val_psnr)
    assert rows[0].values == {PATH: running.params[PATH], "sampling/deviation": None}
    assert len(opened(tmp_path).ended()) == 3


def test_trials_end_once(tmp_path: Path) -> None:
    trials = opened(tmp_path)
    [trial] = begun(trials)
    trials.end(trial, metrics(3, 23.0))
    trials.end(trial, None, error="killed")
    assert [(one.state, one.value) for one in opened(tmp_path).started()] == [(TrialState.COMPLETE, 23.0)]


def test_killed_study_continues_its_running_trials_first(tmp_path: Path) -> None:
    killed = opened(tmp_path)
    first, ended = begun(killed, 2)
    killed.report(first, metrics(1, 21.0), 1)
    killed.end(ended, metrics(3, 22.0))
    orphan = killed.study.ask()
    resumed = opened(tmp_path)
    unfinished = resumed.unfinished()
    assert [trial.number for trial in unfinished] == [first.number, orphan.number]
    assert unfinished[0].params == first.params
    assert [resumed.begin(trial, name) for trial in unfinished] == ["trial-0001", "trial-0003"]
    # The epoch that it had reached is not reported twice.
    resumed.report(unfinished[0], metrics(1, 0.0), 1)
    resumed.end(unfinished[0], metrics(2, 21.5))
    assert resumed.study.trials[0].intermediate_values == {1: 21.0}
    assert [trial.user_attrs["trial"] for trial in resumed.started()] == ["trial-0001", "trial-0002", "trial-0003"]


def test_torn_journal_is_repaired(tmp_path: Path) -> None:
    begun(opened(tmp_path), 2)
    journal = tmp_path / "optuna.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines(keepends=True)[-1][:20])
    trials = opened(tmp_path)
    begun(trials)
    assert journal.read_bytes().startswith(whole)
    # By another reader than ours.
    with warnings.catch_warnings(action="ignore"):
        study = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(journal))))
    assert [trial.user_attrs["trial"] for trial in study.trials] == ["trial-0001", "trial-0002", "trial-0003"]


def test_enqueued_points_are_tried_first_and_once(tmp_path: Path) -> None:
    for _ in range(2):
        opened(tmp_path).enqueue([{PATH: 0.25}, {PATH: 0.75}])
    trials = opened(tmp_path)
    assert [trial.params[PATH] for trial in begun(trials, 2)] == [0.25, 0.75]
    assert len(trials.study.trials) == 2


def test_points_are_enqueued_at_the_first_start_alone(tmp_path: Path) -> None:
    """An earlier study that goes on finds other points meanwhile."""
    opened(tmp_path).enqueue([{PATH: 0.25}])
    resumed = opened(tmp_path)
    resumed.enqueue([{PATH: 0.75}])
    assert len(resumed.study.trials) == 1


def test_pictures_become_artifacts(tmp_path: Path) -> None:
    trials = opened(tmp_path)
    [trial] = begun(trials)
    Folder(tmp_path).write("pictures/x", b"")
    Image.new("RGB", (2, 2)).save(tmp_path / "pictures" / "trial-0001.png")
    trials.end(trial, metrics(3, 23.0))
    [meta] = optuna.artifacts.get_all_artifact_meta(trials.study.trials[0], storage=trials.study._storage)
    picture = tmp_path / "artifacts" / meta.artifact_id
    assert picture.read_bytes() == (tmp_path / "pictures" / "trial-0001.png").read_bytes()


def test_database_is_shared_by_studies_of_different_folders_only_under_different_names(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    begun(opened(tmp_path / "a", url=url), 2)
    assert len(opened(tmp_path / "a", url=url).started()) == 2
    with pytest.raises(
        StudyError, match=f"already has a study 's', which belongs to {tmp_path}/a: give another --name"
    ):
        opened(tmp_path / "b", url=url)
    Trials(Folder(tmp_path / "b"), "t", ["val_psnr"], url)
    with dashboard_storage(Folder(tmp_path / "b"), url) as storage:
        assert {study.study_name for study in storage.get_all_studies()} == {"s", "t"}
    assert not (tmp_path / "a").exists()


def test_trials_of_a_deleted_folder_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    trials = opened(tmp_path / "a", url=url)
    [trial] = begun(trials)
    trials.end(trial, metrics(3, 22.0))
    with pytest.raises(StudyError, match="has the trials of an earlier study 's', whose folder is gone: delete it"):
        opened(tmp_path / "a", url=url)
    Folder(tmp_path / "a").write("trials.csv", "trial\n")
    assert opened(tmp_path / "a", url=url).ended() == ["trial-0001"]


def test_a_study_whose_trials_are_elsewhere_is_refused(tmp_path: Path) -> None:
    Folder(tmp_path).write("metrics.csv", "trial,epoch,val_psnr\ntrial-0001,1,20.0\n")
    with pytest.raises(StudyError, match="has the epochs of trials that are not in the Optuna storage: give the"):
        opened(tmp_path, url=f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(StudyError, match=r"restore optuna.log from a copy"):
        opened(tmp_path)


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////absent/folder/x.db", "nodriver://host/database"])
def test_databases_that_cannot_be_opened_raise(url: str) -> None:
    with pytest.raises(StudyError, match="cannot open the Optuna storage of --optuna-storage"):
        open_database(url)


def test_passwords_of_databases_are_not_shown() -> None:
    with pytest.raises(StudyError) as refused:
        open_database("mysql+absent://user:hunter2@localhost/studies")
    assert "hunter2" not in str(refused.value)
