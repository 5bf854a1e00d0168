"""A study's trials: one Optuna study, in a journal file in the study's folder or in a database.

`trials.csv` derives from it and from the ledger. A trial is known by its name, its user attribute "trial".
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import math
import os
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from raygan.storage import Folder, reading
from raygan.study.ledger import REMEDY, Ledger, StudyError, TrialRow
from raygan.study.objectives import directions

JOURNAL = "optuna.log"
ARTIFACTS = "artifacts"
KNOWN = "known_trials"
"""Optuna user attribute of the study, set once its first points are in the queue: how many trials of an earlier study
were added."""
REPEATS = "repeats"
"""Optuna user attribute of a trial that repeats another one with another seed: that one's name."""
ATTEMPTS = 5
"""How often a database is tried that does not open: another process may be creating its tables."""

logger = logging.getLogger(__name__)


class Trials:
    """The trials of the study in `folder`, written by one process at a time."""

    def __init__(self, folder: Folder, name: str, objectives: Sequence[str], url: str | None = None) -> None:
        """Open the Optuna study or create it. `url` is an Optuna database URL; None: a journal file in `folder`.

        Raises `StudyError` if the storage cannot be opened or holds another study of that name.
        """
        self.folder = folder
        self.objectives = tuple(objectives)
        self.waiting: Collection[str] = ()
        """The names of the trials that wait at a rung, a live view while a search runs: to Optuna, they run."""
        self._rows: dict[str, TrialRow] = {}
        """The trials' rows as they were last asked for; a row is new when the trial's state or epochs are."""
        # Objects in a bucket cannot grow: the journal is kept here and copied there after each change.
        self._scratch = None if folder.is_local or url else tempfile.TemporaryDirectory()
        if self._scratch is not None:
            weakref.finalize(self, self._scratch.cleanup)
        storage = _open_storage(folder, url, self._scratch.name if self._scratch else "", repair=True)
        with reading(folder, JOURNAL, REMEDY):
            self.study = optuna.create_study(
                study_name=name, storage=storage, directions=directions(objectives), load_if_exists=True
            )
        if url is not None:
            if (recorded := self.study.user_attrs.get("folder", folder.location)) != folder.location:
                raise StudyError(
                    f"the Optuna storage already has a study {name!r}, which belongs to {recorded}: give another "
                    "--name or another --optuna-storage"
                )
            self.study.set_user_attr("folder", folder.location)
        named = [one for one in self.study.get_trials(deepcopy=False) if "trial" in one.user_attrs]
        self._started = [one.number for one in sorted(named, key=lambda one: one.user_attrs["order"])]
        """The numbers of the trials that have a name, in order: sorting thousands for every proposal takes long."""
        if url is not None and self.ended() and not folder.exists("trials.csv"):
            raise StudyError(
                f"the Optuna storage has the trials of an earlier study {name!r}, whose folder is gone: delete it "
                "there (optuna delete-study), or give another --name or another --optuna-storage"
            )

        if not self._started and folder.exists("metrics.csv"):
            raise StudyError(
                f"{folder} has the epochs of trials that are not in the Optuna storage: give the --optuna-storage with "
                f"which it was started, restore {JOURNAL} from a copy, or start under another --name"
            )

    def save(self) -> None:
        """Copy the journal to the study's folder, if that is in a bucket."""
        if self._scratch is not None:
            self.folder.write(JOURNAL, (Path(self._scratch.name) / JOURNAL).read_bytes())

    def with_waiting_as_pruned(self) -> optuna.Study:
        """The study as samplers should see it: what trials that wait have scored counts, like that of pruned ones."""
        return _StudyWithWaiting(self.study, self.waiting)

    def named(self, name: str) -> Trial:
        """The unfinished trial of that name."""
        # Not among `unfinished`: Optuna computes the search space for each trial that it makes.
        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return Trial(self.study, next(one._trial_id for one in running if one.user_attrs.get("trial") == name))

    def started(self) -> list[FrozenTrial]:
        """The trials that have a name, in the order in which they began; not to be modified."""
        trials = self.study.get_trials(deepcopy=False)
        return [trials[number] for number in self._started]

    def ended(self) -> list[str]:
        """The names of the trials that are complete, pruned or failed."""
        return [trial.user_attrs["trial"] for trial in self.started() if trial.state.is_finished()]

    def unfinished(self) -> list[Trial]:
        """Trials that an earlier start of the study left running, in order; some may have no name yet."""
        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return [Trial(self.study, one._trial_id) for one in running]

    def enqueue(self, points: Sequence[Mapping[str, Any]], known: Sequence[FrozenTrial] = ()) -> None:
        """Let points be tried first, and the search algorithm know the trials of an earlier study.

        This happens at the first start of a study: at another, the earlier study may have found other points.
        """
        if KNOWN in self.study.user_attrs:
            return
        for point in points:
            self.study.enqueue_trial(dict(point), skip_if_exists=True)
        # After the points: Optuna skips those that it knows already.
        self.study.add_trials(known)
        self.study.set_user_attr(KNOWN, len(known))
        self.save()

    def begin(self, trial: Trial, name: Callable[[int, Mapping[str, Any]], str]) -> str:
        """A trial's name, given to it now if it has none: `name` of its number, from 1, and its parameters."""
        if "trial" not in trial.user_attrs:
            order = len(self._started)
            trial.set_user_attr("order", order)
            trial.set_user_attr("trial", name(order + 1, trial.params))
            self._started.append(trial.number)
        self.save()
        return str(trial.user_attrs["trial"])

    def report(self, trial: Trial, metrics: Mapping[str, Any], step: int) -> None:
        """Record the objective as Optuna's intermediate value at a step above 0, unless it has one there."""
        # Optuna takes the values of several objectives only at a trial's end.
        if len(self.objectives) == 1 and step > 0:
            with warnings.catch_warnings():
                # A resumed trial repeats its earlier epochs.
                warnings.filterwarnings("ignore", message=".*already reported", category=UserWarning)
                trial.report(metrics[f"best_{self.objectives[0]}"], step)
        self.save()

    def end(self, trial: Trial, metrics: Mapping[str, Any] | None, error: str | None = None) -> None:
        """Record how a trial ended: failed, complete after its `epochs`, or pruned before; `metrics` are its last."""
        if self.study.get_trials(deepcopy=False)[trial.number].state.is_finished():
            return
        self._show_picture(trial)
        if error is not None or metrics is None:
            trial.set_user_attr("error", error or "the trial ended before its first epoch")
            self.study.tell(trial, state=TrialState.FAIL)
        elif metrics["epoch"] < metrics["epochs"]:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, [metrics[f"best_{objective}"] for objective in self.objectives])
        self.save()

    def _state(self, trial: FrozenTrial) -> str:
        """As in `trials.csv`."""
        if trial.user_attrs["trial"] in self.waiting:
            return "waiting"
        return "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()

    def _show_picture(self, trial: Trial) -> None:
        """Let optuna-dashboard show the trial's picture."""
        picture = Path(self.folder.path) / "pictures" / f"{trial.user_attrs['trial']}.png"
        store = Path(self.folder.path) / ARTIFACTS
        if not self.folder.is_local or not picture.is_file():
            return
        try:
            store.mkdir(exist_ok=True)
            upload_artifact(artifact_store=FileSystemArtifactStore(store), file_path=str(picture), study_or_trial=trial)
        except OSError as error:
            logger.warning("cannot keep the picture of a trial for the dashboard: %s", error)

    def rows(self, ledger: Ledger, paths: Sequence[str]) -> list[TrialRow]:
        """The rows of `trials.csv`; `paths` are those of the search space."""
        with reading(self.folder, "", REMEDY):
            return [self._row(trial, ledger, paths) for trial in self.started()]

    def _row(self, trial: FrozenTrial, ledger: Ledger, paths: Sequence[str]) -> TrialRow:
        name, state = trial.user_attrs["trial"], self._state(trial)
        row = self._rows.get(name)
        if row is None or (row.state, row.epochs) != (state, len(ledger.epochs.get(name, {}))):
            row = self._rows[name] = self._new_row(trial, name, ledger, paths)
        return row

    def _new_row(self, trial: FrozenTrial, name: str, ledger: Ledger, paths: Sequence[str]) -> TrialRow:
        epochs = ledger.epochs_of(name)
        last = epochs[-1] if epochs else {}
        return TrialRow(
            trial=name,
            state=self._state(trial),
            epochs=len(epochs),
            val_psnr=last.get("best_val_psnr", math.nan),
            val_ssim=last.get("best_val_ssim", math.nan),
            operations_per_pixel=last.get("operations_per_pixel", math.nan),
            seconds=sum(row["seconds"] for row in epochs),
            collapsed=collapsed_from(epochs),
            checkpoint=f"checkpoints/{name}" if epochs else "",
            error=trial.user_attrs.get("error", ""),
            repeats=trial.user_attrs.get(REPEATS, ""),
            values={path: trial.params.get(path) for path in paths},
        )


