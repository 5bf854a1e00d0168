import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raygan.storage import Folder
from raygan.study import lock
from raygan.study.ledger import StudyError
from raygan.study.lock import locked, refuse_if_held

HOLD = """
import sys, time
from raygan.study.lock import locked
from raygan.storage import Folder
with locked(Folder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""

ELSEWHERE = {"holder": "ann on elsewhere, process 1", "token": "a", "since": "noon", "beat": 0}


class Bucket(Folder):
    """A local folder that is treated as one in a bucket; it too shows files only once they are complete."""

    is_local = False  # type: ignore[assignment]

    def write(self, name: str, content: bytes | str) -> None:
        Folder(self.location).write(name, content)


@pytest.fixture
def study(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "studies" / "study")


@pytest.fixture
def bucket(study: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lock, "EXPIRY", 1.0)
    monkeypatch.setattr(lock, "SETTLE", 0.1)
    return Bucket(study.location)


def holder_of(study: Folder) -> dict[str, object]:
    holder: dict[str, object] = json.loads(study.read("lock.json"))
    return holder


def test_second_search_is_refused_until_the_first_is_killed(study: Folder) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, study.location], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for refused in (refuse_if_held, lambda folder: locked(folder).__enter__()):
            with pytest.raises(StudyError, match=rf"is in use by .* on {socket.gethostname()}, process {holder.pid}"):
                refused(study)
        holder.kill()
        holder.wait()
    refuse_if_held(study)
    with locked(study):
        assert f"process {os.getpid()}" in str(holder_of(study)["holder"])
    assert not study.exists()


def test_lock_in_a_bucket_is_taken_over_without_a_heartbeat(bucket: Folder) -> None:
    bucket.write("lock.json", json.dumps(ELSEWHERE))
    with locked(bucket):
        first = holder_of(bucket)
        assert socket.gethostname() in str(first["holder"])
        deadline = time.monotonic() + 60
        while holder_of(bucket) == first:
            assert time.monotonic() < deadline, "no heartbeat"
            time.sleep(0.05)
    assert not bucket.exists("lock.json")


def test_lock_in_a_bucket_is_respected_while_it_has_a_heartbeat(
    bucket: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "EXPIRY", 60.0)
    bucket.write("lock.json", json.dumps(ELSEWHERE))
    beat = threading.Timer(0.4, lambda: bucket.write("lock.json", json.dumps(ELSEWHERE | {"beat": 1})))
    beat.start()
    with pytest.raises(
        StudyError, match=r"in use by ann on elsewhere, process 1, since noon: wait for it, stop it, or"
    ):
        refuse_if_held(bucket)
    beat.join()


def test_search_stops_when_its_lock_is_taken_over(bucket: Folder) -> None:
    """Also in the background of a shell, where it ignores Ctrl-C."""

    def work() -> None:
        with locked(bucket):
            bucket.write("lock.json", json.dumps(ELSEWHERE))
            time.sleep(60)

    # As a search does.
    handlers = {signal.SIGTERM: signal.default_int_handler, signal.SIGINT: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    # The other's lock is left alone.
    assert holder_of(bucket) == ELSEWHERE


def test_files_of_the_study_stay(study: Folder) -> None:
    with locked(study):
        study.write("study.json", "{}")
    assert study.files() == [".lock", "study.json"]
    refuse_if_held(study)
    with locked(study):
        pass
    assert study.exists("study.json")


def test_a_user_without_a_name_holds_a_lock(study: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    with locked(study):
        assert json.loads(study.read("lock.json"))["holder"].startswith(f"user {os.getuid()} on ")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"holder": 1}'])
def test_a_damaged_lock_is_nobodys(study: Folder, content: str) -> None:
    study.write("lock.json", content)
    with locked(study):
        pass
    refuse_if_held(study)


def test_unwritable_storage_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = Folder(tmp_path / "file" / "study")
    with pytest.raises(StudyError, match=r"cannot write to .*; give another --storage"), locked(folder):
        pass
