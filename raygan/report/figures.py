"""The figures of a report: interactive plots, and pictures."""

from __future__ import annotations

import io
import itertools
import json
import warnings
from collections.abc import Sequence

import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from PIL import Image
from plotly.subplots import make_subplots

from raygan.study.files import StudyFiles, System
from raygan.study.objectives import LESS_IS_BETTER, MEASURE_NAMES
from raygan.report.tables import KIND_NAMES, METHOD_NAMES
from raygan.config.section import parse_value

PICTURE_SIDE = 256
"""Side in pixels of the crops shown."""
SMOOTHED = 25
"""Steps that a smoothed line averages over."""
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
STEP_ROWS = (
    ("generator loss", {"generator": "generator_loss"}),
    (
        "discriminator loss",
        {"clean": "discriminator_loss_clean", "denoised": "discriminator_loss_denoised"},
    ),
    (
        "discriminator accuracy",
        {"clean": "discriminator_accuracy_clean", "denoised": "discriminator_accuracy_denoised"},
    ),
)


def steps_figure(systems: list[System]) -> go.Figure:
    """Losses and accuracies over the steps (the paper's figures 6, 7 and 8), a column a system, on shared axes.

    Faint as they are, and averaged over the steps around.
    """
    figure = make_subplots(
        rows=len(STEP_ROWS),
        cols=len(systems),
        shared_xaxes=True,
        shared_yaxes=True,
        column_titles=[system.title for system in systems],
        vertical_spacing=0.04,
        horizontal_spacing=0.03,
    )
    for column, system in enumerate(systems, start=1):
        if system.steps.empty:
            continue
        for row, (label, series) in enumerate(STEP_ROWS, start=1):
            for colour, (name, metric) in zip(COLOURS, series.items(), strict=False):
                values = system.steps[metric]
                shown = column == 1 and (row == 2 or name == "generator")
                for line, opacity in ((values, 0.3), (values.rolling(SMOOTHED, min_periods=1, center=True).mean(), 1)):
                    trace = go.Scatter(
                        x=system.steps["step"],
                        y=line,
                        name=name,
                        mode="lines",
                        line={"color": colour, "width": 1 if opacity < 1 else 2},
                        opacity=opacity,
                        legendgroup=name,
                        showlegend=shown and opacity == 1,
                    )
                    figure.add_trace(trace, row=row, col=column)
            if column == 1:
                figure.update_yaxes(title_text=label, row=row, col=1)
        figure.update_xaxes(title_text="step", row=len(STEP_ROWS), col=column)
    # Losses range over decades, and differ so between content losses.
    figure.update_yaxes(type="log", row=1)
    figure.update_yaxes(type="log", range=[-2, 2.5], row=2)
    return figure.update_layout(height=720, margin={"t": 50, "b": 40})


