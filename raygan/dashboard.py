"""Watching studies, running or finished: a page on their progress, optuna-dashboard, and TensorBoard."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from raygan.report.live import live_app
from raygan.storage import Folder
from raygan.study.ledger import StudyError
from raygan.study.reader import StudyFiles
from raygan.study.trials import ARTIFACTS, JOURNAL, dashboard_storage

HOST = "127.0.0.1"
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""


def watch(folders: Sequence[Folder], port: int, tensorboard_port: int, optuna_url: str | None) -> None:
    """Serve all on this machine only, for reading only, until Ctrl-C.

    The page on all studies is on `port`, together with the first study's optuna-dashboard; those of other studies are
    on the ports after it. Of a study in a bucket, its optuna-dashboard shows the trials as they are now. Raises
    `StudyError` if there is no study, a port is in use, or the storage cannot be opened.
    """
    studies = [StudyFiles(folder) for folder in folders]
    ports = range(port, port + len(folders))
    _check(studies, [*ports, tensorboard_port], optuna_url)
    names = [study.name for study in studies]
    local = {
        # Of several studies of one name, each needs its own.
        study.name if names.count(study.name) == 1 else f"{study.name}-{one}": f"{study.folder.path}/tensorboard"
        for one, study in zip(ports, studies, strict=True)
        if study.folder.is_local
    }
    tensorboard = f"http://{HOST}:{tensorboard_port}" if local else ""
    live = live_app(folders, ports, tensorboard)
    print(f"http://{HOST}:{port}  progress, learning curves and pictures, updated as it goes")
    with contextlib.ExitStack() as stack:
        for study, one in zip(studies, ports, strict=True):
            app = live
            if _proposes_trials(study):
                app = _joined(
                    live, stack.enter_context(_optuna_dashboard(study.folder, _database_of(study, optuna_url)))
                )
                print(f"http://{HOST}:{one}/dashboard  optuna-dashboard of {study.folder}: trials and importance")
            server = stack.enter_context(make_server(HOST, one, guarded(app, one), _Server, _Quiet))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        if local:
            _start_tensorboard(local, tensorboard_port)
            print(f"{tensorboard}  TensorBoard: scalars and images of every epoch")
        print("Ctrl-C ends all.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def _database_of(study: StudyFiles, optuna_url: str | None) -> str | None:
    """The database, unless the study has its trials in its own folder."""
    return None if study.record.get("trial_storage") == "the study's folder" else optuna_url


def _check(studies: Sequence[StudyFiles], ports: Sequence[int], optuna_url: str | None) -> None:
    """Raise `StudyError` if a study's trials lie elsewhere, or a port is in use."""
    for study in studies:
        database = _database_of(study, optuna_url)
        if database is None and _proposes_trials(study) and not study.folder.exists(JOURNAL):
            raise StudyError(f"{study.folder} has no {JOURNAL}: give the --optuna-storage that the search was given")
    for port in ports:
        try:
            socket.create_server((HOST, port)).close()
        except OSError as error:
            raise StudyError(f"port {port} is in use: {error}; give another --port or --tensorboard-port") from error


def _proposes_trials(study: StudyFiles) -> bool:
    """Whether Optuna has something to show: not of a comparison, nor of a training without a search."""
    return not study.is_comparison and study.record["trials"] > 0


@contextlib.contextmanager
def _optuna_dashboard(folder: Folder, optuna_url: str | None) -> Iterator[App]:
    """The optuna-dashboard of a study."""
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    artifacts = Path(folder.path) / ARTIFACTS
    with dashboard_storage(folder, optuna_url) as storage:
        store = FileSystemArtifactStore(artifacts) if artifacts.is_dir() else None
        yield wsgi(storage, artifact_store=store)


def _joined(live: App, dashboard: App) -> App:
    """The page on all studies at `/`, and optuna-dashboard elsewhere."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        return (live if path == "/" or path.startswith("/live/") else dashboard)(environ, start_response)

    return app


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


def _start_tensorboard(folders: Mapping[str, str], port: int) -> None:
    """Serve TensorBoard on folders by name, from a thread of this process, with which it ends."""
    from tensorboard import default, program

    def server(app: App, flags: Any) -> Any:
        return program.WerkzeugServer(guarded(app, port), flags)

    board = program.TensorBoard(default.get_plugins(), server_class=server)
    # Runs are named after their study only where there are several.
    (first, *more) = folders.values()
    named = ",".join(f"{name}:{folder}" for name, folder in folders.items())
    place = {"logdir_spec": named} if more else {"logdir": first}
    board.configure(**place, host=HOST, port=port, load_fast="false")
    board.launch()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal is for people."""
