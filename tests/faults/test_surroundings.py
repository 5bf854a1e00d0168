"""Users without a name or a home, as containers have them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_OPTIONS, search_command
from PIL import Image

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def as_nobody() -> list[str]:
    """What to put before a command so that it runs as a user without a name, whose home cannot be written to."""
    command = ["unshare", "--user", "--map-user=12345", "--map-group=12345", "env", "HOME=/proc"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("needs unshare, and user namespaces, which are not allowed here")
    return command


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=1000)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_nobody_denoises(as_nobody: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (90, 120, 150)).save(tmp_path / "noisy.png")
    program = "from raygan.cli import main; main()"
    run(*as_nobody, sys.executable, "-c", program, "denoise", tmp_path / "noisy.png", tmp_path / "denoised.png")
    assert (tmp_path / "denoised.png").is_file()


@pytest.mark.long
def test_nobody_searches(as_nobody: list[str], write_photos: Callable[..., Path], tmp_path: Path) -> None:
    photos = str(write_photos(10))
    options = [*TINY_OPTIONS, "--photos", photos, "--evaluate-on", photos, "--storage", str(tmp_path)]
    assert "For a page of tables and figures" in run(*as_nobody, *search_command(*options))
    assert os.stat(tmp_path / "v1-quick" / "trials.csv").st_uid == os.getuid()
