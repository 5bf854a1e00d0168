"""A study, read from its folder."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.trial import TrialState, create_trial

from raygan.config.run import Config
from raygan.config.section import flat_values, with_values
from raygan.storage import Folder, reading
from raygan.study.ledger import REMEDY, StudyError, read_study
from raygan.study.objectives import LESS_IS_BETTER, compromise, directions

TEXTS = {
    "trial",
    "state",
    "checkpoint",
    "error",
    "repeats",
    "arm",
    "set",
    "kind",
    "level",
    "method",
    "image",
    "picture",
}
"""Columns that hold text."""
NUMBERS = {"epochs", "val_psnr", "val_ssim", "operations_per_pixel", "seconds"}
"""Columns of `trials.csv` that hold numbers, besides those of the search space."""
WINNER_RUN = "winner"
"""Name of the winner's training in tables and pictures, where trials have theirs."""


class StudyFiles:
    """A study, running or finished, read from its folder. Tables that do not exist yet are empty."""

    def __init__(self, folder: Folder) -> None:
        """Raises `StudyError` if the folder holds no study, or one of another schema."""
        record = read_study(folder)
        if record is None:
            raise StudyError(f"{folder} holds no study (no study.json): give the folder STORAGE/NAME of one")
        self.folder = folder
        self.record: dict[str, Any] = record
        with reading(folder, "study.json", REMEDY):
            self.name = str(record["name"])
            self.config = Config.from_json(record["config"])
            best_by = self.config.training.best_by
            self.objectives: list[str] = record.get("objectives", [best_by or "val_psnr"])
            """The metrics that the study optimizes."""
            directions(self.objectives)
        self.best_by = best_by or ("val_ssim" if self.objectives[0] == "val_ssim" else "val_psnr")
        """The metric that chooses the best epochs."""
        self.trials = self.table("trials.csv", "trial", "state", "val_psnr", "error", "arm", "seed")
        self.metrics = self.table("metrics.csv", "trial")
        self.summary = self.table("evaluation/summary.csv", "set", "kind", "level", "method")

    @classmethod
    def finished(cls, folder: Folder) -> Self:
        """A study with an evaluation; raises `StudyError` if there is none."""
        if not folder.exists("evaluation/summary.csv"):
            raise StudyError(
                f"{folder} holds no finished study (no evaluation/summary.csv): give the folder "
                "STORAGE/NAME of one, or run its search to the end"
            )
        return cls(folder)

    @cached_property
    def per_image(self) -> pd.DataFrame:
        """The evaluation's scores, one row per image, noise and method."""
        return self.table("evaluation/per_image.csv", "task", "image", "set", "kind", "level", "intensity", "method")

    @property
    def epochs(self) -> pd.DataFrame:
        """The epochs of all trials, and then those of the winner's training."""
        winner = self.table("best/metrics.csv", "trial")
        return pd.concat([self.metrics, winner], ignore_index=True) if len(winner) else self.metrics

    @property
    def is_comparison(self) -> bool:
        """Whether the study compares arms, rather than searching."""
        return "arms" in self.record

    def good_trials(self) -> pd.DataFrame:
        """The rows of `trials.csv` of trials that have completed an epoch and did not fail.

        Of several objectives, only those that were trained in full, if there are any: a trial that was stopped early
        would look cheap for what it could reach.
        """
        good = self.trials[(self.trials["state"] != "failed") & self.trials["val_psnr"].notna()]
        complete = good[good["state"] == "complete"]
        return complete if len(self.objectives) > 1 and len(complete) else good

    def best_trial(self) -> dict[str, Any]:
        """The best good trial's row of `trials.csv`: by its mean over seeds, if some were repeated.

        Of several objectives, it is their `compromise`.

        Raises `StudyError` if there are no good trials.
        """
        good = self.good_trials()
        if not (repeated := self.repeated()).empty:
            first = self.objectives[0]
            best = repeated.sort_values("mean", ascending=first in LESS_IS_BETTER).iloc[0]
            return {str(name): value for name, value in good[good["trial"] == best["trial"]].iloc[0].items()}
        if len(good):
            row = compromise(good[self.objectives].to_numpy().tolist(), self.objectives)
            return {str(name): value for name, value in good.iloc[row].items()}
        raise self.without_good_trials()

    def without_good_trials(self) -> StudyError:
        """Why there are no good trials, and what to do about it."""
        count, failed = len(self.trials), self.trials["error"].dropna()
        if failed.empty:
            return StudyError(f"none of {count} trials completed an epoch: give them a longer --time-budget")
        last, what = self.trials["trial"][failed.index[-1]], "arms" if self.is_comparison else "search space"
        return StudyError(
            f"all {count} trials failed ({last}: {failed.iloc[-1]}): change the {what} (lower learning rates, if "
            "training diverged), and start under another --name"
        )

    def repeated(self) -> pd.DataFrame:
        """The trials that were repeated with other seeds: their number of `seeds`, `mean` and `deviation`."""
        columns = ["trial", "seeds", "mean", "deviation"]
        if "repeats" not in self.trials or self.trials["repeats"].isna().all():
            return pd.DataFrame(columns=columns)
        complete = self.trials[self.trials["state"] == "complete"]
        original = complete["repeats"].fillna(complete["trial"]).rename("trial")
        scores = complete.groupby(original)[self.objectives[0]].agg(["count", "mean", "std"]).reset_index()
        return scores[scores["count"] > 1].set_axis(columns, axis=1).reset_index(drop=True)

    def systems(self) -> list[System]:
        """What the study trains and evaluates: the winner of a search, or the arms of a comparison."""
        if not self.is_comparison:
            config = with_values(self.config, self.record.get("best_trial", {}).get("values", {}))
            return [System(self, "", config, self.trials, task=0)]
        configs = {arm: with_values(self.config, values) for arm, values in self.record["arms"].items()}
        tasks = list(dict.fromkeys(config.judged_noises for config in configs.values()))
        return [
            System(self, arm, config, self.trials[self.trials["arm"] == arm], tasks.index(config.judged_noises))
            for arm, config in configs.items()
        ]

    def optuna_study(self, objectives: Sequence[str] | None = None) -> optuna.Study:
        """A search's complete and pruned trials as an Optuna study in memory; `objectives` default to the search's own.

        Every trial has the scores of its best epoch as its values and its name as the user attribute "trial". For a
        single objective it has intermediate values as well: at each epoch, the best score so far.
        """
        objectives = objectives or self.objectives
        study = optuna.create_study(study_name=self.name, directions=directions(objectives))
        space = {path: json_to_distribution(json.dumps(one)) for path, one in self.record["space"].items()}
        # Otherwise an integer that only some trials have would be read as a float.
        rows: list[dict[str, Any]] = self.good_trials().convert_dtypes().to_dict("records")  # type: ignore[assignment]
        for row in rows:
            if row["state"] in ("running", "waiting"):
                continue
            searched = {path: one for path, one in space.items() if self._has_value(path, row)}
            # Optuna takes the values of several objectives only at a trial's end.
            best = self._best_so_far(row["trial"], objectives[0]) if len(objectives) == 1 else {}
            trial = create_trial(
                state=TrialState[row["state"].upper()],
                values=[row[objective] for objective in objectives],
                params={path: _value(one, row[path]) for path, one in searched.items()},
                distributions=searched,
                user_attrs={"trial": row["trial"]},
                intermediate_values=best,
            )
            study.add_trial(trial)
        return study

    def _has_value(self, path: str, trial: Mapping[str, Any]) -> bool:
        """Whether a row of `trials.csv` has a value there: its cell is also empty if that value is none."""
        one = self.record["space"][path]
        if pd.notna(trial[path]) or None not in one["attributes"].get("choices", ()):
            return bool(pd.notna(trial[path]))
        return "when" not in one or trial.get(one["when"], flat_values(self.config).get(one["when"])) == one["is"]

    def _best_so_far(self, trial: str, objective: str) -> dict[int, float]:
        epochs = self.metrics[self.metrics["trial"] == trial]
        scores = epochs[objective].cummin() if objective in LESS_IS_BETTER else epochs[objective].cummax()
        return dict(zip(epochs["epoch"].tolist(), scores.tolist(), strict=True))

    def table(self, name: str, *columns: str) -> pd.DataFrame:
        """A CSV file of the study; if it does not exist, an empty table with these columns.

        Raises `DamagedError` if it lacks one of them, or has text in place of numbers.
        """
        if not self.folder.exists(name):
            return pd.DataFrame(columns=list(columns))
        content = io.BytesIO(self.folder.read(name))
        with reading(self.folder, name, "resume the study, which rebuilds trials.csv, or restore it from a copy"):
            # An arm's name is text, even if it looks like a number.
            table = pd.read_csv(content, converters={"arm": str})
            # Of a comparison alone, of trials that failed, or of those that did not.
            if lacking := set(columns) - set(table) - {"arm", "seed", "error", "val_psnr"}:
                raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
            numbers = NUMBERS if name == "trials.csv" else set(table) - TEXTS
            return table.assign(**{str(column): pd.to_numeric(table[column]) for column in numbers & set(table)})


