"""Watching a study, running or finished: optuna-dashboard on its trials, and TensorBoard beside it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from raygan.study.ledger import StudyError, read_study
from raygan.search.optuna_record import ARTIFACTS, open_storage, optuna_storage, record_of_files
from raygan.study.storage import Folder

REFRESH = 10.0
"""Seconds between two looks at the files of a study that has no Optuna storage of its own."""


def watch(folder: Folder, port: int, tensorboard_port: int, optuna_url: str | None) -> None:
    """Serve both on this machine alone, until Ctrl-C.

    A study in a bucket, where no search has kept an Optuna storage, is shown from its files. Raises `StudyError` where
    there is no study, a port is taken, or the storage cannot be opened.
    """
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import run_server

    if read_study(folder) is None:
        raise StudyError(f"{folder} holds no study: there is no study.json; give a folder that a search has written")
    for taken in (port, tensorboard_port):
        _require_free(taken)
    place = optuna_storage(folder, optuna_url)
    artifacts = Path(folder.path) / ARTIFACTS
    with contextlib.ExitStack() as stack:
        if place is None or (optuna_url is None and not Path(place).is_file()):
            place = stack.enter_context(_journal_of_files(folder))
        print(f"http://127.0.0.1:{port}  optuna-dashboard: trials, importance, and each trial's picture")
        if folder.is_local:
            command = ["-m", "tensorboard.main", "--logdir", f"{folder.path}/tensorboard", "--host", "127.0.0.1"]
            tensorboard = subprocess.Popen(
                [sys.executable, *command, "--port", str(tensorboard_port)], stderr=subprocess.DEVNULL
            )
            stack.callback(tensorboard.terminate)
            print(f"http://127.0.0.1:{tensorboard_port}  TensorBoard: scalars and images of every epoch")
        print("Ctrl-C ends both.")
        store = FileSystemArtifactStore(artifacts) if artifacts.is_dir() else None
        with contextlib.suppress(KeyboardInterrupt):
            run_server(open_storage(place), host="127.0.0.1", port=port, artifact_store=store)


@contextlib.contextmanager
def _journal_of_files(folder: Folder) -> Iterator[str]:
    """A journal file that follows the study's files."""
    ended = threading.Event()

    def refresh(place: str) -> None:
        study = read_study(folder)
        if study is not None:
            record_of_files(folder, place, study)

    with tempfile.TemporaryDirectory() as scratch:
        place = f"{scratch}/optuna.log"
        refresh(place)

        def follow() -> None:
            while not ended.wait(REFRESH):
                refresh(place)

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield place
        finally:
            ended.set()
            follower.join()


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StudyError(f"port {port} is taken: {error}; give another --port or --tensorboard-port") from error
