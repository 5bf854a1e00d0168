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
from raygan.report.files import StudyFiles, System
from raygan.report.page import Part, write_report
from raygan.report.paper import BEST_EPOCH, paper_table, settings_table
from raygan.report.tables import arms_table, methods_table, scores_beside_the_papers
from raygan.storage import Folder

SET_NAMES = {
    "training": "training photos (one fixed crop of each)",
    "validation": "validation photos (one fixed crop of each)",
    "evaluation": "evaluation photos",
}


def report(studies: Sequence[Folder], output: Folder | None = None) -> Folder:
    """Write the report of finished studies, into the first one's `report/` if nothing else is said; returns where.

    Raises `ReportError` where a folder holds no finished study.
    """
    read = [StudyFiles(folder) for folder in studies]
    systems = [system for study in read for system in study.systems()]
    parts = [
        Part(
            "Settings (the paper's Table 7)",
            text=["The paper's three systems, and what was trained here."],
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
    write_report(output, "RayGAN: " + ", ".join(study.name for study in read), parts)
    return output


def _of_study(study: StudyFiles) -> list[Part]:
    data = study.config.data
    about = [
        f"Trained on {study.record['photos']['train']} photos of {data.photos}, validated on "
        f"{study.record['photos']['validation']}, evaluated on {data.evaluate_on}. Scores are PSNR in dB and SSIM.",
        f"Content loss: {study.record['content_loss']}.",
        f"Started {study.record['started']}; versions: "
        + ", ".join(f"{name} {version}" for name, version in study.record["versions"].items())
        + ".",
    ]
    parts = [Part(f"Study {study.name}", text=about)]
    sets = list(study.summary["set"].unique())
    for system in study.systems():
        for photos in sets:
            if not system.methods:
                parts.append(Part(f"{system.title} diverged", level=3, text=["With every seed: there are no scores."]))
                break
            part, _, folder = photos.partition("/")
            paper = paper_table(system.config, part)
            name = SET_NAMES[part] + (f" in {folder}" if folder else "")
            chosen = study.summary[(study.summary["set"] == photos) & study.summary["method"].isin(system.methods)]
            text = f"{chosen['images'].max()} images; the paper's {paper.title}."
            if len(system.methods) > 1:
                text += f" Averages over {len(system.methods)} seeds."
            parts.append(
                Part(
                    f"{system.title}: {name}, beside the paper's Table {paper.number}",
                    level=3,
                    text=[text],
                    tables={
                        f"{study.name}-{system.arm}-{photos}".replace("/", "-").replace(
                            ", ", "-"
                        ): scores_beside_the_papers(study, system, photos)
                    },
                )
            )
    parts.append(
        Part(
            f"{study.name}: all methods",
            level=3,
            text=["Averages over the evaluation photos at mean intensity, PSNR / SSIM."],
            tables={f"{study.name}-methods": methods_table(study, "evaluation")},
        )
    )
    if study.arms is not None:
        arms = arms_table(study)
        parts.append(
            Part(
                f"{study.name}: the arms compared",
                level=3,
                text=[
                    "Mean over seeds and sample deviation, on the evaluation photos. Differences are to the first arm "
                    "with the same noise, with their 95 % interval (Welch): one that leaves out 0 is more than luck."
                ],
                tables={f"{study.name}-arms": arms},
                plots={"PSNR at mean intensity": arms_figure(arms)},
            )
        )
    elif study.record["trials"]:
        parts.append(
            Part(
                f"{study.name}: the search",
                level=3,
                text=["Every trial that did not fail, at its best epoch, whether stopped early or not."],
                tables={f"{study.name}-trials": study.trials},
                plots=search_figures(study),
            )
        )
    parts.append(Part(f"{study.name}: before and after", level=3, pictures=denoised_pictures(study)))
    return parts


def _best_epochs(systems: Sequence[System]) -> Part:
    text = [
        "The epoch that is kept is the one with the highest val PSNR: the mean over the noise kinds at the low end, "
        "the mean and the high end of their intensities, on fixed crops of validation photos with fixed noise. "
        f"The paper kept epoch {BEST_EPOCH} of 30."
    ]
    for system in systems:
        best = system.best_epoch
        if best is None:
            text.append(f"{system.title}: diverged in its first epoch.")
            continue
        text.append(
            f"{system.title}: epoch {best['epoch']:.0f} of {len(system.epochs)}, val PSNR {best['val_psnr']:.2f} dB, "
            f"val SSIM {best['val_ssim']:.3f}; the last epoch had {system.epochs['val_psnr'].iloc[-1]:.2f} dB."
        )
    return Part("Best epoch", text=text, plots={"val PSNR over the epochs": epochs_figure(list(systems))})
