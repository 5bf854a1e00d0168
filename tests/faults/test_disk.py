"""A search whose disk becomes full stops with the place named, and resumes once there is room."""

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TINY_OPTIONS, search_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[list[str], Path]]:
    """What to put before a command so that it sees a disk of 32 MB at `tmp_path/disk`, and where we see that disk."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs to be root, and unshare (Debian: util-linux), to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=32m tmpfs {disk} && echo ready && sleep infinity"
    command = ["unshare", "--mount", "bash", "-c", mount]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip("needs to mount a disk, which is not allowed here")
        yield ["nsenter", f"--target={process.pid}", "--mount"], Path(f"/proc/{process.pid}/root{disk}")
        os.killpg(process.pid, signal.SIGKILL)


def fill(file: Path) -> None:
    """Write a file until the disk is full."""
    with file.open("wb", buffering=0) as open_file, contextlib.suppress(OSError):
        while open_file.write(bytes(2**16)):
            pass


def test_full_disk_stops_a_search_which_resumes(
    small_disk: tuple[list[str], Path], write_photos: Callable[..., Path], tmp_path: Path
) -> None:
    before, disk = small_disk
    photos = str(write_photos(10))
    options = [*TINY_OPTIONS, "--photos", photos, "--evaluate-on", photos, "--trials", "2", "--trial-epochs", "3"]
    options += ["--storage", str(tmp_path / "disk"), "--name", "study", "--set", "training/steps_per_epoch=8"]
    command = [*before, *search_command(*options)]
    study = disk / "study"

    def run() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with run() as search:
        deadline = time.monotonic() + 600
        while not (study / "metrics.csv").exists():
            assert search.poll() is None, search.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        fill(disk / "filler")
        _, errors = search.communicate(timeout=600)
    assert search.returncode == 2, errors
    assert "the disk is full" in errors
    assert f"free some in {tmp_path / 'disk' / 'study'}, and resume with the same command" in errors
    assert not list(study.rglob("*.partial"))

    (disk / "filler").unlink()
    with run() as search:
        output, errors = search.communicate(timeout=900)
    assert search.returncode == 0, errors
    with (study / "trials.csv").open() as file:
        assert {row["state"] for row in csv.DictReader(file)} <= {"complete", "pruned"}
    assert "finished" in (study / "study.json").read_text(), output
