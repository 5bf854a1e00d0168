"""Studies side by side, finished or still running, from their files alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from raygan.config.run import NOISE_KINDS, Config
from raygan.study.files import StudyFiles
from raygan.report.tables import KIND_NAMES, MEASURES, measures_of, short
from raygan.config.section import flat_values
from raygan.study.storage import Folder

STATES = ("complete", "pruned", "failed")
SEARCH_SETTINGS = (
    *("objectives", "searcher", "scheduler", "trials", "trial_epochs", "seed", "warm_start", "time_budget"),
    *("grace_epochs", "stop_collapsed", "max_parameters", "max_milliseconds"),
)
"""What decides a search's outcome besides its configuration and space."""


@dataclass(frozen=True)
class Compared:
    """One row of the table: a search, or an arm of a comparison."""

    study: StudyFiles
    name: str
    """The study's name, or where several are called the same, its folder."""
    arm: str
    """Empty for a search."""
    config: Config
    trials: pd.DataFrame
    """Its rows of `trials.csv`."""
    denoisers: list[str]
    """What the evaluation calls what came of it."""

    @property
    def title(self) -> str:
        """Its name among rows of several studies."""
        return f"{self.name}, {self.arm}" if self.arm else self.name

    def epochs(self) -> pd.DataFrame:
        """The epochs of all its trials, in the order in which they were recorded."""
        metrics = self.study.metrics
        if metrics.empty or not self.arm:
            return metrics
        return metrics[metrics["trial"].isin(self.trials["trial"])].reset_index(drop=True)

    def evaluated(self) -> pd.DataFrame:
        """The evaluation's summary of its denoisers on all evaluation photos at mean intensity."""
        summary = self.study.summary
        if summary.empty:
            return summary
        of_set = (summary["set"] == "evaluation") & (summary["level"] == "mean")
        return summary[of_set & summary["method"].isin(self.denoisers)]

    def values(self) -> dict[str, object]:
        """Every setting by its name or configuration path; "searched" where each trial has its own value."""
        record = self.study.record
        settings = {name: record[name] for name in SEARCH_SETTINGS if name in record}
        return settings | flat_values(self.config) | dict.fromkeys(record.get("space", ()), "searched")


def read_studies(folders: Iterable[Folder]) -> list[Compared]:
    """The rows of the studies in these folders; raises `ReportError` where one holds no study."""
    studies = [StudyFiles(folder) for folder in folders]
    names = [study.name for study in studies]
    rows = []
    for study in studies:
        name = study.name if names.count(study.name) == 1 else str(study.folder)
        if study.arms is None:
            rows.append(Compared(study, name, "", study.config, study.trials, ["raygan"]))
        for arm, config in study.arm_configs().items():
            of_arm = study.trials if study.trials.empty else study.trials[study.trials["arm"] == arm]
            trials = list(of_arm.get("trial", []))
            rows.append(Compared(study, name, arm, config, of_arm, trials))
    return rows


def studies_table(rows: Sequence[Compared]) -> pd.DataFrame:
    """A row a study, or an arm, with values as they are.

    `trials` have begun or wait, of which some are `complete`, `pruned` or `failed`. `epochs` and `seconds` of training
    are sums over all of them, of an arm over its own. `val_psnr` (dB) and `val_ssim` are those of the epoch with the
    highest val PSNR, by `best_trial`, which did not fail; `epochs_to_best` counts the epochs of all trials up to that
    one, in the order in which they were recorded. `psnr_<kind>` and so on, of those that have evaluated: means over the
    evaluation photos at mean intensity, of an arm the mean over its seeds.
    """
    return pd.DataFrame([_row(row) for row in rows])


def _row(row: Compared) -> dict[str, Any]:
    states = row.trials.get("state", pd.Series(dtype=str))
    found: dict[str, Any] = {"study": row.name, "arm": row.arm, "state": row.study.record["status"]}
    found |= {"trials": len(row.trials)} | {state: int((states == state).sum()) for state in STATES}
    epochs = row.epochs()
    found |= {"epochs": len(epochs), "seconds": float(epochs["seconds"].sum()) if len(epochs) else 0.0}
    if len(epochs):
        failed = row.trials.loc[states == "failed", "trial"]
        good = epochs[~epochs["trial"].isin(failed)]
        if len(good):
            place = int(good["val_psnr"].to_numpy().argmax())
            best = good.iloc[place]
            found |= {"val_psnr": best["val_psnr"], "val_ssim": best["val_ssim"], "best_trial": best["trial"]}
            found |= {"epochs_to_best": int(good.index[place]) + 1}
    evaluated = row.evaluated()
    if len(evaluated):
        for kind, group in evaluated.groupby("kind", sort=False):
            found |= {f"{measure}_{kind}": group[f"{measure}_mean"].mean() for measure in measures_of(row.study)}
    return found


