"""What a search gains: `python benchmarks/gain.py --photos PHOTOS --evaluate-on OTHERS --vgg19 VGG19.npz --minutes 60`.

Trains, for as many minutes of one core each: what the search started from ("start": in `searches/system.py` the
paper's v1, on the search's crops), the same with what the paper's v0 has in place of v1's values, the settings that
were chosen by hand (`raygan.presets.DENOISER`), the best that the search found, and the best of a second search that
started from that ("refined"). The seconds that a step of each takes are measured the first time, for which a core
should be idle. Evaluates them on OTHERS, a folder that neither training nor search has seen.

The search's folder, `benchmarks/gain` by default, needs its `study.json` alone, as does the second search's, which is
`refined` in it. It keeps the seconds and the scores of all runs, which are shown together: arms and seeds can be
trained one after another, on different days. A picture of val PSNR against core-hours needs Chromium and the package
`playwright`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from step import raygan_seconds, vgg19_weights

from raygan.config.run import Config
from raygan.config.section import PLACES, flat_values, with_values
from raygan.data.photos import Photos
from raygan.data.samples import dead_leaves
from raygan.data.sources import PhotoFolder
from raygan.presets import DENOISER, PAPER_V0, PAPER_V1
from raygan.report.figures import COLOURS
from raygan.search.experiment import Comparison
from raygan.search.study import run_study
from raygan.storage import Folder
from raygan.study.reader import StudyFiles

TRAININGS, EPOCHS_OF_ALL, SECONDS = "gain-trainings.csv", "gain-epochs.csv", "gain-seconds.json"
KEYS = ("photos", "evaluated_on", "minutes", "arm", "seed", "epoch")
"""What distinguishes the rows of the first two files; photos by the first characters of their hashes."""
TEXTS = {"photos": str, "evaluated_on": str, "arm": str}
ARMS = ("start", "v0", "by-hand", "found", "refined")
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
    arms = {
        "start": {},
        "v0": {path: value for path, value in v0.items() if value != v1.get(path)},
        "by-hand": differences(DENOISER, base),
        "found": search.record["best_trial"]["values"],
    }
    folder = search.folder.child("refined")
    if folder.exists("study.json") and "best_trial" in (second := StudyFiles(folder)).record:
        arms["refined"] = differences(with_values(second.config, second.record["best_trial"]["values"]), base)
    return arms


def seconds_per_step(arms: dict[str, dict[str, Any]], base: Config, file: Path) -> dict[str, float]:
    """How long each arm's steps take on one core: measured where the file does not say yet."""
    known: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    photos = Photos([str(index) for index in range(12)], [dead_leaves(288, 0, index) for index in range(12)])
    for arm, values in arms.items():
        if arm not in known:
            config = with_values(base, values)
            known[arm] = round(min(raygan_seconds(config, photos, vgg19_weights()) for _ in range(3)), 4)
            file.write_text(json.dumps(known, indent=2) + "\n")
    return known


def keep(study: StudyFiles, minutes: float, folder: Path) -> None:
    """Add a comparison's scores to the folder's: PSNR on photos at mean intensity, and val PSNR by epoch."""
    photos = study.summary.query("set == 'evaluation' and level == 'mean'")
    scores = photos.pivot_table("psnr_mean", "method", "kind", sort=False).round(3)
    hashes = {name: study.record[name]["sha256"][:8] for name in ("photos", "evaluation_photos")}
    known = {"photos": hashes["photos"], "evaluated_on": hashes["evaluation_photos"], "minutes": float(minutes)}
    trials = study.trials[["trial", "arm", "seed"]].assign(**known)
    epochs = study.metrics[["trial", "epoch", "val_psnr"]].round(3)
    trained = study.metrics.groupby("trial")["train_seconds"].cumsum().round(1)
    for name, table in (
        (TRAININGS, trials.merge(scores, left_on="trial", right_index=True)),
        (EPOCHS_OF_ALL, trials.merge(epochs.assign(train_seconds=trained), on="trial")),
    ):
        table = table.drop(columns="trial")
        if (folder / name).exists():
            table = pd.concat([pd.read_csv(folder / name, dtype=TEXTS), table])
        keys = [key for key in KEYS if key in table]
        table = table.drop_duplicates(keys, keep="last").sort_values(keys)
        table[[*keys, *table.columns.drop(keys)]].to_csv(folder / name, index=False)


