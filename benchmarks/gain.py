"""What a search gains: `python benchmarks/gain.py --photos PHOTOS --evaluate-on OTHERS --vgg19 VGG19.npz --minutes 60`.

Trains, for as many minutes of one core each: what the search started from ("start": in `searches/system.py` the
paper's v1, on the search's crops), the same with what the paper's v0 has in place of v1's values, the settings that
were chosen by hand (`raygan.presets.DENOISER`), and the best that the search found. How many steps that is, was
measured once, on an idle core, and is kept (`benchmarks/gain/seconds.json`). Evaluates them on OTHERS, a folder that
neither training nor search has seen. Their scores are added to those of earlier runs, in `benchmarks/gain`, and all of
them are shown: so arms and seeds can be trained one after another, on different days. A picture of val PSNR against
core-hours needs Chromium and the package `playwright`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from picture import save
from step import raygan_seconds, vgg19_weights

from raygan.config.run import Config
from raygan.config.section import PLACES, flat_values, with_values
from raygan.data.photos import Photos
from raygan.data.samples import dead_leaves
from raygan.presets import DENOISER, PAPER_V0, PAPER_V1
from raygan.report.figures import COLOURS
from raygan.search.experiment import Comparison
from raygan.search.study import run_study
from raygan.storage import Folder
from raygan.study.reader import StudyFiles

KEPT = Path(__file__).parent / "gain"
TRAININGS, EPOCHS_OF_ALL, SECONDS = (KEPT / name for name in ("trainings.csv", "epochs.csv", "seconds.json"))
ARMS = ("start", "v0", "by-hand", "found")
EPOCHS = 20
LENGTH = ("training/steps_per_epoch", "training/epochs")


def differences(config: Config, base: Config) -> dict[str, Any]:
    """The values in which a system differs from `base`, but for what is the same for all: data, length and machine."""
    values, known = flat_values(config), flat_values(base)
    return {
        path: value
        for path, value in values.items()
        if not path.startswith(("data/", "hardware/")) and path not in LENGTH and not PLACES.search(path)
        if path not in known or value != known[path]
    }


def arms_of(search: StudyFiles, base: Config) -> dict[str, dict[str, Any]]:
    """The values of each arm."""
    v0, v1 = flat_values(PAPER_V0), flat_values(PAPER_V1)
    return {
        "start": {},
        "v0": {path: value for path, value in v0.items() if value != v1.get(path)},
        "by-hand": differences(DENOISER, base),
        "found": search.record["best_trial"]["values"],
    }


def seconds_per_step(arms: dict[str, dict[str, Any]], base: Config) -> dict[str, float]:
    """How long each arm's steps take on one core: measured where it is not known yet."""
    known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    photos = Photos([str(index) for index in range(12)], [dead_leaves(288, 0, index) for index in range(12)])
    for arm, values in arms.items():
        if arm not in known:
            config = with_values(base, values)
            known[arm] = round(min(raygan_seconds(config, photos, vgg19_weights()) for _ in range(3)), 4)
            SECONDS.write_text(json.dumps(known, indent=2) + "\n")
    return known


def keep(study: StudyFiles, minutes: float) -> None:
    """Add a comparison's scores to those of earlier runs: PSNR at mean intensity on photos, and val PSNR by epoch."""
    photos = study.summary.query("set == 'evaluation' and level == 'mean'")
    scores = photos.pivot_table("psnr_mean", "method", "kind", sort=False).round(3)
    trials = study.trials[["trial", "arm", "seed"]].assign(minutes=minutes)
    epochs = study.metrics[["trial", "epoch", "val_psnr"]].round(3)
    trained = study.metrics.groupby("trial")["train_seconds"].cumsum().round(1)
    for file, table in (
        (TRAININGS, trials.merge(scores, left_on="trial", right_index=True)),
        (EPOCHS_OF_ALL, trials.merge(epochs.assign(train_seconds=trained), on="trial")),
    ):
        if file.exists():
            table = pd.concat([pd.read_csv(file), table.drop(columns="trial")])
        keys = [name for name in ("minutes", "seed", "arm", "epoch") if name in table]
        table = table.drop_duplicates(keys, keep="last").sort_values(keys).drop(columns="trial", errors="ignore")
        table[[*keys, *table.columns.drop(keys)]].to_csv(file, index=False)


