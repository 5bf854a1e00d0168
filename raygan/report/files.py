"""What a study's folder says, read."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from raygan.config import Config
from raygan.errors import InputError
from raygan.report.paper import paper_system
from raygan.section import with_values
from raygan.storage import Folder


class ReportError(InputError):
    """A folder holds no study, or one that has not finished."""


@dataclass(frozen=True)
class System:
    """What a study trained and evaluated: a search's winner, or an arm of a comparison with its seeds."""

    study: str
    """The study's name."""
    arm: str
    """The arm's name; "winner" for a search's."""
    config: Config
    methods: list[str]
    """What the evaluation calls it: a name a seed, of those that did not diverge."""
    trained: int
    """How many seeds were trained."""
    epochs: pd.DataFrame
    """The first seed's metrics, a row an epoch."""
    steps: pd.DataFrame
    """The first seed's losses and accuracies, a row a step; empty if it failed before it had any."""

    @property
    def name(self) -> str:
        """What it is called among systems of several studies."""
        return f"{self.study}, {self.arm}"

    @property
    def best_epoch(self) -> dict[str, float] | None:
        """The metrics of the epoch with the highest val PSNR, which was kept; none if it diverged in the first."""
        rows: list[dict[str, float]] = self.epochs.to_dict("records")  # type: ignore[assignment]
        return max(rows, key=lambda row: row["val_psnr"], default=None)

    @property
    def title(self) -> str:
        """Its name, and the paper's system that it is, if it is one."""
        system = paper_system(self.config)
        return self.name if system is None else f"{self.name} (the paper's {system})"


class StudyFiles:
    """A finished study, read from its folder."""

    def __init__(self, folder: Folder) -> None:
        """Raises `ReportError` where there is no finished study."""
        if not folder.exists("evaluation/summary.csv"):
            raise ReportError(
                f"{folder} holds no finished study (no evaluation/summary.csv): give the folder "
                "STORAGE/NAME of one, or run its search to the end"
            )
        self.folder = folder
        self.record: dict[str, Any] = json.loads(folder.read("study.json"))
        self.config = Config.from_json(self.record["config"])
        self.per_image = self._table("evaluation/per_image.csv")
        self.summary = self._table("evaluation/summary.csv")
        self.trials = self._table("trials.csv") if folder.exists("trials.csv") else pd.DataFrame()
        self.metrics = self._table("metrics.csv") if folder.exists("metrics.csv") else pd.DataFrame()

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.record["name"])

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
            best = self.record["best_trial"]
            epochs = self._table("best/metrics.csv")
            arm = "winner" if self.record["trials"] else "base configuration"
            config = with_values(self.config, best["values"])
            return [System(self.name, arm, config, ["raygan"], 1, epochs, self._steps("winner"))]
        systems = []
        for arm, config in self.arm_configs().items():
            of_arm = self.trials[self.trials["arm"].astype(str) == arm]
            good = of_arm[of_arm["state"] != "failed"]["trial"].tolist()
            shown = (good or of_arm["trial"].tolist())[0]
            epochs = self.metrics[self.metrics["trial"] == shown]
            systems.append(System(self.name, arm, config, good, len(of_arm), epochs, self._steps(shown)))
        return systems

    def _steps(self, run: str) -> pd.DataFrame:
        name = f"steps/{run}.csv"
        return self._table(name) if self.folder.exists(name) else pd.DataFrame()

    def _table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(io.BytesIO(self.folder.read(name)), dtype={"arm": str})
