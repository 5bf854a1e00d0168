"""The contents of a report on one or several studies: the paper's tables and figures, and those of the studies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from raygan.config.run import PAIRS
from raygan.report import figures, tables
from raygan.report.page import Part, write_report
from raygan.report.paper import BEST_EPOCH, paper_table, settings_table, title_of
from raygan.study.ledger import REMEDY, StudyError
from raygan.study.reader import StudyFiles, System
from raygan.study.storage import Folder, reading

SET_NAMES = {
    "training": "training photos (one fixed crop of each)",
    "validation": "validation photos (one fixed crop of each)",
    "evaluation": "evaluation photos",
    PAIRS: "held-out pairs",
}


def report(studies: Sequence[Folder], output: Folder | None = None) -> Folder:
    """Write the report on finished studies to `output`, by default the first one's `report/`; returns that folder.

    Raises `StudyError` if a folder holds no finished study, or if two studies have the same name.
    """
    read = [StudyFiles.finished(folder) for folder in studies]
    output = output or studies[0].child("report")
    output.require_writable()
    names = [study.name for study in read]
    if len(set(names)) < len(names):
        raise StudyError(f"the studies in a report must have different names, but got {', '.join(names)}")
    with reading(" or ".join(map(str, studies)), "", REMEDY):
        parts = _parts(read)
    write_report(output, "RayGAN: " + ", ".join(names), parts)
    return output


def _parts(read: Sequence[StudyFiles]) -> list[Part]:
    systems = [system for study in read for system in study.systems()]
    settings = Part("Settings (the paper's Table 7)")
    settings.text = ["The paper's three systems and those trained here, with all other settings in which these differ."]
    settings.tables = {"settings": settings_table({system.name: system.config for system in systems})}
    noises = Part("Clean and noisy (the paper's Figures 2 and 3)", pictures=figures.noise_pictures(read[0]))
    noises.text = ["A clean crop and its noisy versions, each at the mean intensity of its noise."]
    steps = Part("Training, step by step (the paper's Figures 6, 7 and 8)")
    steps.text = ["Generator loss, discriminator losses and accuracies, for the first seed."]
    steps.plots = {"losses and accuracies": figures.steps_figure(systems)}
    of_studies = [part for study in read for part in _of_study(study)]
    return [settings, noises, *of_studies, steps, _best_epochs(systems)]


def _of_study(study: StudyFiles) -> Iterator[Part]:
    data, record, photos = study.config.data, study.record, study.record["photos"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    about = [
        f"Trained on {photos['train']} photos of {data.photos.key}, validated on {photos['validation']}, evaluated on "
        f"{data.evaluate_on.key}. Scores are PSNR in dB and SSIM.",
        *([f"Pairs of noisy and clean photos: {data.pairs.key}. {tables.gain_text(study)}"] if data.pairs else []),
        f"Content loss: {record['content_loss']}.",
        f"Started {record['started']}; versions: {versions}.",
    ]
    yield Part(f"Study {study.name}", text=about)
    photo_sets = {str(name): _words(name) for name in study.summary["set"].unique()}
    for system in study.systems():
        if system.denoisers:
            # The paper has no pairs.
            yield from (_scores(study, system, photo_set) for photo_set in photo_sets if photo_set != PAIRS)
        else:
            yield Part(f"{title_of(system)} failed", depth=3, text=["All seeds failed: there are no scores."])
    measures = " / ".join(tables.measures_of(study.summary).values())
    for photo_set, words in photo_sets.items():
        averages = f"Averages{'' if photo_set == PAIRS else ' at mean intensity'}: {measures}."
        if photo_set.startswith(("evaluation", PAIRS)):
            table = {f"{study.name}-methods-{photo_set}".replace("/", "-"): tables.methods_table(study, photo_set)}
            yield Part(f"{study.name}: all methods on the {words}", depth=3, text=[averages], tables=table)
    if study.is_comparison:
        yield _arms(study)
    elif record["trials"]:
        yield from _search(study)
    yield Part(f"{study.name}: before and after", depth=3, pictures=figures.denoised_pictures(study))


def _arms(study: StudyFiles) -> Part:
    table = tables.arms_table(study)
    text = (
        "Mean over seeds and sample deviation, on the evaluation photos; seeds that failed are left out. Differences "
        "are to the first arm with the same noise, with their 95 % confidence interval (Welch's t-test). One interval "
        "in twenty excludes 0 by chance where there is no difference."
    )
    plots = {"PSNR, mean and deviation over seeds": figures.arms_figure(table)}
    return Part(f"{study.name}: the arms compared", 3, [text], {f"{study.name}-arms": table}, plots)


def _search(study: StudyFiles) -> Iterator[Part]:
    text = "All trials with the scores of their best epochs. The figures show those that did not fail, even if pruned."
    plots = figures.search_figures(study)
    yield Part(f"{study.name}: the search", 3, [text], {f"{study.name}-trials": study.trials}, plots)
    if len(study.objectives) > 1:
        text = (
            "The trials on the Pareto front: no other trial is at least as good in every objective and better in one. "
            "The winner is the compromise nearest to the ideal point, which has the best value of each objective; each "
            "is scaled to 0 for its best value on the front and 1 for its worst."
        )
        front = {f"{study.name}-front": tables.front_table(study)}
        yield Part(f"{study.name}: the Pareto front", 3, [text], front)


def _scores(study: StudyFiles, system: System, photo_set: str) -> Part:
    """A system's scores on one set of photos, with the paper's for comparison."""
    title = f"{title_of(system)}: {_words(photo_set)}"
    chosen = study.summary[(study.summary["set"] == photo_set) & study.summary["method"].isin(system.denoisers)]
    text = f"{chosen['images'].max()} images."
    if len(system.denoisers) > 1:
        text += f" Averages over {len(system.denoisers)} seeds."
    paper = paper_table(system.config, photo_set)
    if paper is None:
        text += " The paper has no scores for this noise."
    else:
        title += f", beside the paper's Table {paper['table'].iloc[0]}"
        text += " The paper's scores are those of its {system} on its {photos}.".format(**paper.iloc[0])
    name = re.sub("[/ ]", "-", f"{study.name}-{system.label}-{photo_set}")
    return Part(title, 3, [text], {name: tables.scores_beside_the_papers(study, system, photo_set)})


def _words(photo_set: str) -> str:
    name, _, folder = photo_set.partition("/")
    return SET_NAMES[name] + (f" in {folder}" if folder else "")


def _best_epochs(systems: Sequence[System]) -> Part:
    text = [
        "The epoch with the highest val PSNR is kept: the mean over the noises at low, mean and high intensity, on "
        "fixed crops of validation photos with fixed noise; with pairs, the mean over fixed crops of held-out pairs. "
        f"The paper kept epoch {BEST_EPOCH} of 30."
    ]
    for system in systems:
        if best := system.best_epoch:
            epochs, last = len(system.epochs), system.epochs["val_psnr"].iloc[-1]
            scores = f"val PSNR {best['val_psnr']:.2f} dB, val SSIM {best['val_ssim']:.3f}"
            summary = f"epoch {best['epoch']:.0f} of {epochs}, {scores}; the last epoch had {last:.2f} dB."
        else:
            summary = "failed in its first epoch."
        text.append(f"{title_of(system)}: {summary}")
    return Part("Best epoch", text=text, plots={"val PSNR over the epochs": figures.epochs_figure(systems)})
