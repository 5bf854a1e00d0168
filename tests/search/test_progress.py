"""What a terminal shows of a search."""

import os
import pty
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_OPTIONS, search_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_terminal_shows_a_live_table(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos = write_photos(10)
    place = ["--photos", photos, "--evaluate-on", photos, "--storage", tmp_path, "--name", "study"]
    command = search_command(*TINY_OPTIONS, *place, "--trials", "2", "--trial-epochs", "2")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert process.returncode == 0, text
    assert re.search(r"trial +state +epoch +val PSNR \(dB\) +val SSIM +seconds", text)
    table = text[text.rindex("val PSNR (dB)") :]
    for name in ("trial-0001", "trial-0002"):
        assert re.search(rf"^{name} +\w+ +[12]/2 +\d+\.\d\d +0\.\d+ +\d+", table, re.MULTILINE), text
    assert re.search(r"^[12] of 2 trials done, best \d+\.\d\d dB", table, re.MULTILINE), text
    assert not re.search(r"^trial-0001 (starts|epoch)", text, re.MULTILINE)


def _read(terminal: int) -> bytes:
    """What the terminal shows next; nothing after the process has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