def epochs_figure(systems: list[System]) -> go.Figure:
    """Validation PSNR over the epochs, all kinds and levels averaged, with each system's best epoch marked."""
    figure = go.Figure()
    for index, system in enumerate(systems):
        best = system.best_epoch
        if best is None:
            continue
        epochs, colour = system.epochs, COLOURS[index % len(COLOURS)]
        figure.add_trace(
            go.Scatter(
                x=epochs["epoch"],
                y=epochs["val_psnr"],
                name=system.title,
                mode="lines+markers",
                line={"color": colour},
            )
        )
        figure.add_trace(
            go.Scatter(
                x=[best["epoch"]],
                y=[best["val_psnr"]],
                mode="markers",
                marker={"symbol": "star", "size": 16, "color": colour},
                name=f"best epoch of {system.name}",
                showlegend=False,
            )
        )
    figure.update_xaxes(dtick=-(-max(len(system.epochs) for system in systems) // 12) or 1)
    return figure.update_layout(xaxis_title="epoch", yaxis_title="val PSNR (dB)", height=420, margin={"t": 30})


def arms_figure(table: pd.DataFrame) -> go.Figure:
    """A comparison's arms: mean PSNR over seeds with its deviation, by noise kind, a panel a level."""
    levels = list(table["level"].unique())
    titles = [f"{level} intensity" for level in levels]
    figure = make_subplots(cols=len(levels), shared_yaxes=True, column_titles=titles, horizontal_spacing=0.03)
    for index, (arm, of_arm) in enumerate(table.groupby("arm", sort=False)):
        for column, level in enumerate(levels, start=1):
            rows = of_arm[of_arm["level"] == level]
            bars = go.Bar(
                x=[KIND_NAMES[kind] for kind in rows["kind"]],
                y=rows["psnr_mean"],
                error_y={"type": "data", "array": rows["psnr_deviation"].fillna(0)},
                name=str(arm),
                marker={"color": COLOURS[index % len(COLOURS)]},
                showlegend=column == 1,
            )
            figure.add_trace(bars, row=1, col=column)
    figure.update_yaxes(range=[table["psnr_mean"].min() - 2, table["psnr_mean"].max() + 1])
    figure.update_yaxes(title_text="PSNR (dB)", col=1)
    return figure.update_layout(barmode="group", height=420, margin={"t": 30})


def search_figures(study: StudyFiles) -> dict[str, go.Figure]:
    """Optuna's own figures of a search: history, learning curves, parallel coordinates, importances, ranks.

    Of several objectives they show the first, and one more figure all of them, with the front.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Of a value that few trials have, since it depends on another: its importance is shown as far as it goes.
        warnings.filterwarnings("ignore", message="Some regimes for parameter", category=UserWarning)
        searched = _optuna_study(study, study.objectives[:1])
        score = MEASURE_NAMES[study.objectives[0]]
        figures = {}
        if len(study.objectives) > 1:
            figures["The objectives"] = optuna.visualization.plot_pareto_front(
                _optuna_study(study, study.objectives),
                target_names=[MEASURE_NAMES[objective] for objective in study.objectives],
            )
        figures |= {
            "Optimisation history": optuna.visualization.plot_optimization_history(searched, target_name=score),
            "Learning curves": optuna.visualization.plot_intermediate_values(searched),
            "Parallel coordinates": optuna.visualization.plot_parallel_coordinate(searched, target_name=score),
        }
        scores = {trial.value for trial in searched.get_trials(states=[TrialState.COMPLETE])}
        if len(scores) > 1:
            evaluator = PedAnovaImportanceEvaluator()
            figures["Parameter importances"] = optuna.visualization.plot_param_importances(
                searched, evaluator=evaluator, target_name=score
            )
            pair = _most_important_pair(searched, evaluator)
            if pair is not None:
                figures["The two most important parameters"] = optuna.visualization.plot_rank(
                    searched, params=pair, target_name=score
                )
    return figures


def _most_important_pair(searched: optuna.Study, evaluator: PedAnovaImportanceEvaluator) -> list[str] | None:
    """The two most important parameters that at least two trials have both; none if there are none."""
    trials = [set(trial.params) for trial in searched.get_trials(deepcopy=False)]
    ranked = optuna.importance.get_param_importances(searched, evaluator=evaluator)
    pairs = (list(pair) for pair in itertools.combinations(ranked, 2))
    return next((pair for pair in pairs if sum(params.issuperset(pair) for params in trials) > 1), None)


def _optuna_study(study: StudyFiles, objectives: Sequence[str]) -> optuna.Study:
    """The trials that did not fail, stopped early or not, as an Optuna study, each at its best epoch's scores."""
    space: dict[str, BaseDistribution] = {
        path: json_to_distribution(json.dumps(one)) for path, one in study.record["space"].items()
    }
    less, more = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    directions = [less if objective in LESS_IS_BETTER else more for objective in objectives]
    searched = optuna.create_study(study_name=study.name, directions=directions)
    # A whole number that only some trials have would be read as a fraction.
    for row in study.trials.convert_dtypes().to_dict("records"):
        if row["state"] == "failed" or pd.isna(row["val_psnr"]):
            continue
        epochs = study.metrics[study.metrics["trial"] == row["trial"]]
        searched.add_trial(
            create_trial(
                params={path: parse_value(study.config, path, str(row[path])) for path in space if pd.notna(row[path])},
                distributions={path: one for path, one in space.items() if pd.notna(row[path])},
                values=[row[objective] for objective in objectives],
                intermediate_values=dict(zip(epochs["epoch"], epochs[objectives[0]], strict=True)),
            )
        )
    return searched


def noise_pictures(study: StudyFiles) -> dict[str, bytes]:
    """A clean crop and its three noisy versions at mean intensity (the paper's figures 2 and 3), as JPEG files."""
    pictures = {}
    for image, strips in list(_strips(study, 0).items())[:2]:
        first = next(iter(strips.values()))
        pictures[f"{image}: clean, " + ", ".join(strips)] = _as_jpeg(
            [
                _column(first[0], 0, len(first[1])),
                *(_column(strip, 1, len(methods)) for strip, methods in strips.values()),
            ]
        )
    return pictures


def denoised_pictures(study: StudyFiles) -> dict[str, bytes]:
    """Crops of clean, noisy, and each method's result side by side, as JPEG files."""
    # Of several seeds the first is shown.
    others = {method for system in study.systems() for method in system.denoisers[1:]}
    pictures = {}
    tasks = study.per_image["task"].unique()
    for image, strips in (item for task in tasks for item in _strips(study, task).items()):
        for label, (strip, methods) in strips.items():
            shown = [(index, method) for index, method in enumerate(methods) if method not in others]
            names = ", ".join(METHOD_NAMES.get(method, method) for _, method in shown)
            pictures[f"{image}, {label}: {names}"] = _as_jpeg(
                [_column(strip, index, len(methods)) for index, _ in shown]
            )
    return pictures


def _strips(study: StudyFiles, task: int) -> dict[str, dict[str, tuple[Image.Image, list[str]]]]:
    """The evaluation's pictures of a noise task by photo, then kind, with what stands side by side in each."""
    rows = study.per_image[study.per_image["picture"].notna() & (study.per_image["task"] == task)]
    strips: dict[str, dict[str, tuple[Image.Image, list[str]]]] = {}
    for (picture, image, kind, intensity), group in rows.groupby(["picture", "image", "kind", "intensity"], sort=False):
        strip = Image.open(io.BytesIO(study.folder.read(f"evaluation/pictures/{picture}")))
        strips.setdefault(str(image), {})[f"{KIND_NAMES[str(kind)]} {intensity:g}"] = (
            strip,
            ["clean", *group["method"]],
        )
    return strips


def _column(strip: Image.Image, index: int, columns: int) -> Image.Image:
    """The middle of one of the images that stand side by side."""
    width, height = strip.width // columns, strip.height
    side = min(width, height, PICTURE_SIDE)
    left, top = index * width + (width - side) // 2, (height - side) // 2
    return strip.crop((left, top, left + side, top + side))


def _as_jpeg(crops: list[Image.Image]) -> bytes:
    joined = Image.new("RGB", (sum(crop.width for crop in crops), crops[0].height))
    left = 0
    for crop in crops:
        joined.paste(crop, (left, 0))
        left += crop.width
    file = io.BytesIO()
    # Without subsampling, which would blur the noise's colours.
    joined.save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()
