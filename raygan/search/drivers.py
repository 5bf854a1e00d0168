"""Several drivers on one search: each has its own folder and trials, and all record them into one Optuna study."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import insert, update
from sqlalchemy.exc import SQLAlchemyError

from raygan.search.experiment import Search
from raygan.study.ledger import StudyError
from raygan.study.lock import SETTLE
from raygan.search.optuna_record import open_database
from raygan.search.space import distribution_of, space_to_json
from raygan.search.warm_start import differing_values
from raygan.seeds import derived_seed
from raygan.study.storage import Folder

PATIENCE = 10.0
"""Seconds that the driver which makes the shared study has to fill it."""
GOOD = (TrialState.COMPLETE, TrialState.PRUNED)
logger = logging.getLogger(__name__)


class Drivers:
    """The Optuna study that several drivers share, as the one that works in `folder` sees it.

    Every trial in it has its driver's folder as the user attribute `folder`. The first points wait in it until a driver
    takes one; every other trial is there from its start on, put by its driver's `OptunaRecord`.
    """

    def __init__(self, place: str, search: Search, points: Sequence[Mapping[str, Any]], folder: Folder) -> None:
        """Open the shared study, or make it, with `points` to be tried first.

        Raises `StudyError` where the storage cannot be opened, the study is none that drivers share, or theirs is
        another search than this one.
        """
        assert search.together is not None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder = folder.location
        self.space = {path: distribution_of(one) for path, one in search.space.items()}
        self.database = open_database(place)
        storage = optuna.storages.get_storage(self.database)
        try:
            self.study = optuna.create_study(study_name=search.together, storage=storage, direction="maximize")
        except DuplicatedStudyError:
            self.study = optuna.load_study(study_name=search.together, storage=storage)
            _check_same(self._filled(), search)
        else:
            self.offer(points)
            about = {"config": search.config.to_json(), "space": space_to_json(search.space)}
            self.study.set_user_attr("search", about | {"trial_epochs": search.trial_epochs})

    def _filled(self) -> dict[str, Any]:
        """What the shared study's maker wrote about the search, once it is there."""
        deadline = time.monotonic() + PATIENCE
        while "search" not in (found := self.study.user_attrs):
            if "folder" in found or time.monotonic() > deadline:
                own = "folder" in found
                whose = f"is the record of the search in {found['folder']}" if own else "was made by something else"
                raise StudyError(
                    f"--together {self.study.study_name}: the Optuna study of that name {whose}, so its trials cannot "
                    "be shared: give another name, or another --optuna-storage"
                )
            time.sleep(SETTLE)
        search: dict[str, Any] = found["search"]
        return search

    def join(self, driver: str, photos: Mapping[str, Any]) -> None:
        """Take part as `driver`, with these photos (see `fingerprint`).

        Raises `StudyError` where the others' photos are not the same, or one of them goes by the same folder.
        """
        found = self.study.user_attrs
        if found.get("photos", photos) != photos:
            raise StudyError(
                f"--together {self.study.study_name}: the other drivers' photos are {found['photos']}, and here they "
                f"are {photos}: scores compare only on the same photos"
            )
        if found.get(f"driver {self.folder}", driver) != driver:
            raise StudyError(
                f"--together {self.study.study_name}: another driver, perhaps on another machine, works in a folder of "
                f"the same name, {self.folder}: give another --name"
            )
        self.study.set_user_attr("photos", photos)
        self.study.set_user_attr(f"driver {self.folder}", driver)

    def own_seed(self, seed: int) -> int:
        """The seed of this driver's searcher: those that start alike are not to propose alike."""
        # Optuna's seeds have 32 bits.
        return derived_seed(f"searcher of {self.folder}", seed) % 2**32

    def offer(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Let points of the space be tried first, by whichever driver takes them; those that were begun are not."""
        for point in points:
            self.study.enqueue_trial(dict(point), skip_if_exists=True)

    def exchange(self, known: optuna.Study) -> None:
        """Before a proposal: bring the others' trials into `known`, and there enqueue what is to be tried next.

        `known` is the searcher's own study. Of a storage that does not answer, it learns the next time.
        """
        try:
            trials = self.study.get_trials(deepcopy=False)
            self._learn(trials, known)
            lost = self._lost(trials, known)
            point = lost or self._first(trials)
        except (StorageInternalError, SQLAlchemyError) as error:
            logger.warning("the Optuna storage cannot be read, so the other drivers' trials are missed: %s", error)
            return
        if point is not None:
            known.enqueue_trial(point)
        if lost is not None:
            # As it was saved, the sampler would draw what was lost once more.
            known.sampler.reseed_rng()

    def _learn(self, trials: list[FrozenTrial], known: optuna.Study) -> None:
        """Let `known` hold the others' trials as they are now."""
        learnt = {trial.user_attrs["number"]: trial for trial in known.get_trials(deepcopy=False) if _is_learnt(trial)}
        for trial in filter(self._is_anothers, trials):
            before = learnt.get(trial.number)
            if before is None:
                point = _point(trial)
                known.add_trial(
                    create_trial(
                        state=trial.state,
                        values=trial.values,
                        params=point,
                        distributions={path: self.space[path] for path in point},
                        intermediate_values=trial.intermediate_values,
                        user_attrs={"folder": trial.user_attrs["folder"], "number": trial.number},
                    )
                )
            elif not before.state.is_finished():
                for epoch in trial.intermediate_values.keys() - before.intermediate_values.keys():
                    score = trial.intermediate_values[epoch]
                    known._storage.set_trial_intermediate_value(before._trial_id, epoch, score)
                if trial.state.is_finished():
                    known._storage.set_trial_state_values(before._trial_id, trial.state, trial.values)

    def _lost(self, trials: list[FrozenTrial], known: optuna.Study) -> dict[str, Any] | None:
        """The first point that this driver began, and of which it was killed before Tune had saved it."""
        running = [trial for trial in trials if trial.state == TrialState.RUNNING and self._is_mine(trial)]
        mine = [trial.params for trial in known.get_trials(deepcopy=False) if not _is_learnt(trial)]
        lost = [trial for trial in running if not any(_point(trial).items() <= params.items() for params in mine)]
        # Tune names trials in the order of their proposals; those that have no name yet were proposed last.
        lost.sort(key=lambda trial: trial.user_attrs.get("trial", "~"))
        return _point(lost[0]) if lost else None

    def _first(self, trials: list[FrozenTrial]) -> dict[str, Any] | None:
        """One of the first points that no driver has begun, now this one's."""
        waiting = (trial for trial in trials if trial.state == TrialState.WAITING)
        return next((_point(trial) for trial in waiting if self._take(trial)), None)

    def _take(self, trial: FrozenTrial) -> bool:
        """Make a waiting trial this driver's, unless another driver has been faster."""
        # Optuna reads a trial's state and then writes it, which in SQLite lets two drivers take the same one.
        waits = (models.TrialModel.trial_id == trial._trial_id) & (models.TrialModel.state == TrialState.WAITING)
        with self.database.engine.begin() as connection:
            taken = connection.execute(update(models.TrialModel).where(waits).values(state=TrialState.RUNNING))
            if taken.rowcount:
                attribute = {"trial_id": trial._trial_id, "key": "folder", "value_json": json.dumps(self.folder)}
                connection.execute(insert(models.TrialUserAttributeModel).values(attribute))
        return bool(taken.rowcount)

    def best_of_others(self) -> dict[str, Any] | None:
        """The best of the other drivers' trials that have ended well, as a study records its best; none: there is none.

        Raises `StudyError` where the storage does not answer.
        """
        try:
            trials = [trial for trial in self.study.get_trials(deepcopy=False) if self._is_anothers(trial)]
        except StorageInternalError as error:
            raise StudyError(
                f"the Optuna storage cannot be read, so the best of all drivers' trials is not known: {error}; run the "
                "same command again once it answers"
            ) from error
        if running := {trial.user_attrs["folder"] for trial in trials if trial.state == TrialState.RUNNING}:
            print(f"Not waited for: trials that still run, or were left, in {', '.join(sorted(running))}")
        good = [trial for trial in trials if trial.state in GOOD and trial.intermediate_values]
        best = max(good, key=lambda trial: max(trial.intermediate_values.values()), default=None)
        if best is None:
            return None
        told = {name: best.user_attrs[name] for name in ("trial", "folder", "checkpoint", "val_ssim", "seconds")}
        scores = best.intermediate_values
        return told | {
            "state": best.state.name.lower(),
            "epochs": len(scores),
            "val_psnr": max(scores.values()),
            "values": best.params,
        }

    def _is_mine(self, trial: FrozenTrial) -> bool:
        return bool(trial.user_attrs.get("folder") == self.folder)

    def _is_anothers(self, trial: FrozenTrial) -> bool:
        # A database gives a trial's state and its attributes one after the other: one being taken may seem to wait.
        return "folder" in trial.user_attrs and not self._is_mine(trial) and trial.state != TrialState.WAITING


def _is_learnt(trial: FrozenTrial) -> bool:
    """Whether a trial of a searcher's own study is another driver's."""
    return "folder" in trial.user_attrs


def _point(trial: FrozenTrial) -> dict[str, Any]:
    """A shared trial's values; those of a first point before its driver has recorded it."""
    return dict(trial.params or trial.system_attrs["fixed_params"])


def _check_same(theirs: Mapping[str, Any], search: Search) -> None:
    """Raise `StudyError` where the search that others share is not this one."""
    space = space_to_json(search.space)
    differing = [path for path in space | theirs["space"] if space.get(path) != theirs["space"].get(path)]
    differing = [f"the search space at {path}" for path in differing]
    differing += differing_values(theirs["config"], search.space, search.config)
    if theirs["trial_epochs"] != search.trial_epochs:
        differing.append(f"--trial-epochs ({theirs['trial_epochs']} there, {search.trial_epochs} here)")
    if differing:
        raise StudyError(
            f"--together {search.together}: the drivers that share it differ from this search in "
            f"{', '.join(differing)}: give the same options, or another name"
        )