def show() -> None:
    """Print what is known of all arms: means over the seeds, and their range."""
    trainings = pd.read_csv(TRAININGS, dtype={"arm": str}).set_index(["minutes", "arm", "seed"])
    trainings["mean"] = trainings.mean(axis=1)
    print(f"\n| minutes | arm | seeds | {' | '.join(trainings.columns)} |\n|---|---|---|{'---|' * trainings.shape[1]}")
    for (minutes, arm), rows in trainings.groupby(["minutes", "arm"]):
        cells = [f"{scores.mean():.2f} ({scores.min():.2f} to {scores.max():.2f})" for _, scores in rows.items()]
        print(f"| {minutes:g} | {arm} | {len(rows)} | {' | '.join(cells)} |")


def draw(picture: str) -> None:
    """Draw val PSNR against core-hours of training: a line for each, of one colour for each arm."""
    figure = go.Figure()
    for (arm, minutes, seed), epochs in pd.read_csv(EPOCHS_OF_ALL).groupby(["arm", "minutes", "seed"]):
        first = arm not in {line.name for line in figure.data}
        figure.add_scatter(
            x=epochs["train_seconds"] / 3600,
            y=epochs["val_psnr"],
            name=arm,
            legendgroup=arm,
            showlegend=first,
            line_color=COLOURS[ARMS.index(arm)],
            hovertext=f"{minutes:g} minutes, seed {seed}",
        )
    figure.update_xaxes(title_text="hours of one core").update_yaxes(title_text="val PSNR (dB)")
    save(figure.update_layout(width=720), picture)


def main() -> None:
    """Run the comparison, and show it with the earlier ones."""
    parser = argparse.ArgumentParser(description="A search's best configuration against others.")
    parser.add_argument("--search", default=str(KEPT / "search"), help="folder of the search (default: %(default)s)")
    parser.add_argument("--photos", required=True, help="folder of photos to train on, as in the search")
    parser.add_argument("--evaluate-on", required=True, metavar="OTHERS", help="folder of photos that it has not seen")
    parser.add_argument("--vgg19", required=True, metavar="FILE", help="VGG19's weights, for v0 and v1")
    parser.add_argument("--minutes", type=float, default=15, help="of one core, for each training (default: 15)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="(default: all four)")
    parser.add_argument("--seeds", type=int, default=1, help="number of trainings of each (default: 1)")
    parser.add_argument("--first-seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--picture", metavar="FILE.png", help="where a picture goes (default: no picture)")
    parser.add_argument("--storage", default="studies", help="where the trainings' folders go (default: studies)")
    options = parser.parse_args()
    search = StudyFiles(Folder(options.search))
    given = {
        "data/photos/location": options.photos,
        "data/evaluate_on": options.evaluate_on,
        "loss/content/weights": options.vgg19,
        "training/epochs": EPOCHS,
        "training/seed": options.first_seed,
    }
    base = with_values(search.config, given)
    arms = {arm: values for arm, values in arms_of(search, base).items() if arm in options.arms}
    seconds = seconds_per_step(arms, base)
    for arm, values in arms.items():
        values["training/steps_per_epoch"] = max(1, round(60 * options.minutes / seconds[arm] / EPOCHS))
        print(f"{arm}: {seconds[arm]:.2f} s a step, {EPOCHS} epochs of {values['training/steps_per_epoch']} steps")
    name = "-".join(["gain", f"{options.minutes:g}", str(options.first_seed), *arms])
    folder = run_study(Comparison(name=name, config=base, arms=arms, seeds=options.seeds), options.storage)
    keep(StudyFiles.finished(folder), options.minutes)
    show()
    if options.picture:
        draw(options.picture)


if __name__ == "__main__":
    main()
