from pathlib import Path

import pytest
from raygan.search.snapshot import KeepState, put_back_state

from raygan.study.storage import Folder


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Tune's state, where Tune writes it."""
    path = tmp_path / "staging"
    path.mkdir()
    for name in ("experiment_state-1.json", "searcher-state-1.pkl", "search_gen_state-1.json"):
        (path / name).write_text(f"state of {name}")
    (path / "other.json").write_text("not state")
    monkeypatch.setattr(KeepState, "staging", path)
    return path


@pytest.mark.usefixtures("staging")
def test_torn_and_newer_files_give_way_to_what_was_kept(tmp_path: Path) -> None:
    study = Folder(tmp_path / "study")
    KeepState(study.location, 2).on_step_end(0, [])
    study.write("tune/experiment_state-1.json", "torn")
    study.write("tune/experiment_state-2.json", "torn, and newer by name")
    study.write("tune/tuner.pkl", "the tuner")
    study.write("tune/trial-0001/checkpoint/metrics.json", "a trial's")
    assert put_back_state(study, "tune")
    assert study.child("tune").files() == [
        *("experiment_state-1.json", "search_gen_state-1.json", "searcher-state-1.pkl"),
        *("trial-0001/checkpoint/metrics.json", "tuner.pkl"),
    ]
    assert study.read("tune/experiment_state-1.json") == b"state of experiment_state-1.json"
    assert study.read("tune/tuner.pkl") == b"the tuner"


def test_state_is_kept_again_only_when_it_changed(staging: Path, tmp_path: Path) -> None:
    study = Folder(tmp_path / "study")
    keep = KeepState(study.location, 2)
    keep.on_step_end(0, [])
    first = (tmp_path / "study" / "tune-state.zip").stat().st_mtime_ns
    keep.on_step_end(1, [])
    assert (tmp_path / "study" / "tune-state.zip").stat().st_mtime_ns == first
    (staging / "experiment_state-1.json").write_text("later")
    keep.on_step_end(2, [])
    assert put_back_state(study, "tune")
    assert study.read("tune/experiment_state-1.json") == b"later"


def test_a_search_that_never_began_has_nothing_to_put_back(tmp_path: Path) -> None:
    assert not put_back_state(Folder(tmp_path), "tune")