@dataclass(frozen=True)
class System:
    """What a study trains and evaluates: the winner of a search, or an arm of a comparison with its seeds."""

    study: StudyFiles
    arm: str
    """Name of the arm; empty in a search."""
    config: Config
    trials: pd.DataFrame
    """Its rows of `trials.csv`: of an arm, one per seed."""
    task: int
    """Number of its noise task in the evaluation's tables."""

    @property
    def label(self) -> str:
        """Name within the study."""
        return self.arm or ("winner" if self.study.record["trials"] else "base configuration")

    @property
    def name(self) -> str:
        """Name among the systems of several studies."""
        return f"{self.study.name}, {self.label}"

    @property
    def denoisers(self) -> list[str]:
        """Names in the evaluation's tables: one per seed that did not fail."""
        if not self.arm:
            return ["raygan"]
        return self.trials[self.trials["state"] != "failed"]["trial"].tolist()

    @property
    def metrics(self) -> pd.DataFrame:
        """The epochs of all its trials, in the order in which they were recorded; its own if there are no trials."""
        metrics = self.study.metrics
        if not self.arm and metrics.empty:
            return self.epochs
        return metrics[metrics["trial"].isin(self.trials["trial"])].reset_index(drop=True) if self.arm else metrics

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """Metrics of the winner or of the first seed, one row per epoch; empty if it failed in the first."""
        if not self.arm:
            return self.study.table("best/metrics.csv")
        return self.metrics[self.metrics["trial"] == self._first_seed]

    @cached_property
    def steps(self) -> pd.DataFrame:
        """Losses and accuracies of the winner or of the first seed, one row per step; empty if there are none."""
        return self.study.table(f"steps/{self._first_seed if self.arm else WINNER_RUN}.csv")

    @property
    def best_epoch(self) -> dict[str, float] | None:
        """The metrics of the best epoch by validation, which was kept; None if there are no epochs."""
        rows: list[dict[str, float]] = self.epochs.to_dict("records")  # type: ignore[assignment]
        return max(rows, key=lambda row: row[self.study.best_by], default=None)

    @property
    def _first_seed(self) -> str | None:
        in_order = self.trials.sort_values("seed")
        # One that did not fail, if there is one.
        good = in_order[in_order["state"] != "failed"]
        return next(iter([*good["trial"], *in_order["trial"]]), None)


def _value(distribution: BaseDistribution, cell: Any) -> Any:
    """A value of the distribution, as pandas reads it from `trials.csv`."""
    if pd.isna(cell):
        return None
    if isinstance(distribution, CategoricalDistribution):
        return next(choice for choice in distribution.choices if choice == cell or str(choice) == str(cell))
    return distribution.to_external_repr(distribution.to_internal_repr(cell))
