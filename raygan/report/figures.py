"""The figures of a report: interactive plots, and pictures."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

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

from raygan.config.run import PAIRS
from raygan.report.paper import title_of
from raygan.report.tables import KIND_NAMES, METHOD_NAMES
from raygan.study.objectives import OBJECTIVE_NAMES
from raygan.study.reader import StudyFiles, System

PICTURE_SIDE, STRIP_SIDE = 256, 160
"""Sides in pixels of the crops shown with a slider, and of those in strips: noise takes many bytes."""
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
    titles = {"row_titles": list(STEP_ROWS), "column_titles": [title_of(system) for system in systems]}
    # plotly refuses more than the width has room for.
    spacing = {"vertical_spacing": 0.04, "horizontal_spacing": min(0.03, 0.5 / len(systems))}
    figure = make_subplots(len(STEP_ROWS), len(systems), shared_xaxes=True, shared_yaxes=True, **titles, **spacing)
    shown: set[str] = set()
    for (row, series), (col, system) in itertools.product(enumerate(STEP_ROWS.values(), 1), enumerate(systems, 1)):
        for color, (name, metric) in zip(COLOURS, () if system.steps.empty else series.items(), strict=False):
            steps, values = system.steps["step"], system.steps[metric]
            smooth = values.rolling(SMOOTHING, min_periods=1, center=True).mean()
            line = {"name": name, "legendgroup": name, "mode": "lines", "line_color": color, "row": row, "col": col}
            figure.add_scatter(x=steps, y=values, line_width=1, opacity=0.3, showlegend=False, **line)
            figure.add_scatter(x=steps, y=smooth, line_width=2, showlegend=name not in shown, **line)
            shown.add(name)
    figure.update_xaxes(title_text="step", row=len(STEP_ROWS))
    # Losses range over decades, and differ by as much between content losses.
    figure.update_yaxes(type="log", row=1)
    figure.update_yaxes(type="log", range=[-2, 2.5], row=2)
    return figure.update_layout(height=720, margin={"t": 50, "b": 40})


def epochs_figure(systems: Sequence[System]) -> go.Figure:
    """Validation PSNR over the epochs, as trials are judged, with the best epoch of each system."""
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
    columns = {"x": "kind", "y": "psnr_mean", "error_y": "psnr_deviation", "color": "arm", "facet_col": "level"}
    style = {"barmode": "group", "color_discrete_sequence": COLOURS}
    labels = {"psnr_mean": "PSNR (dB)", "kind": "", "level": "intensity"}
    figure = express.bar(table.replace({"kind": KIND_NAMES}), **columns, **style, labels=labels)
    figure.update_yaxes(range=[table["psnr_mean"].min() - 2, table["psnr_mean"].max() + 1])
    return figure.update_layout(height=420, margin={"t": 30}, legend_title_text="")


def search_figures(study: StudyFiles) -> dict[str, go.Figure]:
    """Optuna's figures of a search: history, learning curves, parallel coordinates, importances, ranks.

    For several objectives they show the first; one more figure shows the Pareto front.
    """
    names = [OBJECTIVE_NAMES[objective] for objective in study.objectives]
    plots, score = optuna.visualization, names[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # For a conditional parameter, which few trials have: its importance is shown as far as it is known.
        warnings.filterwarnings("ignore", message="Some regimes for parameter", category=UserWarning)
        searched = _all_complete(study, study.objectives[:1])
        figures = {}
        if len(names) > 1:
            several = _all_complete(study, study.objectives)
            figures["The objectives"] = plots.plot_pareto_front(several, target_names=names)
        figures |= {
            "Optimization history": _over_whole_numbers(
                plots.plot_optimization_history(searched, target_name=score), "trial", len(searched.trials)
            ),
            "Learning curves": _over_whole_numbers(
                plots.plot_intermediate_values(searched), "epoch", int(study.metrics["epoch"].max())
            ).update_yaxes(title_text=score),
            "Learning curves by time": _curves_by_time(study),
            "Parallel coordinates": plots.plot_parallel_coordinate(searched, target_name=score),
        }
        if len({trial.value for trial in searched.trials}) > 1:
            evaluator = PedAnovaImportanceEvaluator()
            importances = plots.plot_param_importances(searched, evaluator=evaluator, target_name=score)
            figures["Parameter importances"] = importances.update_yaxes(title_text=None)
            # The two most important ones that at least two trials both have.
            ranked = optuna.importance.get_param_importances(searched, evaluator=evaluator)
            for pair in map(list, itertools.combinations(ranked, 2)):
                if sum(trial.params.keys() >= set(pair) for trial in searched.trials) > 1:
                    rank = plots.plot_rank(searched, params=pair, target_name=score)
                    return figures | {"The two most important parameters": rank}
    return figures


def _over_whole_numbers(figure: go.Figure, name: str, most: int) -> go.Figure:
    """The figure with at most a dozen whole numbers below it."""
    return figure.update_xaxes(title_text=name, dtick=-(-most // 12))


def _curves_by_time(study: StudyFiles) -> go.Figure:
    """The first objective's best so far over the seconds that each trial has trained: epochs of networks differ."""
    figure, objective = go.Figure(), study.objectives[0]
    good = study.good_trials()["trial"]
    for name, epochs in study.metrics[study.metrics["trial"].isin(good)].sort_values("epoch").groupby("trial"):
        seconds, scores = epochs["seconds"].cumsum(), epochs[objective].cummax()
        figure.add_scatter(x=seconds, y=scores, name=str(name), mode="lines+markers")
    return figure.update_layout(xaxis_title="seconds of training", yaxis_title=f"best {OBJECTIVE_NAMES[objective]}")


