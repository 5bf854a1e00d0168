"""The contents of a report on one or several studies: what came out, and the paper's tables and figures."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence

from raygan.config.run import PAIRS
from raygan.report import figures, tables
from raygan.report.page import Part, write_report
from raygan.report.paper import BEST_EPOCH, paper_table, settings_table, title_of
from raygan.storage import Folder, reading
from raygan.study.ledger import REMEDY, StudyError
from raygan.study.objectives import OBJECTIVE_NAMES
from raygan.study.reader import StudyFiles, System

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
        parts = [*map(_of_study, read), _of_the_paper(read)]
    write_report(output, "RayGAN: " + ", ".join(names), parts)
    return output


def _of_study(study: StudyFiles) -> Part:
    parts = [_result(study), _trust(study), _pictures(study)]
    if not study.is_comparison and study.record["trials"]:
        parts += _search(study)
    return Part(f"Study {study.name}", text=[_asked(study)], parts=[*parts, _cost(study), _use(study)])


def _asked(study: StudyFiles) -> str:
    """What the study was to find out, on which photos."""
    record, data = study.record, study.config.data
    if study.is_comparison:
        what = f"A comparison of {len(record['arms'])} arms, {record['seeds']} of each with different seeds"
    elif record["trials"]:
        objectives = " and ".join(OBJECTIVE_NAMES[objective] for objective in study.objectives)
        what = f"A search for the best {objectives} over {len(record['space'])} values, {record['trials']} trials"
    else:
        what = "A training of one configuration"
    photos = record["photos"]
    text = (
        f"{what}; trained on {photos['train']} photos of {data.photos.key}, validated on {photos['validation']}, "
        f"evaluated on {data.evaluate_on.key}."
    )
    return f"{text} Pairs of noisy and clean photos: {data.pairs.key}." if data.pairs else text


def _result(study: StudyFiles) -> Part:
    averages = f"Averages at mean intensity: {' / '.join(tables.measures_of(study.summary).values())}."
    if study.is_comparison:
        text = [
            "Mean over seeds and sample deviation, on the evaluation photos; seeds that failed are left out. "
            "Differences are to the first arm with the same noise, with their 95 % confidence interval (Welch's "
            "t-test). One interval in twenty excludes 0 by chance where there is no difference."
        ]
        arms = tables.arms_table(study)
        plots = {"PSNR, mean and deviation over seeds": figures.arms_figure(arms)}
        methods = {f"{study.name}-methods": tables.methods_table(study, "evaluation")}
        below = [Part("All seeds and methods", [averages], tables=methods, folded=True)]
        return Part("The arms compared", text, tables={f"{study.name}-arms": arms}, plots=plots, parts=below)
    text = [averages, tables.verdict(study), *filter(None, [tables.gain_text(study)])]
    shown = tables.results(study)
    return Part("The result", text, tables={f"{study.name}-{name}": table for name, table in shown.items()})


def _trust(study: StudyFiles) -> Part:
    """What speaks for and against the result."""
    text = [_best_epoch(system) for system in study.systems()]
    counts = study.trials["state"].value_counts()
    if len(counts):
        text.append(f"Trials: {', '.join(f'{count} {state}' for state, count in counts.items())}.")
    text += [f"{row['trial']} failed: {row['error']}" for row in _failed(study)]
    if len(study.objectives) == 1 and not study.is_comparison:
        objective = OBJECTIVE_NAMES[study.objectives[0]]
        seeds = [
            f"{row['trial']} over {row['seeds']} seeds: {row['mean']:.4g} ± {row['deviation']:.2g}, {objective}."
            for row in study.repeated().to_dict("records")
        ]
        text += seeds or ["No trial was repeated with another seed: the share of luck in the result is unknown."]
    if "collapsed" in study.trials and (collapsed := study.trials["collapsed"].notna().sum()):
        text.append(
            f"In {collapsed} trials the discriminator collapsed: its accuracies were pinned at 0 or 1 for three epochs."
        )
    extremes = tables.best_and_worst(study)
    return Part("How far to trust it", text, tables={} if extremes.empty else {f"{study.name}-photos": extremes})


def _failed(study: StudyFiles) -> list[dict[str, str]]:
    """The first three trials that failed, with their errors."""
    if "error" not in study.trials:
        return []
    rows: list[dict[str, str]] = study.trials.dropna(subset="error").head(3).to_dict("records")  # type: ignore[assignment]
    return rows


def _best_epoch(system: System) -> str:
    if not (best := system.best_epoch):
        return f"{title_of(system)}: failed in its first epoch."
    epochs, last = len(system.epochs), system.epochs["val_psnr"].iloc[-1]
    seed = ", first seed" if len(system.denoisers) > 1 else ""
    text = (
        f"{title_of(system)}{seed}: best epoch {best['epoch']:.0f} of {epochs}, val PSNR {best['val_psnr']:.2f} dB, "
        f"val SSIM {best['val_ssim']:.3f}; the last epoch had {last:.2f} dB."
    )
    clean, denoised = (best.get(f"discriminator_accuracy_{images}", math.nan) for images in ("clean", "denoised"))
    if math.isnan(clean):
        return text
    return f"{text} Discriminator's accuracy there: {clean:.2f} on clean crops, {denoised:.2f} on denoised ones."


def _pictures(study: StudyFiles) -> Part:
    text = ["The slider divides the noisy crop, on the left, from the denoised one; below, all methods side by side."]
    sliders, strips = figures.denoised_pictures(study)
    return Part("Before and after", text if sliders else [], sliders=sliders, pictures=strips)


def _search(study: StudyFiles) -> Iterator[Part]:
    shown = "did not fail, even if pruned" if len(study.objectives) == 1 else "were trained in full"
    text = f"All trials with the scores of their best epochs. The figures show those that {shown}."
    plots = figures.search_figures(study)
    trials = Part("All trials", tables={f"{study.name}-trials": study.trials}, folded=True)
    yield Part("What mattered", [text], plots=plots, parts=[trials])
    if len(study.objectives) > 1:
        text = (
            "The trials on the Pareto front: no other trial is at least as good in every objective and better in one. "
            "The winner is the compromise nearest to the ideal point, which has the best value of each objective; each "
            "is scaled to 0 for its best value on the front and 1 for its worst."
        )
        yield Part("The Pareto front", [text], tables={f"{study.name}-front": tables.front_table(study)})


def _cost(study: StudyFiles) -> Part:
    text = []
    if not study.metrics.empty:
        trials, epochs = study.metrics["trial"].nunique(), len(study.metrics)
        taken = tables.duration(study.metrics["seconds"].sum())
        text.append(
            f"{tables.counted(trials, 'trial')} trained for {tables.counted(epochs, 'epoch')}: {taken}, if they had "
            "run one after the other."
        )
    for system in study.systems():
        if best := system.best_epoch:
            seeds = " for one seed" if len(system.denoisers) > 1 else ""
            cost = f"{tables.duration(system.epochs['seconds'].sum())} of training{seeds}"
            if "operations_per_pixel" in best:
                cost += f", {best['operations_per_pixel']:,.0f} operations per pixel"
            text.append(f"{title_of(system)}: {cost}.")
    versions = ", ".join(f"{name} {version}" for name, version in study.record["versions"].items())
    text.append(f"Started {study.record['started']}; {versions}. Content loss: {study.record['content_loss']}.")
    return Part("What it cost", text)


def _use(study: StudyFiles) -> Part:
    """How to use what was found."""
    names = ["best"]
    if study.is_comparison:
        names = [f"denoisers/{name}" for system in study.systems() for name in system.denoisers[:1]]
    commands = []
    for denoiser in (shlex.quote(str(study.folder.child(name))) for name in names):
        commands.append(f"raygan denoise PHOTO DENOISED --checkpoint {denoiser}")
        commands.append(f"raygan evaluate {denoiser} --evaluate-on PHOTOS")
    return Part("How to use it", commands=commands)


def _of_the_paper(read: Sequence[StudyFiles]) -> Part:
    systems = [system for study in read for system in study.systems()]
    settings = Part("Settings (the paper's Table 7)")
    settings.text = ["The paper's three systems and those trained here, with all other settings in which these differ."]
    settings.tables = {"settings": settings_table({system.name: system.config for system in systems})}
    noises = Part("Clean and noisy (the paper's Figures 2 and 3)", pictures=figures.noise_pictures(read[0]))
    noises.text = ["A clean crop and its noisy versions, each at the mean intensity of its noise."]
    steps = Part("Training, step by step (the paper's Figures 6, 7 and 8)")
    steps.text = ["Generator loss, discriminator losses and accuracies, for the first seed."]
    steps.plots = {"losses and accuracies": figures.steps_figure(systems)}
    scores = [part for study in read for part in _all_scores(study)]
    parts = [settings, noises, *scores, steps, _best_epochs(systems)]
    return Part("The paper's tables and figures, and all scores", parts=parts, folded=True)


def _all_scores(study: StudyFiles) -> Iterator[Part]:
    photo_sets = {str(name): _words(name) for name in study.summary["set"].unique()}
    for system in study.systems():
        if system.denoisers:
            # The paper has no pairs.
            yield from (_scores(study, system, photo_set) for photo_set in photo_sets if photo_set != PAIRS)
        else:
            yield Part(f"{title_of(system)} failed", text=["All seeds failed: there are no scores."])
    measures = " / ".join(tables.measures_of(study.summary).values())
    for photo_set, words in photo_sets.items():
        averages = f"Averages{'' if photo_set == PAIRS else ' at mean intensity'}: {measures}."
        if photo_set.startswith(("evaluation", PAIRS)):
            table = {f"{study.name}-methods-{photo_set}".replace("/", "-"): tables.methods_table(study, photo_set)}
            yield Part(f"{study.name}: all methods on the {words}", text=[averages], tables=table)


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
    return Part(title, [text], tables={name: tables.scores_beside_the_papers(study, system, photo_set)})


def _words(photo_set: str) -> str:
    name, _, folder = photo_set.partition("/")
    return SET_NAMES[name] + (f" in {folder}" if folder else "")


def _best_epochs(systems: Sequence[System]) -> Part:
    metrics = " or ".join(sorted({OBJECTIVE_NAMES[system.study.best_by] for system in systems}))
    text = (
        f"The epoch with the highest {metrics} is kept: the mean over the noises at low, mean and high intensity, on "
        "fixed crops of validation photos with fixed noise; with pairs, the mean over fixed crops of held-out pairs. "
        f"The paper kept epoch {BEST_EPOCH} of 30."
    )
    return Part("Best epoch", [text], plots={"val PSNR over the epochs": figures.epochs_figure(systems)})
