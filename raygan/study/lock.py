"""One search at a time in a study's folder: a second one would destroy the first one's state."""

from __future__ import annotations

import _thread
import contextlib
import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from raygan.study.ledger import StudyError
from raygan.study.storage import Folder

FILE = "lock.json"
BEAT = 5.0
"""Seconds between two signs of life of a lock's holder."""
PATIENCE = 4 * BEAT
"""Seconds without a sign of life after which a holder counts as dead."""
SETTLE = 0.5
"""Seconds in which two searches that found a folder free would see each other."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Hold a study's folder, on any storage, while this search works in it.

    A live holder shows a sign of life every few seconds; a dead one's lock is taken over: at once where its process is
    gone from this machine, else after 20 s without a sign. Raises `StudyError`, with the holder's name, where another
    search holds the folder.
    """
    refuse_if_held(folder)
    mine = {
        "holder": f"{getpass.getuser()} on {socket.gethostname()}, process {os.getpid()}",
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "token": uuid.uuid4().hex,
    }
    try:
        folder.write(FILE, json.dumps(mine | {"beat": 0}))
    except OSError as error:
        raise StudyError(f"cannot write to {folder}: {error}; give another --storage") from error
    time.sleep(SETTLE)
    if (other := _holder(folder)) and other["token"] != mine["token"]:
        raise _refusal(folder, other)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(folder, mine, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        if (holder := _holder(folder)) and holder["token"] == mine["token"]:
            folder.delete(FILE)
            if not folder.files():
                folder.clear()


def refuse_if_held(folder: Folder) -> None:
    """Raise `StudyError` at the first sign of life of another search in the folder; remove a dead one's lock."""
    first = _holder(folder)
    if first is None:
        return
    if first["host"] == socket.gethostname() and not _runs(first["process"]):
        folder.delete(FILE)
        return
    # Another machine's clock says nothing, but a file that changes does.
    logger.warning("%s is held by %s: waiting to see whether it lives", folder, first["holder"])
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = _holder(folder)
        if now is None:
            return
        if now != first:
            raise _refusal(folder, now)
    logger.warning("%s is no longer alive: its study is taken over", first["holder"])
    folder.delete(FILE)


def _beat(folder: Folder, mine: dict[str, Any], ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(BEAT):
        try:
            holder = _holder(folder)
            if holder and holder["token"] != mine["token"]:
                logger.error("%s was taken over by %s: stopping here", folder, holder["holder"])
                _thread.interrupt_main()
                return
            beat += 1
            folder.write(FILE, json.dumps(mine | {"beat": beat}))
        except OSError as error:
            # A storage that does not answer for a moment; the next beat tries again.
            logger.warning("cannot renew the lock of %s: %s", folder, error)


def _holder(folder: Folder) -> dict[str, Any] | None:
    try:
        holder: dict[str, Any] = json.loads(folder.read(FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return holder


def _refusal(folder: Folder, holder: dict[str, Any]) -> StudyError:
    return StudyError(
        f"{folder} is in use by {holder['holder']}, since {holder['since']}: wait for it, stop it, or give another "
        "--name"
    )


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