def _all_complete(study: StudyFiles, objectives: Sequence[str]) -> optuna.Study:
    """A search with its pruned trials as complete ones, for Optuna's figures, which leave pruned trials out."""
    searched = study.optuna_study(objectives)
    shown = optuna.create_study(study_name=searched.study_name, directions=searched.directions)
    for trial in searched.get_trials():
        trial.state = TrialState.COMPLETE
        shown.add_trial(trial)
    return shown


def noise_pictures(study: StudyFiles) -> dict[str, bytes]:
    """A clean crop and its noisy versions at mean intensity (the paper's figures 2 and 3), as JPEG files."""
    photos: dict[str, dict[str, NDArray[np.uint8]]] = {}
    for image, noise, crops in _crops(study, study.per_image[study.per_image["task"] == 0]):
        photos.setdefault(image, {"clean": crops["clean"]})[noise] = crops["noisy"]
    first = itertools.islice(photos.items(), 2)
    return {f"{image}: {', '.join(crops)}": _strip(crops.values()) for image, crops in first}


def denoised_pictures(study: StudyFiles) -> tuple[dict[str, tuple[bytes, bytes]], dict[str, bytes]]:
    """For each noise, a noisy crop and what the first denoiser makes of it; and strips of crops, all JPEG files.

    A strip has the clean image, the noisy one, and each method's result side by side; its caption says which are of the
    photos that the first denoiser denoises worst and best.
    """
    extremes = _extremes(study)
    systems = {method: system for system in study.systems() for method in system.denoisers}
    # Only the first of several seeds is shown.
    others = {method for system in study.systems() for method in system.denoisers[1:]}
    pairs: dict[str, tuple[bytes, bytes]] = {}
    strips, seen = {}, set[str]()
    for image, noise, crops in _crops(study, study.per_image):
        method = next((method for method in systems if method in crops), None)
        if method is not None and noise not in seen:
            seen.add(noise)
            arm = systems[method].arm
            pairs[f"{image}, {noise}{arm and f': {arm}'}"] = (_as_jpeg([crops["noisy"]]), _as_jpeg([crops[method]]))
        shown = {METHOD_NAMES.get(method, method): crop for method, crop in crops.items() if method not in others}
        strips[f"{image}, {noise}{extremes.get((image, noise), '')}: {', '.join(shown)}"] = _strip(shown.values())
    return pairs, strips


def _extremes(study: StudyFiles) -> dict[tuple[str, str], str]:
    """What to say of the worst and the best photo, by photo and noise."""
    method = next((name for system in study.systems() for name in system.denoisers), "")
    rows = study.per_image[(study.per_image["method"] == method) & (study.per_image["level"] == "mean")]
    rows = rows[rows["set"].isin(("evaluation", PAIRS))].replace({"kind": KIND_NAMES})
    found = dict[tuple[str, str], str]()
    for (kind, intensity), group in rows.groupby(["kind", "intensity"], dropna=False):
        images = group.sort_values("psnr")["image"].astype(str).tolist()
        if len(images) > 1:
            noise = _noise_text(kind, intensity)
            found |= {(images[0], noise): " (worst photo)", (images[-1], noise): " (best photo)"}
    return found


def _noise_text(kind: Any, intensity: Any) -> str:
    return str(kind) if kind == KIND_NAMES[PAIRS] else f"{kind} {intensity:g}"


def _crops(study: StudyFiles, rows: pd.DataFrame) -> Iterator[tuple[str, str, dict[str, NDArray[np.uint8]]]]:
    """The middle of each picture of these rows of `per_image`: photo, noise, and crops by method or "clean"."""
    rows = rows.replace({"kind": KIND_NAMES}).dropna(subset="picture")
    for (picture, image, kind, intensity), group in rows.groupby(
        ["picture", "image", "kind", "intensity"], sort=False, dropna=False
    ):
        strip = np.asarray(
            Image.open(io.BytesIO(study.folder.read(f"evaluation/pictures/{PurePath(str(picture)).name}")))
        )
        names = ["clean", *group["method"]]
        height, width = strip.shape[0], strip.shape[1] // len(names)
        side = min(height, width, PICTURE_SIDE)
        top, left = (height - side) // 2, (width - side) // 2
        # Copies, which do not keep the whole strip in memory.
        parts = np.split(strip, len(names), axis=1)
        middles = [part[top : top + side, left : left + side].copy() for part in parts]
        yield str(image), _noise_text(kind, intensity), dict(zip(names, middles, strict=True))


def _strip(crops: Iterable[NDArray[np.uint8]]) -> bytes:
    """The middles of crops, side by side."""
    return _as_jpeg(map(_middle, crops))


def _middle(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    margin = max(0, (len(crop) - STRIP_SIDE) // 2)
    return crop[margin : len(crop) - margin, margin : len(crop) - margin]


def _as_jpeg(crops: Iterable[NDArray[np.uint8]]) -> bytes:
    file = io.BytesIO()
    # Without chroma subsampling, which would blur the noise's colours.
    Image.fromarray(np.hstack(list(crops))).save(file, "JPEG", quality=85, subsampling=0)
    return file.getvalue()
