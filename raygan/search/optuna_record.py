"""A study's trials in an Optuna storage, where optuna-dashboard and Optuna's own tools can look at them."""

from __future__ import annotations

import copy
import json
import logging
import math
import random
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution, json_to_distribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from raygan.study.objectives import LESS_IS_BETTER
from raygan.search.experiment import Objective
from raygan.study.ledger import Ledger, StudyError, TrialRow, read_table
from raygan.search.space import value_of
from raygan.study.storage import Folder

JOURNAL = "optuna.log"
ARTIFACTS = "artifacts"
OPENING_PAUSES = (0.2, 0.5, 1.0, 1.0, 1.0)
"""About how many seconds to wait before a database is tried again that would not open."""
logger = logging.getLogger(__name__)
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def optuna_storage(folder: Folder, url: str | None) -> str | None:
    """Where a study's trials are recorded: an Optuna database URL, else a journal file, but not in a bucket."""
    if url is not None:
        return url
    return f"{folder.path}/{JOURNAL}" if folder.is_local else None


def open_storage(place: str) -> BaseStorage:
    """The storage at a database URL, or in a journal file; raises `StudyError` where it cannot be opened."""
    if "://" in place:
        return optuna.storages.get_storage(open_database(place))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return JournalStorage(JournalFileBackend(place))


def open_database(url: str) -> RDBStorage:
    """The database's storage; raises `StudyError` where it cannot be opened."""
    # Pinged, so that a database which was away for a moment is found again.
    options = {"pool_pre_ping": True}
    try:
        for pause in OPENING_PAUSES:
            try:
                return RDBStorage(url, options)
            except DBAPIError:
                # Perhaps others make a new database's tables in this moment. Those who met once shall not meet again.
                time.sleep(pause * (0.5 + random.random()))
        return RDBStorage(url, options)
    except (SQLAlchemyError, ImportError) as error:
        raise StudyError(
            f"cannot open the Optuna storage of --optuna-storage: {error}; give a database URL such as "
            "sqlite:///studies.db, install its driver, or leave the option out"
        ) from error


def open_study(place: str, name: str, folder: Folder, objectives: Sequence[Objective] = ("val_psnr",)) -> optuna.Study:
    """The Optuna study that records the one in `folder`, perhaps new.

    Raises `StudyError` where the storage cannot be opened, or holds another study of that name.
    """
    study = optuna.create_study(
        study_name=name,
        storage=open_storage(place),
        directions=["minimize" if one in LESS_IS_BETTER else "maximize" for one in objectives],
        load_if_exists=True,
    )
    found = study.user_attrs
    if "search" in found:
        raise StudyError(
            f"several drivers share the study {name!r} of the Optuna storage: give --together {name} and another "
            "--name to take part, or another --name alone"
        )
    recorded = found.get("folder", folder.location)
    if recorded != folder.location:
        raise StudyError(
            f"the Optuna storage already has a study {name!r}, which is of {recorded}: give another --name, or another "
            "--optuna-storage"
        )
    study.set_user_attr("folder", folder.location)
    return study