class _StudyWithWaiting(optuna.Study):
    """A study that shows the trials that wait now as pruned. Optuna itself has no state for them."""

    def __init__(self, study: optuna.Study, waiting: Collection[str]) -> None:
        super().__init__(study.study_name, study._storage)
        self.shown_as_pruned: dict[int, FrozenTrial] = {}
        """The waiting trials by number: copies, since Optuna asks several times for each proposal."""
        for trial in super()._get_trials(deepcopy=False, use_cache=False):
            if trial.user_attrs.get("trial") in waiting:
                self.shown_as_pruned[trial.number] = pruned = copy.copy(trial)
                pruned.state = TrialState.PRUNED

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, None, use_cache)
        shown = (self.shown_as_pruned.get(trial.number, trial) for trial in trials)
        return [trial for trial in shown if states is None or trial.state in states]


PINNED = 0.01
"""How close to 0 or 1 an accuracy must be to count as pinned there."""
PINNED_EPOCHS = 3
"""Epochs in a row with pinned accuracies that make a collapse."""


def is_pinned(metrics: Mapping[str, Any]) -> bool:
    """Whether the discriminator's accuracies on clean and on denoised crops both lie at 0 or 1, over an epoch.

    It then gives the generator no information: it is always right, always wrong, or says the same of every image.
    """
    accuracies = (float(metrics[f"discriminator_accuracy_{images}"]) for images in ("clean", "denoised"))
    return all(min(accuracy, 1 - accuracy) <= PINNED for accuracy in accuracies)


