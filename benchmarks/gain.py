"""What a search gains: `python benchmarks/gain.py STUDY PHOTOS --minutes 15`, an hour and a half on two cores.

Trains, with three seeds each and for as many minutes of one core: what the search in the folder STUDY started from
("start": in `searches/v1.py` and `searches/system.py` the paper's v1, on the search's crops), the same with what the
paper's v0 has in place of v1's values, the settings that were chosen by hand (`raygan.presets.DENOISER`), and the best
that the search found. How many steps that is, is measured before. Evaluates them on PHOTOS, a folder that neither
training nor search has seen. A picture of val PSNR against core-hours needs Chromium and the package `playwright`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

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
from raygan.study.reader import StudyFiles
from raygan.study.storage import Folder

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


def steps_of(arms: dict[str, dict[str, Any]], base: Config, minutes: float) -> dict[str, int]:
    """How many steps each arm makes in an epoch, for `EPOCHS` epochs of as many minutes of one core together."""
    photos = Photos([str(index) for index in range(12)], [dead_leaves(288, 0, index) for index in range(12)])
    steps = {}
    for arm, values in arms.items():
        config = with_values(base, values)
        seconds = min(raygan_seconds(config, photos, vgg19_weights()) for _ in range(3))
        steps[arm] = max(1, round(60 * minutes / seconds / EPOCHS))
        print(f"{arm}: {seconds:.2f} s a step, {EPOCHS} epochs of {steps[arm]} steps", flush=True)
    return steps


def draw(study: StudyFiles, picture: str) -> None:
    """Draw val PSNR against core-hours of training: a line for each, of one colour for each arm."""
    figure, arms = go.Figure(), list(study.record["arms"])
    arm_of = study.trials.set_index("trial")["arm"]
    for trial, epochs in study.metrics.groupby("trial"):
        arm = arm_of[trial]
        hours = epochs["train_seconds"].cumsum() / 3600
        first = arm not in {line.name for line in figure.data}
        colour = COLOURS[arms.index(arm)]
        figure.add_scatter(x=hours, y=epochs["val_psnr"], name=arm, showlegend=first, line_color=colour)
    figure.update_xaxes(title_text="hours of one core").update_yaxes(title_text="val PSNR (dB)")
    save(figure.update_layout(width=720), picture)


def main() -> None:
    """Run the comparison, which ends with its table."""
    parser = argparse.ArgumentParser(description="A search's best configuration against others.")
    parser.add_argument("study", metavar="STUDY", help="folder of a finished search")
    parser.add_argument("photos", metavar="PHOTOS", help="folder of photos that it has not seen")
    parser.add_argument("--minutes", type=float, default=15, help="of one core, for each training (default: 15)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="(default: all four)")
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings of each (default: 3)")
    parser.add_argument("--first-seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--picture", metavar="FILE.png", help="where a picture goes (default: no picture)")
    parser.add_argument("--storage", default="studies", help="where the comparison's folder goes (default: studies)")
    options = parser.parse_args()
    study = StudyFiles.finished(Folder(options.study))
    given = {"data/evaluate_on": options.photos, "training/epochs": EPOCHS, "training/seed": options.first_seed}
    base = with_values(study.config, given)
    v0, v1 = flat_values(PAPER_V0), flat_values(PAPER_V1)
    arms: dict[str, dict[str, Any]] = {
        "start": {},
        "v0": {path: value for path, value in v0.items() if value != v1.get(path)},
        "by-hand": differences(DENOISER, base),
        "found": study.record["best_trial"]["values"],
    }
    name = f"{study.name}-gain-{options.minutes:g}"
    arms = {arm: arms[arm] for arm in options.arms}
    # Kept, since a comparison that is resumed must be the same.
    file = Path(options.storage) / f"{name}-steps.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(steps_of(arms, base, options.minutes)))
    for arm, steps in json.loads(file.read_text()).items():
        arms[arm]["training/steps_per_epoch"] = steps
    run_study(Comparison(name=name, config=base, arms=arms, seeds=options.seeds), options.storage)
    hours = study.metrics["seconds"].sum() / 3600
    print(f"\nThe search trained {len(study.trials)} trials, in {hours:.2f} hours of one core, validation included.")
    trained = StudyFiles(Folder(options.storage).child(name))
    if options.picture:
        draw(trained, options.picture)
    minutes = trained.metrics.groupby("trial")["train_seconds"].sum() / 60
    for arm in arms:
        taken = minutes[trained.trials.loc[trained.trials["arm"] == arm, "trial"]]
        print(f"{arm}: {taken.mean():.1f} minutes of training")


if __name__ == "__main__":
    main()
