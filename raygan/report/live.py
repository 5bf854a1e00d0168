"""What a page shows of studies that run: their progress, as JSON, read from their folders."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any

import pandas as pd

from raygan.errors import InputError
from raygan.storage import Folder, reading
from raygan.study.ledger import ENDED, REMEDY
from raygan.study.objectives import LESS_IS_BETTER, OBJECTIVE_NAMES
from raygan.study.reader import WINNER_RUN, StudyFiles

CURVES = 12
"""How many trials have their learning curves shown: the best, and those that run."""
PICTURES = 4
"""How many of the latest pictures are shown."""


def progress(folder: Folder) -> dict[str, Any]:
    """A study's progress.

    `total` is the number of trials, None for a comparison. `best` has the best score after each epoch, in the order in
    which they were recorded, those of the winner's training last; `curves` have it for single trials and the winner,
    `failed` has the errors of trials, and `pictures` their names, the latest first. Where a study cannot be read, there
    is only its `name` and the `problem`.
    """
    try:
        with reading(folder, "", REMEDY):
            return _progress(StudyFiles(folder))
    except (InputError, OSError) as error:
        return {"name": str(folder), "problem": str(error)}


def _progress(study: StudyFiles) -> dict[str, Any]:
    objective = study.objectives[0]
    ascending = objective in LESS_IS_BETTER
    trials = study.trials.sort_values(objective, ascending=ascending) if objective in study.trials else study.trials
    states = trials["state"].value_counts()
    epochs = study.epochs
    good_trials = trials[trials["state"] != "failed"]
    # Those that run must not be left out.
    running = good_trials[good_trials["state"] == "running"]
    shown = pd.concat([running, good_trials]).drop_duplicates("trial").head(CURVES)
    column = f"best_{objective}"
    names = [*shown["trial"], *epochs.loc[epochs["trial"] == WINNER_RUN, "trial"].head(1)]
    curves = {trial: epochs.loc[epochs["trial"] == trial, column] for trial in names} if len(epochs) else {}
    good = epochs[~epochs["trial"].isin(trials.loc[trials["state"] == "failed", "trial"])] if len(epochs) else epochs
    best = (good[column].cummin() if ascending else good[column].cummax()) if len(good) else pd.Series(dtype=float)
    best_first = good.sort_values(column, ascending=ascending, kind="stable") if len(good) else good
    # One by one: in a bucket, each is a request.
    pictures = itertools.islice((name for name in _latest(epochs) if study.folder.exists(_picture(name))), PICTURES)
    return {
        "name": study.name,
        "status": study.record["status"],
        "started": study.record.get("started", ""),
        "objective": OBJECTIVE_NAMES.get(objective, objective),
        "total": study.record.get("trials") if not study.is_comparison else None,
        "ended": int(sum(states.get(state, 0) for state in ENDED)),
        "states": {str(state): int(count) for state, count in states.items()},
        "epochs": len(epochs),
        "seconds": float(epochs["seconds"].sum()) if len(epochs) else 0.0,
        "best": _numbers(best),
        "best_trial": next(iter(best_first["trial"]), None),
        "curves": {trial: _numbers(curve) for trial, curve in curves.items()},
        "failed": trials.loc[trials["state"] == "failed", ["trial", "error"]].fillna("").to_numpy().tolist(),
        "pictures": list(pictures),
    }


def _latest(epochs: pd.DataFrame) -> list[str]:
    """The trials, that of the last epoch first."""
    return list(dict.fromkeys(epochs["trial"][::-1])) if len(epochs) else []


def _picture(trial: str) -> str:
    return f"pictures/{trial}.png"


def _numbers(values: pd.Series[float]) -> list[float | None]:
    """Without what JSON cannot hold."""
    return [round(float(one), 4) if math.isfinite(one) else None for one in values]


def live_app(folders: Sequence[Folder], ports: Sequence[int], tensorboard: str) -> Callable[..., Iterable[bytes]]:
    """A WSGI application: the page at `/`, and what it asks for.

    `ports` are those of the studies' optuna-dashboards, `tensorboard` is the address of TensorBoard or empty.
    """
    page = files("raygan.report").joinpath("templates", "live.html").read_bytes()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        kind, content = "text/html; charset=utf-8", page
        if path == "/live/progress":
            studies = [{**progress(folder), "port": port} for folder, port in zip(folders, ports, strict=True)]
            kind, content = "application/json", json.dumps({"studies": studies, "tensorboard": tensorboard}).encode()
        elif path != "/":
            picture = _asked_picture(path, folders)
            if picture is None:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"There is no such page."]
            kind, content = "image/png", picture
        start_response("200 OK", [("Content-Type", kind), ("Cache-Control", "no-store")])
        return [content]

    return app


def _asked_picture(path: str, folders: Sequence[Folder]) -> bytes | None:
    """The picture of `/live/pictures/NUMBER/TRIAL`, if there is one."""
    number, _, trial = path.removeprefix("/live/pictures/").partition("/")
    if not number.isdecimal() or int(number) >= len(folders):
        return None
    folder = folders[int(number)]
    known = [*StudyFiles(folder).trials["trial"], WINNER_RUN]
    return folder.read(_picture(trial)) if trial in known and folder.exists(_picture(trial)) else None