def side_by_side(rows: Sequence[Compared]) -> str:
    """The table for people, with what keeps scores from being compared, and in which settings the rows differ."""
    table = studies_table(rows).to_dict("records")
    titles = [row.title for row in rows]
    head = ["study", "state", "trials", *STATES, "epochs", "seconds", "val PSNR / SSIM", "best trial", "after epochs"]
    cells = [
        [
            *(title, one["state"], one["trials"], *(one[state] for state in STATES)),
            *(one["epochs"], f"{one['seconds']:.0f}", _scores(one.get("val_psnr"), one.get("val_ssim"))),
            *(_shown(one.get("best_trial")), _shown(one.get("epochs_to_best"), ".0f")),
        ]
        for title, one in zip(titles, table, strict=True)
    ]
    lines = _aligned([head, *cells])
    kinds = [kind for kind in NOISE_KINDS if any(f"psnr_{kind}" in one for one in table)]
    if kinds:
        # Of studies without VGG19's weights beside one that had them, the distance is missing.
        distance = any(f"vgg_distance_{kind}" in one for kind in kinds for one in table)
        measures = (*MEASURES, "vgg_distance") if distance else MEASURES
        cells = [
            [title, *(_scores(*(one.get(f"{measure}_{kind}") for measure in measures)) for kind in kinds)]
            for title, one in zip(titles, table, strict=True)
        ]
        measured = "PSNR (dB) / SSIM" + (" / vgg_distance (lower is better)" if distance else "")
        lines += ["", f"Evaluation photos, mean intensity: {measured}"]
        lines += _aligned([["study", *(KIND_NAMES[kind] for kind in kinds)], *cells])
    lines += ["", *(f"Warning: {warning}" for warning in _warnings(rows))]
    differing = _differing([row.values() for row in rows])
    if differing:
        lines += ["The settings differ in (in the order of the rows)"]
        lines += [f"  {path}: {' | '.join(map(short, values))}" for path, values in differing.items()]
    else:
        lines += ["The settings do not differ."]
    return "\n".join(lines)


def _warnings(rows: Sequence[Compared]) -> list[str]:
    """Why scores of different rows would not compare."""
    noise = "the noise to remove (noise/kinds and their ranges)"
    validated = [
        {noise: row.config.noise.task, "the photos (photos in study.json)": row.study.record["photos"]}
        | {f"data/{name}": getattr(row.config.data, name) for name in ("seed", "crop_size", "val_crops")}
        for row in rows
    ]
    evaluated = [
        {noise: row.config.noise.task, "data/evaluate_on": row.config.data.evaluate_on}
        for row in rows
        if len(row.evaluated())
    ]
    return [
        f"{what} scores do not compare, since the rows differ in {', '.join(differing)}."
        for what, differing in (("val", _differing(validated)), ("evaluation", _differing(evaluated)))
        if differing
    ]


def _differing(values: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The names whose values are not the same in all rows, with each row's value, "-" where it has none."""
    by_name = {name: [one.get(name, "-") for one in values] for name in dict.fromkeys(n for one in values for n in one)}
    return {name: found for name, found in by_name.items() if any(one != found[0] for one in found)}


def _scores(psnr: Any, *others: Any) -> str:
    return "-" if pd.isna(psnr) else " / ".join([f"{psnr:.2f}", *(_shown(value, ".3f") for value in others)])


def _shown(value: Any, form: str = "") -> str:
    return "-" if pd.isna(value) else format(value, form)


def _aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows of cells in columns, the first column to the left."""
    columns = [[str(cell) for cell in column] for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    padded = [
        [cell.rjust(width) if index else cell.ljust(width) for cell in column]
        for index, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    return ["  ".join(cells) for cells in zip(*padded, strict=True)]
