"""Watching a study, running or finished: optuna-dashboard on its trials, and TensorBoard beside it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

from raygan.study.ledger import StudyError
from raygan.study.reader import StudyFiles
from raygan.study.storage import Folder
from raygan.study.trials import ARTIFACTS, JOURNAL, dashboard_storage


def watch(folder: Folder, port: int, tensorboard_port: int, optuna_url: str | None) -> None:
    """Serve both on this machine only, until Ctrl-C.

    Of a study in a bucket, the trials as they are now are shown. Raises `StudyError` if there is no study, a port is in
    use, or the storage cannot be opened.
    """
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import run_server

    # Raises if there is no study.
    StudyFiles(folder)
    if optuna_url is None and not folder.exists(JOURNAL):
        raise StudyError(f"{folder} has no {JOURNAL}: give the --optuna-storage that the search was given")
    for used in (port, tensorboard_port):
        try:
            socket.create_server(("127.0.0.1", used)).close()
        except OSError as error:
            raise StudyError(f"port {used} is in use: {error}; give another --port or --tensorboard-port") from error
    artifacts = Path(folder.path) / ARTIFACTS
    with contextlib.ExitStack() as stack:
        storage = stack.enter_context(dashboard_storage(folder, optuna_url))
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
            run_server(storage, host="127.0.0.1", port=port, artifact_store=store)