def collapsed_from(epochs: Sequence[Mapping[str, Any]]) -> int | None:
    """The first of three epochs in a row in which the discriminator was pinned; None if there are none."""
    for pinned, rows in itertools.groupby(epochs, is_pinned):
        numbers = [int(row["epoch"]) for row in rows]
        if pinned and len(numbers) >= PINNED_EPOCHS:
            return numbers[0]
    return None


def open_database(url: str) -> RDBStorage:
    """The Optuna storage at a database URL; raises `StudyError` if it cannot be opened."""
    # Pinged, so that a database that was away for a moment is found again.
    options = {"pool_pre_ping": True}
    try:
        for attempt in range(ATTEMPTS):
            with contextlib.suppress(DBAPIError):
                return RDBStorage(url, options)
            time.sleep(0.2 * 2**attempt)
        return RDBStorage(url, options)
    except (SQLAlchemyError, ImportError) as error:
        raise StudyError(
            f"cannot open the Optuna storage of --optuna-storage: {error}; give a database URL such as "
            "sqlite:///studies.db, install its driver, or leave the option out"
        ) from error


@contextlib.contextmanager
def dashboard_storage(folder: Folder, url: str | None) -> Iterator[BaseStorage]:
    """The storage of a study, running or finished, for reading; a copy if the study lies in a bucket."""
    with tempfile.TemporaryDirectory() as scratch:
        yield _open_storage(folder, url, scratch)


def _open_storage(folder: Folder, url: str | None, scratch: str, *, repair: bool = False) -> BaseStorage:
    """A study's storage: a database, or the journal, of which `scratch` gets a copy if it lies in a bucket."""
    if url is not None:
        return open_database(url)
    journal = Path(folder.path if folder.is_local else scratch) / JOURNAL
    if not folder.is_local and folder.exists(JOURNAL):
        journal.write_bytes(folder.read(JOURNAL))
    if repair and journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
        # A kill has cut off the last line, behind which Optuna could not append (its reader refuses such a file).
        os.truncate(journal, content.rfind(b"\n") + 1)
    journal.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), reading(folder, JOURNAL, REMEDY):
        warnings.simplefilter("ignore", ExperimentalWarning)
        return JournalStorage(JournalFileBackend(str(journal)))
