"""The figures of a report: interactive plots, and pictures."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Sequence

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState
from PIL import Image
from plotly import express
from plotly.subplots import make_subplots

from raygan.report.paper import title_of
from raygan.report.tables import kind_name, method_name
from raygan.study.objectives import OBJECTIVE_NAMES
from raygan.study.reader import StudyFiles, System

PICTURE_SIDE = 256
"""Side in pixels of the crops shown."""
SMOOTHING = 25
"""Number of steps that a smoothed line averages over."""
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
STEP_ROWS = {
    "generator loss": {"generator": "generator_loss"},
    "discriminator loss": {"clean": "discriminator_loss_clean", "denoised": "discriminator_loss_denoised"},
    "discriminator accuracy": {"clean": "discriminator_accuracy_clean", "denoised": "discriminator_accuracy_denoised"},
}


def steps_figure(systems: Sequence[System]) -> go.Figure:
    """Losses and accuracies over the steps (the paper's figures 6, 7 and 8), one column per system, on shared axes.

    Each series has a faint line, and a line of its moving average.
    """
    figure = make_subplots(
        rows=len(STEP_ROWS),
        cols=len(systems),
        shared_xaxes=True,
        shared_yaxes=True,
        row_titles=list(STEP_ROWS),
        column_titles=[title_of(system) for system in systems],
        vertical_spacing=0.04,
        horizontal_spacing=0.03,
    )
    shown = set()
    for (row, series), (column, system) in itertools.product(enumerate(STEP_ROWS.values(), 1), enumerate(systems, 1)):
        if system.steps.empty:
            continue
        for colour, (name, metric) in zip(COLOURS, series.items(), strict=False):
            values = system.steps[metric]
            smooth = values.rolling(SMOOTHING, min_periods=1, center=True).mean()
            for line, width, opacity in ((values, 1, 0.3), (smooth, 2, 1.0)):
                figure.add_scatter(
                    x=system.steps["step"],
                    y=line,
                    name=name,
                    mode="lines",
                    line={"color": colour, "width": width},
                    opacity=opacity,
                    legendgroup=name,
                    showlegend=opacity == 1 and name not in shown,
                    row=row,
                    col=column,
                )
            shown.add(name)
    figure.update_xaxes(title_text="step", row=len(STEP_ROWS))
    # Losses range over decades, and differ by as much between content losses.
    figure.update_yaxes(type="log", row=1)
    figure.update_yaxes(type="log", range=[-2, 2.5], row=2)
    return figure.update_layout(height=720, margin={"t": 50, "b": 40})


def epochs_figure(systems: Sequence[System]) -> go.Figure:
    """Validation PSNR over the epochs, averaged over all noises and levels, with the best epoch of each system."""
    figure = go.Figure()
    for colour, system in zip(itertools.cycle(COLOURS), systems, strict=False):
        if best := system.best_epoch:
            epochs, line = system.epochs, {"mode": "lines+markers", "line_color": colour}
            figure.add_scatter(x=epochs["epoch"], y=epochs["val_psnr"], name=title_of(system), **line)
            star = {"mode": "markers", "marker": {"symbol": "star", "size": 16, "color": colour}, "showlegend": False}
            name = f"best epoch of {system.name}"
            figure.add_scatter(x=[best["epoch"]], y=[best["val_psnr"]], name=name, **star)
    figure.update_xaxes(dtick=-(-max(len(system.epochs) for system in systems) // 12) or 1)
    return figure.update_layout(xaxis_title="epoch", yaxis_title="val PSNR (dB)", height=420, margin={"t": 30})


def arms_figure(table: pd.DataFrame) -> go.Figure:
    """A comparison's arms: mean PSNR over seeds with its deviation by noise, one panel per level."""
    figure = express.bar(
        table.assign(noise=table["kind"].map(kind_name), intensity=table["level"]),
        x="noise",
        y="psnr_mean",
        error_y="psnr_deviation",
        color="arm",
        facet_col="intensity",
        barmode="group",
        labels={"psnr_mean": "PSNR (dB)", "noise": ""},
        color_discrete_sequence=COLOURS,
    )
    figure.update_yaxes(range=[table["psnr_mean"].min() - 2, table["psnr_mean"].max() + 1])
    return figure.update_layout(height=420, margin={"t": 30}, legend_title_text="")


def search_figures(study: StudyFiles) -> dict[str, go.Figure]:
    """Optuna's figures of a search: history, learning curves, parallel coordinates, importances, ranks.

    For several objectives they show the first; one more figure shows the Pareto front.
    """
    score = OBJECTIVE_NAMES[study.objectives[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # For a conditional parameter, which few trials have: its importance is shown as far as it is known.
        warnings.filterwarnings("ignore", message="Some regimes for parameter", category=UserWarning)
        searched = _all_complete(study.optuna_study(study.objectives[:1]))
        figures = {}
        if len(study.objectives) > 1:
            names = [OBJECTIVE_NAMES[objective] for objective in study.objectives]
            figures["The objectives"] = optuna.visualization.plot_pareto_front(
                _all_complete(study.optuna_study()), target_names=names
            )
        figures |= {
            "Optimization history": optuna.visualization.plot_optimization_history(searched, target_name=score),
            "Learning curves": optuna.visualization.plot_intermediate_values(searched),
            "Parallel coordinates": optuna.visualization.plot_parallel_coordinate(searched, target_name=score),
        }
        if len({trial.value for trial in searched.get_trials(deepcopy=False)}) > 1:
            evaluator = PedAnovaImportanceEvaluator()
            figures["Parameter importances"] = optuna.visualization.plot_param_importances(
                searched, evaluator=evaluator, target_name=score
            )
            if pair := _most_important_pair(searched, evaluator):
                figures["The two most important parameters"] = optuna.visualization.plot_rank(
                    searched, params=pair, target_name=score
                )
    return figures


def _all_complete(searched: optuna.Study) -> optuna.Study:
    """The study with its pruned trials as complete ones, for Optuna's figures, which leave pruned trials out."""
    shown = optuna.create_study(study_name=searched.study_name, directions=searched.directions)
    for trial in searched.get_trials():
        trial.state = TrialState.COMPLETE
        shown.add_trial(trial)
    return shown


def _most_important_pair(searched: optuna.Study, evaluator: PedAnovaImportanceEvaluator) -> list[str] | None:
    """The two most important parameters that at least two trials both have; None if there are none."""
    trials = [set(trial.params) for trial in searched.get_trials(deepcopy=False)]
    ranked = optuna.importance.get_param_importances(searched, evaluator=evaluator)
    pairs = (list(pair) for pair in itertools.combinations(ranked, 2))
    return next((pair for pair in pairs if sum(params.issuperset(pair) for params in trials) > 1), None)


def noise_pictures(study: StudyFiles) -> dict[str, bytes]:
    """A clean crop and its noisy versions at mean intensity (the paper's figures 2 and 3), as JPEG files."""
    pictures = {}
    for image, noises in itertools.islice(_crops(study, 0).items(), 2):
        clean = next(iter(noises.values()))["clean"]
        pictures[f"{image}: clean, " + ", ".join(noises)] = _as_jpeg(
            [clean, *(one["noisy"] for one in noises.values())]
        )
    return pictures


def denoised_pictures(study: StudyFiles) -> dict[str, bytes]:
    """Crops of the clean image, the noisy one, and each method's result side by side, as JPEG files."""
    # Only the first of several seeds is shown.
    others = {method for system in study.systems() for method in system.denoisers[1:]}
    pictures = {}
    for task in study.per_image["task"].unique():
        for image, noises in _crops(study, task).items():
            for noise, crops in noises.items():
                shown = {method_name(method): crop for method, crop in crops.items() if method not in others}
                pictures[f"{image}, {noise}: {', '.join(shown)}"] = _as_jpeg(list(shown.values()))
    return pictures


def _crops(study: StudyFiles, task: int) -> dict[str, dict[str, dict[str, NDArray[np.uint8]]]]:
    """The middle of the evaluation's pictures of a noise task: by photo, noise, and method or "clean"."""
    rows = study.per_image[study.per_image["picture"].notna() & (study.per_image["task"] == task)]
    crops: dict[str, dict[str, dict[str, NDArray[np.uint8]]]] = {}
    for (picture, image, kind, intensity), group in rows.groupby(["picture", "image", "kind", "intensity"], sort=False):
        strip = np.asarray(Image.open(io.BytesIO(study.folder.read(f"evaluation/pictures/{picture}"))))
        names = ["clean", *group["method"]]
        images = np.split(strip, len(names), axis=1)
        side = min(*images[0].shape[:2], PICTURE_SIDE)
        top, left = ((size - side) // 2 for size in images[0].shape[:2])
        middles = [one[top : top + side, left : left + side] for one in images]
        crops.setdefault(str(image), {})[f"{kind_name(str(kind))} {intensity:g}"] = dict(
            zip(names, middles, strict=True)
        )
    return crops


def _as_jpeg(crops: list[NDArray[np.uint8]]) -> bytes:
    file = io.BytesIO()
    # Without chroma subsampling, which would blur the noise's colours.
    Image.fromarray(np.hstack(crops)).save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()
