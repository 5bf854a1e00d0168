"""What a report of one or several studies says: the paper's tables and figures, and the studies' own."""

from __future__ import annotations

from collections.abc import Sequence

from raygan.report.figures import (
    arms_figure,
    denoised_pictures,
    epochs_figure,
    noise_pictures,
    search_figures,
    steps_figure,
)
from raygan.study.files import ReportError, StudyFiles, System
from raygan.report.interaction import MEANING, interactions_table
from raygan.report.page import Part, write_report
from raygan.report.paper import BEST_EPOCH, paper_table, settings_table
from raygan.report.tables import (
    MEASURES,
    VGG_DISTANCE,
    arms_table,
    front_table,
    measures_of,
    methods_table,
    scores_beside_the_papers,
)
from raygan.study.storage import Folder

SET_NAMES = {
    "training": "training photos (one fixed crop of each)",
    "validation": "validation photos (one fixed crop of each)",
    "evaluation": "evaluation photos",
}


def report(studies: Sequence[Folder], output: Folder | None = None) -> Folder:
    """Write the report of finished studies, into the first one's `report/` if nothing else is said; returns where.

    Raises `ReportError` where a folder holds no finished study, or two hold studies of the same name.
    """
    read = [StudyFiles.finished(folder) for folder in studies]
    names = [study.name for study in read]
    if len(set(names)) < len(names):
        raise ReportError(f"studies that share a report need different names, but these are {', '.join(names)}")
    systems = [system for study in read for system in study.systems()]
    parts = [
        Part(
            "Settings (the paper's Table 7)",
            text=["The paper's three systems, what was trained here, and in what else that differs."],
            tables={"settings": settings_table({system.name: system.config for system in systems})},
        ),
        Part(
            "Clean and noisy (the paper's Figures 2 and 3)",
            text=["A clean crop and its noisy versions, at each kind's mean intensity."],
            pictures=noise_pictures(read[0]),
        ),
    ]
    for study in read:
        parts += _of_study(study)
    parts.append(
        Part(
            "Training, step by step (the paper's Figures 6, 7 and 8)",
            text=["Generator loss, discriminator losses and accuracies; of several seeds, the first."],
            plots={"losses and accuracies": steps_figure(systems)},
        )
    )
    parts.append(_best_epochs(systems))
    output = output or studies[0].child("report")
    write_report(output, "RayGAN: " + ", ".join(names), parts)
    return output


def _of_study(study: StudyFiles) -> list[Part]:
    data = study.config.data
    versions = ", ".join(f"{name} {version}" for name, version in study.record["versions"].items())
    about = [
        f"Trained on {study.record['photos']['train']} photos of {data.photos}, validated on "
        f"{study.record['photos']['validation']}, evaluated on {data.evaluate_on}. Scores are PSNR in dB and SSIM.",
        f"Content loss: {study.record['content_loss']}.",
        f"Started {study.record['started']}; versions: {versions}.",
    ]
    parts = [Part(f"Study {study.name}", text=about)]
    photo_sets = list(study.summary["set"].unique())
    for system in study.systems():
        if system.denoisers:
            parts += [_scores(study, system, photo_set) for photo_set in photo_sets]
        else:
            parts.append(Part(f"{system.title} failed", depth=3, text=["With every seed: there are no scores."]))
    parts += [
        Part(
            f"{study.name}: all methods on the {_words(photo_set)}",
            depth=3,
            text=[
                "Averages at mean intensity, PSNR / SSIM."
                if measures_of(study) == MEASURES
                else f"Averages at mean intensity, PSNR / SSIM / vgg_distance. {VGG_DISTANCE}"
            ],
            tables={f"{study.name}-methods-{photo_set}".replace("/", "-"): methods_table(study, photo_set)},
        )
        for photo_set in photo_sets
        if photo_set.startswith("evaluation")
    ]
    if study.arms is not None:
        arms = arms_table(study)
        parts.append(
            Part(
                f"{study.name}: the arms compared",
                depth=3,
                text=[
                    "Mean over seeds and sample deviation, on the evaluation photos; seeds that failed are left out. "
                    "Differences are to the first arm with the same noise, with their 95 % interval (Welch). An "
                    "interval that leaves out 0 does so by chance once in twenty times."
                ],
                tables={f"{study.name}-arms": arms},
                plots={"PSNR, mean and deviation over seeds": arms_figure(arms)},
            )
        )
    elif study.record["trials"]:
        parts.append(
            Part(
                f"{study.name}: the search",
                depth=3,
                text=["Every trial that did not fail, at its best epoch, whether stopped early or not."],
                tables={f"{study.name}-trials": study.trials},
                plots=search_figures(study),
            )
        )
        if len(study.objectives) > 1:
            parts.append(_objectives(study))
        parts.append(_interactions(study))
    parts.append(Part(f"{study.name}: before and after", depth=3, pictures=denoised_pictures(study)))
    return parts


def _objectives(study: StudyFiles) -> Part:
    text = [
        "The trials that no other beats: none is at least as good in every objective and better in one. The winner is "
        "the compromise, nearest to the best value of each at once, where each is counted from 0, its best on the "
        "front, to 1, its worst there."
    ]
    return Part(f"{study.name}: the front", depth=3, text=text, tables={f"{study.name}-front": front_table(study)})


def _interactions(study: StudyFiles) -> Part:
    table = interactions_table(study)
    title = f"{study.name}: how parameters interact"
    if table.empty:
        needed = "Too few trials to tell: a pair needs two for each term of its model, which for two numbers makes 12."
        return Part(title, depth=3, text=[needed])
    return Part(title, depth=3, text=[MEANING], tables={f"{study.name}-interactions": table})


def _scores(study: StudyFiles, system: System, photo_set: str) -> Part:
    """A system's scores on one set of photos, beside the paper's."""
    title = f"{system.title}: {_words(photo_set)}"
    chosen = study.summary[(study.summary["set"] == photo_set) & study.summary["method"].isin(system.denoisers)]
    text = f"{chosen['images'].max()} images."
    if len(system.denoisers) > 1:
        text += f" Averages over {len(system.denoisers)} seeds."
    paper = paper_table(system.config, photo_set.partition("/")[0])
    if paper is None:
        text += " The paper has no scores for this noise."
    else:
        title += f", beside the paper's Table {paper.number}"
        text += f" The paper's are of its {paper.system} on its {paper.photos}."
    name = f"{study.name}-{system.arm}-{photo_set}".replace("/", "-").replace(" ", "-")
    return Part(title, depth=3, text=[text], tables={name: scores_beside_the_papers(study, system, photo_set)})


def _words(photo_set: str) -> str:
    name, _, folder = photo_set.partition("/")
    return SET_NAMES[name] + (f" in {folder}" if folder else "")


def _best_epochs(systems: Sequence[System]) -> Part:
    text = [
        "The epoch that is kept is the one with the highest val PSNR: the mean over the noise kinds at the low end, "
        "the mean and the high end of their intensities, on fixed crops of validation photos with fixed noise. "
        f"The paper kept epoch {BEST_EPOCH} of 30."
    ]
    for system in systems:
        best = system.best_epoch
        if best is None:
            text.append(f"{system.title}: failed in its first epoch.")
            continue
        text.append(
            f"{system.title}: epoch {best['epoch']:.0f} of {len(system.epochs)}, val PSNR {best['val_psnr']:.2f} dB, "
            f"val SSIM {best['val_ssim']:.3f}; the last epoch had {system.epochs['val_psnr'].iloc[-1]:.2f} dB."
        )
    return Part("Best epoch", text=text, plots={"val PSNR over the epochs": epochs_figure(list(systems))})
