"""What a study's folder says, read."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pandas as pd

from raygan.config.run import Config
from raygan.errors import InputError
from raygan.report.paper import paper_system
from raygan.config.section import with_values
from raygan.study.storage import Folder


class ReportError(InputError):
    """A folder holds no study, or one that has not finished where only a finished one will do."""


@dataclass(frozen=True)
class System:
    """What a study trained and evaluated: a search's winner, or an arm of a comparison with its seeds."""

    study: str
    """The study's name."""
    arm: str
    """The arm's name; "winner" for a search's."""
    config: Config
    denoisers: list[str]
    """What the evaluation calls it: a name a seed, of those that did not fail."""
    failed: int
    """How many seeds failed, by diverging or otherwise."""
    task: int
    """Which of the study's noise tasks it removes, as the evaluation's tables number them."""
    epochs: pd.DataFrame
    """The first seed's metrics, a row an epoch; empty if it failed in the first."""
    steps: pd.DataFrame
    """The first seed's losses and accuracies, a row a step; empty if it failed before it had any."""

    @property
    def name(self) -> str:
        """What it is called among systems of several studies."""
        return f"{self.study}, {self.arm}"

    @property
    def best_epoch(self) -> dict[str, float] | None:
        """The metrics of the best epoch by validation, which was kept; none if it failed in the first."""
        rows: list[dict[str, float]] = self.epochs.to_dict("records")  # type: ignore[assignment]
        return max(rows, key=lambda row: row[self.config.training.best_by], default=None)

    @property
    def title(self) -> str:
        """Its name, and the paper's system that it is, if it is one."""
        system = paper_system(self.config)
        return self.name if system is None else f"{self.name} (the paper's {system})"


class StudyFiles:
    """A study, finished or not, read from its folder; tables that it has not come to are empty."""

    def __init__(self, folder: Folder) -> None:
        """Raises `ReportError` where there is no study."""
        if not folder.exists("study.json"):
            raise ReportError(f"{folder} holds no study (no study.json): give the folder STORAGE/NAME of one")
        self.folder = folder
        self.record: dict[str, Any] = json.loads(folder.read("study.json"))
        self.config = Config.from_json(self.record["config"])
        self.trials = self._table("trials.csv")
        self.metrics = self._table("metrics.csv")

    @classmethod
    def finished(cls, folder: Folder) -> Self:
        """A study that has evaluated; raises `ReportError` where there is none."""
        if not folder.exists("evaluation/summary.csv"):
            raise ReportError(
                f"{folder} holds no finished study (no evaluation/summary.csv): give the folder "
                "STORAGE/NAME of one, or run its search to the end"
            )
        return cls(folder)

    @cached_property
    def per_image(self) -> pd.DataFrame:
        """The evaluation's scores, a row an image, noise and method."""
        return self._table("evaluation/per_image.csv")

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The evaluation's scores over the images of each set."""
        return self._table("evaluation/summary.csv")

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.record["name"])

    @property
    def objectives(self) -> list[str]:
        """The metrics that the study searched for, or judged its trials by."""
        objectives: list[str] = self.record.get("objectives", [self.config.training.best_by])
        return objectives

    @property
    def arms(self) -> Mapping[str, Mapping[str, Any]] | None:
        """A comparison's arms and their values; none for a search."""
        arms: Mapping[str, Mapping[str, Any]] | None = self.record.get("arms")
        return arms

    def arm_configs(self) -> dict[str, Config]:
        """The configurations of a comparison's arms."""
        return {arm: with_values(self.config, values) for arm, values in (self.arms or {}).items()}

    def systems(self) -> list[System]:
        """What the study trained and evaluated."""
        if self.arms is None:
            arm = "winner" if self.record["trials"] else "base configuration"
            config = with_values(self.config, self.record["best_trial"]["values"])
            epochs, steps = self._table("best/metrics.csv"), self._table("steps/winner.csv")
            return [System(self.name, arm, config, ["raygan"], 0, 0, epochs, steps)]
        configs = self.arm_configs()
        tasks = list(dict.fromkeys(config.noise.task for config in configs.values()))
        systems = []
        for arm, config in configs.items():
            of_arm = self.trials[self.trials["arm"] == arm].sort_values("seed")
            good = of_arm[of_arm["state"] != "failed"]["trial"].tolist()
            first = of_arm["trial"].iloc[0]
            epochs = self.metrics[self.metrics["trial"] == first] if len(self.metrics) else self.metrics
            steps = self._table(f"steps/{first}.csv")
            task = tasks.index(config.noise.task)
            systems.append(System(self.name, arm, config, good, len(of_arm) - len(good), task, epochs, steps))
        return systems

    def _table(self, name: str) -> pd.DataFrame:
        """A CSV file; an empty table where there is none."""
        if not self.folder.exists(name):
            return pd.DataFrame()
        # An arm's name is text, whatever it looks like.
        return pd.read_csv(io.BytesIO(self.folder.read(name)), converters={"arm": str})
