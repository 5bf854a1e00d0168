"""Tune's state, kept so that a killed search can always go on.

Tune copies its state (trials, searcher) into the storage file by file and in place: a process that is killed meanwhile
leaves a torn file, from which Tune cannot restore. Here the whole state is kept in one archive besides, written at
once, and put back before Tune restores.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from raygan.storage import Folder

ARCHIVE = "tune-state.zip"


class KeepState(tune.Callback):  # type: ignore[misc]
    """Writes `tune-state.zip` to the study's folder whenever Tune has saved its state."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.kept_ns = 0

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        """Tune saves its state before this call, in this thread: what lies in its staging folder is complete."""
        if not trials:
            return
        staging = Path(trials[0].storage.experiment_driver_staging_path)
        files = [path for path in staging.iterdir() if path.suffix in (".json", ".pkl")]
        saved_ns = max((path.stat().st_mtime_ns for path in files), default=0)
        if saved_ns <= self.kept_ns:
            return
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.name)
        Folder(self.folder).write(ARCHIVE, content.getvalue())
        self.kept_ns = saved_ns


def put_back_state(folder: Folder, experiment: str) -> bool:
    """Replace Tune's state in `folder/experiment` by the kept one; false where none was kept, so no trial began."""
    if not folder.exists(ARCHIVE):
        return False
    with zipfile.ZipFile(io.BytesIO(folder.read(ARCHIVE))) as archive:
        for name in archive.namelist():
            folder.write(f"{experiment}/{name}", archive.read(name))
    return True
