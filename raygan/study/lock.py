"""Only one search can use a study's folder at a time."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from raygan.storage import Folder
from raygan.study.ledger import StudyError

FILE = "lock.json"
"""Who uses the folder; in a bucket, it is the lock itself."""
HEARTBEAT = 5.0
"""Seconds between two heartbeats in a bucket."""
EXPIRY = 4 * HEARTBEAT
"""Seconds without a heartbeat after which a holder counts as dead."""
SETTLE = 0.5
"""Seconds in which two searches that found a bucket free would see each other."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Hold a study's folder. Raises `StudyError`, with the holder's name, if another search holds it.

    A local folder is locked by the operating system, which frees it when the process ends. In a bucket the holder
    writes a heartbeat every few seconds; the lock of one that stopped is taken over after 20 s.
    """
    mine = {
        "holder": f"{_user()} on {socket.gethostname()}, process {os.getpid()}",
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "token": uuid.uuid4().hex,
        "beat": 0,
    }
    with contextlib.ExitStack() as held:
        try:
            if folder.is_local:
                Path(folder.path).mkdir(parents=True, exist_ok=True)
                held.enter_context(filelock.FileLock(Path(folder.path) / ".lock").acquire(timeout=0))
            else:
                refuse_if_held(folder)
            folder.write(FILE, json.dumps(mine))
        except filelock.Timeout:
            raise _refusal(folder, _holder(folder)) from None
        except OSError as error:
            raise StudyError(f"cannot write to {folder}: {error}; give another --storage") from error
        try:
            with contextlib.nullcontext() if folder.is_local else _heartbeat(folder, mine):
                yield
        finally:
            if (holder := _holder(folder)) and holder["token"] == mine["token"]:
                folder.delete(FILE)
            if folder.is_local and set(folder.files()) <= {".lock"}:
                folder.clear()


def refuse_if_held(folder: Folder) -> None:
    """Raise `StudyError` if another search holds the folder."""
    if folder.is_local:
        if folder.exists():
            with locked(folder):
                pass
        return
    if (first := _holder(folder)) is None:
        return
    # The clock of another machine means nothing, but a file that changes does.
    logger.warning("%s is held by %s: waiting up to %.0f s for a heartbeat", folder, first["holder"], EXPIRY)
    deadline = time.monotonic() + EXPIRY
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if (now := _holder(folder)) is None:
            return
        if now != first:
            raise _refusal(folder, now)
    logger.warning("%s no longer runs: its study is taken over", first["holder"])
    folder.delete(FILE)


@contextlib.contextmanager
def _heartbeat(folder: Folder, mine: dict[str, Any]) -> Iterator[None]:
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


def _beat(folder: Folder, mine: dict[str, Any], ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(HEARTBEAT):
        try:
            if (holder := _holder(folder)) and holder["token"] != mine["token"]:
                logger.error("%s was taken over by %s: stopping here", folder, holder["holder"])
                # Not Ctrl-C: what a shell starts in the background ignores it. A signal, since it ends waiting too.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                return
            beat += 1
            folder.write(FILE, json.dumps(mine | {"beat": beat}))
        except OSError as error:
            # A storage that does not answer for a moment; the next beat tries again.
            logger.warning("cannot renew the lock of %s: %s", folder, error)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container, a user may have no name.
        return f"user {os.getuid()}"


def _holder(folder: Folder) -> dict[str, Any] | None:
    try:
        holder: dict[str, Any] = json.loads(folder.read(FILE))
        return holder if {"holder", "since", "token"} <= holder.keys() else None
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError):
        # A damaged lock is nobody's: the system's own lock, or the next heartbeat, tells.
        return None


def _refusal(folder: Folder, holder: dict[str, Any] | None) -> StudyError:
    who = f"{holder['holder']}, since {holder['since']}" if holder else "another search"
    return StudyError(f"{folder} is in use by {who}: wait for it, stop it, or give another --name")
