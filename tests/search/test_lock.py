import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raygan.search import lock
from raygan.study.ledger import StudyError
from raygan.study.lock import locked, refuse_if_held
from raygan.study.storage import Folder

HOLD = """
import sys, time
from raygan.study.lock import locked
from raygan.study.storage import Folder
with locked(Folder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

ELSEWHERE = {"host": "elsewhere", "holder": "ann on elsewhere", "process": 1, "token": "a", "since": "noon"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "PATIENCE", 1.0)
    monkeypatch.setattr(lock, "SETTLE", 0.1)


@pytest.fixture
def study(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "studies" / "study")


def holder_of(study: Folder) -> dict[str, object]:
    holder: dict[str, object] = json.loads(study.read("lock.json"))
    return holder


def test_a_second_search_is_refused_by_name_until_the_first_is_killed(study: Folder) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, study.location], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        with pytest.raises(StudyError, match=rf"is in use by .* on {socket.gethostname()}, process {holder.pid}"):
            refuse_if_held(study)
        # At the holder's next sign of life.
        assert time.monotonic() - started < 10
        holder.kill()
        holder.wait()
    started = time.monotonic()
    with locked(study):
        assert holder_of(study)["process"] == os.getpid()
    assert time.monotonic() - started < 5
    assert not study.exists()


@pytest.mark.usefixtures("quick")
def test_a_holder_elsewhere_that_shows_no_life_is_dead(study: Folder) -> None:
    study.write(
        "lock.json", json.dumps({"host": "elsewhere", "holder": "ann on elsewhere", "process": 1, "token": "a"})
    )
    with locked(study):
        assert holder_of(study)["host"] == socket.gethostname()


@pytest.mark.usefixtures("quick")
def test_a_holder_elsewhere_that_lives_is_not_disturbed(study: Folder) -> None:
    study.write("lock.json", json.dumps(ELSEWHERE | {"beat": 0}))
    threading.Timer(0.4, lambda: study.write("lock.json", json.dumps(ELSEWHERE | {"beat": 1}))).start()
    with pytest.raises(StudyError, match="in use by ann on elsewhere, since noon: wait for it, stop it, or give"):
        refuse_if_held(study)


@pytest.mark.usefixtures("quick")
def test_a_search_whose_lock_is_taken_over_stops(study: Folder) -> None:
    def work() -> None:
        with locked(study):
            study.write("lock.json", json.dumps(ELSEWHERE))
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()
    # The other's lock is left alone.
    assert holder_of(study) == ELSEWHERE


def test_what_the_study_wrote_stays(study: Folder) -> None:
    with locked(study):
        study.write("study.json", "{}")
    assert study.files() == ["study.json"]
    refuse_if_held(study)


def test_a_storage_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = Folder(tmp_path / "file" / "study")
    with pytest.raises(StudyError, match=r"cannot write to .*; give another --storage"), locked(folder):
        pass
