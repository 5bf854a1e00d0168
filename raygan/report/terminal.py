"""What the terminal shows at the end of a study."""

from __future__ import annotations

import shlex

import pandas as pd

from raygan.config.section import flat_values
from raygan.report import tables
from raygan.report.paper import SYSTEMS
from raygan.storage import Folder, reading
from raygan.study.ledger import REMEDY
from raygan.study.objectives import OBJECTIVE_NAMES
from raygan.study.reader import StudyFiles


def final_report(folder: Folder) -> str:
    """The results of a finished study: scores, the best configuration or the comparison of the arms, and the files.

    Raises `StudyError` if there is no finished study.
    """
    study = StudyFiles.finished(folder)
    with reading(folder, "", REMEDY):
        return _final_report(study)


def _final_report(study: StudyFiles) -> str:
    folder = study.folder
    if not study.is_comparison:
        values = study.record["best_trial"]["values"]
        lines = [tables.result_table(study), *filter(None, [tables.gain_text(study)]), *_search_summary(study), ""]
        lines += ["Best configuration:" if values else "The base configuration, unchanged (see best/config.json)"]
        lines += [f"  {path} = {tables.short(value)}" for path, value in values.items()]
        denoisers = {"best/": "the denoiser: weights, configuration, metrics"}
    else:
        lines = [comparison(study)]
        denoisers = {"denoisers/": "the best epoch of each trial: weights, configuration, metrics"}
    written = {
        "study.json": "configuration, search space or arms, seeds, versions, status",
        "trials.csv, metrics.csv": "all trials; the epochs of all trials",
        "steps/": "losses and accuracies, step by step",
        **denoisers,
        "evaluation/": "scores per image, summary, pictures",
        "tensorboard/": f"tensorboard --logdir {shlex.quote(folder.address('tensorboard'))}",
    }
    width = len(folder.address("x" * 27))
    lines += ["", "Written:", *(f"  {folder.address(name):<{width}} {what}" for name, what in written.items())]
    return "\n".join(
        [*lines, "", f"For a page of tables and figures, with the paper's: raygan report {shlex.quote(str(folder))}"]
    )


def _search_summary(study: StudyFiles) -> list[str]:
    """Val PSNR at the best epoch of the best trial, of trials with the paper's values, and of the winner."""
    if study.trials.empty:
        return []
    rows = {str(row["trial"]): row for row in study.trials.to_dict("records")}
    best = study.record["best_trial"]["trial"]
    shown = {f"best trial ({best})": rows[best]}
    for name, system in SYSTEMS.items():
        values = flat_values(system)
        # A path with a condition is searched only where that holds.
        space = study.record["space"].items()
        searched = [path for path, one in space if "when" not in one or values.get(one["when"]) == one["is"]]
        for trial, row in rows.items():
            if row["epochs"] and all(path in values and str(row[path]) == str(values[path]) for path in searched):
                shown[f"with the paper's {name} values ({trial})"] = row
    lines = ["", "val PSNR at the best epoch"]
    for name, row in shown.items():
        ended = {"pruned": ", stopped early", "failed": ", failed"}.get(row["state"], "")
        lines.append(f"  {name:<44}{row['val_psnr']:>7.2f} dB in {tables.counted(row['epochs'], 'epoch')}{ended}")
    for row in study.repeated().to_dict("records"):
        name = f"{row['trial']} over {row['seeds']} seeds"
        objective = OBJECTIVE_NAMES[study.objectives[0]]
        lines.append(f"  {name:<44}{row['mean']:>7.4g} ± {row['deviation']:.2g}, {objective}")
    winner = study.systems()[0]
    if best := winner.best_epoch:
        taken = tables.counted(len(winner.epochs), "epoch")
        lines.append(f"  {'winner':<44}{best['val_psnr']:>7.2f} dB in {taken}")
    return lines


def comparison(study: StudyFiles) -> str:
    """A comparison's arms per level and noise, with their differences to the first arm."""
    table = tables.arms_table(study)
    measures = tables.measures_of(study.summary)
    images = study.summary.loc[study.summary["set"] == "evaluation", "images"].iloc[0]
    seeds = study.record["seeds"]
    title = f"{study.name}: mean ± deviation over {seeds} seeds" if seeds > 1 else f"{study.name}: one seed"
    lines = [f"{title}, {images} photos", ""]
    table["kind"] = table["kind"].replace(tables.KIND_NAMES)
    table["score"] = table.apply(_score, axis=1, measures=list(measures))
    table["difference"] = table.apply(_difference, axis=1)
    for level, of_level in table.groupby("level", sort=False):
        rows = []
        for arm, of_arm in of_level.set_index("kind").groupby("arm", sort=False):
            rows.append(of_arm["score"].rename(arm))
            if of_arm["psnr_difference"].notna().any():
                rows.append(of_arm["difference"].rename("  difference"))
        cells = pd.DataFrame(rows, columns=of_level["kind"].unique())
        lines.append(tables.as_text(cells.fillna(""), f"{level} intensity"))
    failed = table.groupby("arm", sort=False)["failed"].first()
    lines += [f"{arm}: {count} of {seeds} seeds failed and are left out" for arm, count in failed.items() if count]
    names = " / ".join(measures.values())
    lines += ["", f"{names}. Differences are in PSNR, to the first arm with the same noise."]
    if table["psnr_difference_low"].notna().any():
        lines += [
            "In parentheses: their 95 % confidence interval (Welch's t-test). * marks intervals that exclude 0; one in",
            "twenty does so by chance where there is no difference.",
        ]
    return "\n".join(lines)


def _score(row: pd.Series[float], measures: list[str]) -> str:
    deviation = "" if pd.isna(row["psnr_deviation"]) else f" ± {row['psnr_deviation']:.2f}"
    text = tables.scores_text(*(row[f"{measure}_mean"] for measure in measures), unit=deviation)
    return "failed" if text == "-" else text


def _difference(row: pd.Series[float]) -> str:
    low, high = row["psnr_difference_low"], row["psnr_difference_high"]
    mark = "*" if low > 0 or high < 0 else " "
    interval = "" if pd.isna(low) else f" ({low:+.2f} … {high:+.2f}){mark}"
    return f"{row['psnr_difference']:+.2f}{interval}"
