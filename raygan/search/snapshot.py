"""Tune's state, kept so that a killed search can always go on.

Tune copies its state (trials, searcher) into the storage file by file and in place: a process that is killed meanwhile
leaves a torn file, from which Tune cannot restore. Here the whole state is kept in one archive besides, written at
once, and put back before Tune restores.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, ClassVar

from ray import tune
from ray.tune.experiment import Trial

from raygan.study.storage import Folder

ARCHIVE = "tune-state.zip"
STATE_FILES = ("experiment_state-", "search_gen_state-", "searcher-state-", "basic-variant-state-")


class KeepState(tune.Callback):  # type: ignore[misc]
    """Writes `tune-state.zip` to the study's folder whenever Tune has saved its state."""

    staging: ClassVar[Path | None] = None
    """Where this process's Tune writes its state first: known only to what proposes trials, and saves itself there."""

    def __init__(self, folder: str, checkpoints: int) -> None:
        """`checkpoints` is how many of a trial's newest are kept."""
        self.folder = folder
        self.checkpoints = checkpoints
        self.kept_ns = 0

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Keep more checkpoints than Tune was told.

        Tune saves its state whenever a trial has written as many checkpoints as it was told to keep: so it is told to
        keep one, and saves after every epoch.
        """
        trial.run_metadata.checkpoint_manager.checkpoint_config.num_to_keep = self.checkpoints

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """Let Tune forget an ended trial's history of metrics: the ledger has it, and Tune would save it each time."""
        metadata = trial.run_metadata
        metadata.metric_analysis, metadata.metric_n_steps = {}, {}
        metadata.last_result = {name: value for name, value in metadata.last_result.items() if name != "metrics"}

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        """Tune saves its state before this call, in this thread: what lies in its staging folder is complete."""
        if self.staging is None:
            return
        files = [path for path in self.staging.iterdir() if path.name.startswith(STATE_FILES)]
        saved_ns = max((path.stat().st_mtime_ns for path in files), default=0)
        if saved_ns <= self.kept_ns:
            return
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path in files:
                archive.write(path, path.name)
        Folder(self.folder).write(ARCHIVE, content.getvalue())
        self.kept_ns = saved_ns


def put_back_state(folder: Folder, experiment: str) -> bool:
    """Replace Tune's state in `folder/experiment` by the kept one; false where none was kept, so no trial began."""
    if not folder.exists(ARCHIVE):
        return False
    with zipfile.ZipFile(io.BytesIO(folder.read(ARCHIVE))) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    inside = folder.child(experiment)
    for name in inside.files():
        # Tune takes the newest by name, torn or not.
        if name.startswith(STATE_FILES) and name not in kept:
            inside.delete(name)
    for name, content in kept.items():
        inside.write(name, content)
    return True