def show(folder: Path) -> None:
    """Print what is known of all arms: means over the seeds, and their range."""
    trainings, epochs = (pd.read_csv(folder / name, dtype=TEXTS) for name in (TRAININGS, EPOCHS_OF_ALL))
    keys = [key for key in KEYS if key in trainings]
    taken = epochs.groupby(keys)["train_seconds"].max() / 60
    scores = trainings.set_index(keys)
    scores["mean of these"] = scores.mean(axis=1)
    scores["minutes taken"] = taken
    print(f"\n| {' | '.join([*keys[:-1], 'seeds', *scores.columns])} |\n|{'---|' * (len(keys) + scores.shape[1])}")
    for key, rows in scores.groupby(keys[:-1]):
        cells = [f"{one.mean():.2f} ({one.min():.2f} to {one.max():.2f})" for _, one in rows.items()]
        print(f"| {' | '.join(map(str, key))} | {len(rows)} | {' | '.join(cells)} |")


def draw(folder: Path, picture: str) -> None:
    """Draw val PSNR against hours of an idle core, by the seconds of a step: a line per training, a colour per arm."""
    from picture import save  # needs playwright

    figure, table = go.Figure(), pd.read_csv(folder / EPOCHS_OF_ALL, dtype=TEXTS)
    for (*_, minutes, arm, _), epochs in table.groupby([key for key in KEYS if key != "epoch"]):
        first = arm not in {line.name for line in figure.data}
        colour = COLOURS[ARMS.index(arm)]
        hours = minutes / 60 * epochs["epoch"] / EPOCHS
        figure.add_scatter(x=hours, y=epochs["val_psnr"], name=arm, showlegend=first, line_color=colour)
    figure.update_xaxes(title_text="hours of one idle core").update_yaxes(title_text="val PSNR (dB)")
    save(figure.update_layout(width=720), picture)


def main() -> None:
    """Run the comparison, and show it with the earlier ones."""
    parser = argparse.ArgumentParser(description="A search's best configuration against others.")
    default = Path(__file__).parent / "gain"
    parser.add_argument("--search", type=Path, default=default, help="folder of the search (default: benchmarks/gain)")
    parser.add_argument("--photos", required=True, help="folder of photos to train on, as in the search")
    parser.add_argument("--evaluate-on", required=True, metavar="OTHERS", help="folder of photos that it has not seen")
    parser.add_argument("--vgg19", metavar="FILE", help="VGG19's weights, if the search had them")
    parser.add_argument("--minutes", type=float, default=15, help="of one core, for each training (default: 15)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="(default: all that there are)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one training per arm and seed (default: 0)")
    parser.add_argument("--picture", metavar="FILE.png", help="where a picture goes (default: no picture)")
    parser.add_argument("--storage", default="studies", help="where the trainings' folders go (default: studies)")
    options = parser.parse_args()
    search = StudyFiles(Folder(options.search))
    if "best_trial" not in search.record:
        parser.error(f"{options.search} is no search, or has not found its best trial yet")
    photos = PhotoFolder(location=options.photos)
    given = {"data/photos": photos, "data/evaluate_on": options.evaluate_on, "training/epochs": EPOCHS}
    if options.vgg19 is not None:
        given["loss/content/weights"] = options.vgg19
    base = with_values(search.config, given)
    arms = arms_of(search, base)
    if missing := set(options.arms or ()) - set(arms):
        parser.error(
            f"{options.search}/refined is no search, or has not found its best trial yet: run one there, or leave "
            f"{', '.join(missing)} out of --arms"
        )
    arms = {arm: values for arm, values in arms.items() if arm in (options.arms or arms)}
    seconds = seconds_per_step(arms, base, options.search / SECONDS)
    for arm, values in arms.items():
        values["training/steps_per_epoch"] = max(1, round(60 * options.minutes / seconds[arm] / EPOCHS))
        print(f"{arm}: {seconds[arm]:.2f} s a step, {EPOCHS} epochs of {values['training/steps_per_epoch']} steps")
    for seed in options.seeds:
        name = "-".join([search.name, "gain", f"{options.minutes:g}", *arms, str(seed)])
        config = with_values(base, {"training/seed": seed})
        folder = run_study(Comparison(name=name, config=config, arms=arms, seeds=1), options.storage)
        keep(StudyFiles.finished(folder), options.minutes, options.search)
    show(options.search)
    if options.picture:
        draw(options.search, options.picture)


if __name__ == "__main__":
    main()