class OptunaRecord:
    """Keeps an Optuna study equal to the ledger: the same trials, states, values, and score at each epoch.

    The ledger leads: whatever an interruption left in the storage is made to agree when the study goes on. A trial's
    picture, noisy, denoised and clean, becomes its artifact once it has ended.
    """

    def __init__(
        self,
        place: str,
        name: str,
        space: Mapping[str, BaseDistribution],
        folder: Folder,
        together: str | None = None,
        objectives: Sequence[Objective] = ("val_psnr",),
    ) -> None:
        """`together` is the Optuna study of several drivers (see `Drivers`) that has these trials among others."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder = folder
        self.space = space
        self.objectives = objectives
        self.together = together
        if together is None:
            self.study = open_study(place, name, folder, objectives)
        else:
            self.study = optuna.load_study(study_name=together, storage=open_storage(place))
        own = copy.deepcopy(self._own())
        self.known = {trial.user_attrs["trial"]: trial for trial in own if "trial" in trial.user_attrs}

    def _own(self) -> list[FrozenTrial]:
        """This folder's trials, the newest last, not to be changed."""
        # Copies of all, for each new trial, would make a trial of a long study cost more than the one before.
        trials = self.study.get_trials(deepcopy=False)
        if self.together is None:
            return trials
        return [trial for trial in trials if trial.user_attrs.get("folder") == self.folder.location]

    def update(self, rows: Iterable[TrialRow], ledger: Ledger) -> None:
        """Add what the storage lacks. A storage that does not answer gets it the next time."""
        try:
            self._update(rows, ledger)
        except StorageInternalError as error:
            logger.warning("the Optuna storage cannot be written to, so it lags behind: %s", error)

    def _update(self, rows: Iterable[TrialRow], ledger: Ledger) -> None:
        for row in rows:
            trial = self.known.get(row.trial)
            if trial is None:
                trial = self._add(row)
            if trial.state.is_finished():
                continue
            live = Trial(self.study, trial._trial_id)
            if len(self.objectives) == 1:
                # Of several objectives Optuna takes the scores at a trial's end only.
                self._report(trial, live, ledger.epochs_of(row.trial))
            if row.state in STATES:
                self._end(trial, live, row)

    def _report(self, trial: FrozenTrial, live: Trial, epochs: Iterable[Mapping[str, Any]]) -> None:
        for epoch in epochs:
            step, score = int(epoch["epoch"]), epoch[f"best_{self.objectives[0]}"]
            if step not in trial.intermediate_values:
                live.report(score, step)
                trial.intermediate_values[step] = score

    def _add(self, row: TrialRow) -> FrozenTrial:
        params = {path: value for path, value in row.values.items() if value is not None}
        distributions = {path: one for path, one in self.space.items() if path in params}
        taken = next((trial for trial in self._own() if _is_first_point(trial, params)), None)
        if taken is None:
            attributes = {"folder": self.folder.location, "trial": row.trial}
            self.study.add_trial(
                create_trial(
                    state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=attributes
                )
            )
        else:
            storage = self.study._storage
            for path, one in distributions.items():
                storage.set_trial_param(taken._trial_id, path, one.to_internal_repr(params[path]), one)
            storage.set_trial_user_attr(taken._trial_id, "trial", row.trial)
        added = next(trial for trial in reversed(self._own()) if trial.user_attrs.get("trial") == row.trial)
        self.known[row.trial] = copy.deepcopy(added)
        return self.known[row.trial]

    def _end(self, trial: FrozenTrial, live: Trial, row: TrialRow) -> None:
        picture = Path(self.folder.path) / "pictures" / f"{row.trial}.png"
        if self.folder.is_local and picture.is_file():
            store = Path(self.folder.path) / ARTIFACTS
            store.mkdir(exist_ok=True)
            upload_artifact(
                artifact_store=FileSystemArtifactStore(store),
                file_path=str(picture),
                study_or_trial=live,
            )
        for name in ("checkpoint", "val_ssim", "seconds"):
            live.set_user_attr(name, getattr(row, name))
        complete = row.state == "complete" and not math.isnan(row.val_psnr)
        scores = [getattr(row, objective) for objective in self.objectives]
        self.study.tell(trial.number, scores if complete else None, state=STATES[row.state])
        trial.state = STATES[row.state]


def _is_first_point(trial: FrozenTrial, params: Mapping[str, Any]) -> bool:
    """Whether this is the first point with these values, taken by the searcher and not recorded yet."""
    point = trial.system_attrs.get("fixed_params")
    return point is not None and "trial" not in trial.user_attrs and point.items() <= params.items()


def record_of_files(folder: Folder, place: str, study: Mapping[str, Any], together: str | None = None) -> None:
    """Bring the storage up to date with a study's files, without the search that writes them."""
    if "arms" in study:
        first = int(study["config"]["training"]["seed"])
        space: dict[str, BaseDistribution] = {
            "arm": CategoricalDistribution(list(study["arms"])),
            "seed": IntDistribution(first, first + int(study["seeds"]) - 1),
        }
    else:
        space = {path: json_to_distribution(json.dumps(one)) for path, one in study["space"].items()}
    rows = [
        TrialRow(
            trial=row["trial"],
            state=row["state"],
            epochs=int(row["epochs"]),
            val_psnr=float(row["val_psnr"]),
            val_ssim=float(row["val_ssim"]),
            val_milliseconds=float(row["val_milliseconds"]),
            seconds=float(row["seconds"]),
            collapsed=int(row["collapsed"]) if row["collapsed"] else None,
            checkpoint=row["checkpoint"],
            values={path: value_of(one, row[path]) if row[path] else None for path, one in space.items()},
        )
        for row in (read_table(folder, "trials.csv") if folder.exists("trials.csv") else [])
    ]
    objectives = study.get("objectives", ["val_psnr"])
    OptunaRecord(place, study["name"], space, folder, together, objectives).update(rows, Ledger(folder))
