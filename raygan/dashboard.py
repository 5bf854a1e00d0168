"""Watching a study, running or finished: optuna-dashboard on its trials, and TensorBoard beside it."""

from __future__ import annotations

import contextlib
import socket
import socketserver
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from raygan.study.ledger import StudyError
from raygan.study.reader import StudyFiles
from raygan.study.storage import Folder
from raygan.study.trials import ARTIFACTS, JOURNAL, dashboard_storage

HOST = "127.0.0.1"
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""


def watch(folder: Folder, port: int, tensorboard_port: int, optuna_url: str | None) -> None:
    """Serve both on this machine only, for reading only, until Ctrl-C.

    Of a study in a bucket, the trials as they are now are shown. Raises `StudyError` if there is no study, a port is in
    use, or the storage cannot be opened.
    """
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    # Raises if there is no study.
    StudyFiles(folder)
    if optuna_url is None and not folder.exists(JOURNAL):
        raise StudyError(f"{folder} has no {JOURNAL}: give the --optuna-storage that the search was given")
    for used in (port, tensorboard_port):
        try:
            socket.create_server((HOST, used)).close()
        except OSError as error:
            raise StudyError(f"port {used} is in use: {error}; give another --port or --tensorboard-port") from error
    artifacts = Path(folder.path) / ARTIFACTS
    with dashboard_storage(folder, optuna_url) as storage:
        store = FileSystemArtifactStore(artifacts) if artifacts.is_dir() else None
        app = guarded(wsgi(storage, artifact_store=store), port)
        print(f"http://{HOST}:{port}  optuna-dashboard: trials, importance, and each trial's picture")
        if folder.is_local:
            _start_tensorboard(f"{folder.path}/tensorboard", tensorboard_port)
            print(f"http://{HOST}:{tensorboard_port}  TensorBoard: scalars and images of every epoch")
        print("Ctrl-C ends both.")
        with make_server(HOST, port, app, _Server, _QuietHandler) as server, contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def guarded(app: App, port: int) -> App:
    """The application for reading only, and for this machine's own pages only.

    A page of another site reaches servers on this machine by a name that leads here (DNS rebinding): its requests name
    that site as their host or origin.
    """
    names = [f"{host}:{port}" for host in (HOST, "localhost")]
    origins = ["", *(f"http://{name}" for name in names)]

    def guard(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        known = environ.get("HTTP_HOST") in names and environ.get("HTTP_ORIGIN", "") in origins
        if known and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"This server is for reading, from this machine's own pages."]

    return guard


def _start_tensorboard(folder: str, port: int) -> None:
    """Serve TensorBoard from a thread of this process, with which it ends."""
    from tensorboard import default, program

    def server(app: App, flags: Any) -> Any:
        return program.WerkzeugServer(guarded(app, port), flags)

    board = program.TensorBoard(default.get_plugins(), server_class=server)
    board.configure(logdir=folder, host=HOST, port=port, load_fast="false")
    board.launch()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal is for people."""
