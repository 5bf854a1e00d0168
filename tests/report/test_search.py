"""A search, read from its folder: as an Optuna study, in figures, pictures, and in the terminal."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from optuna.trial import TrialState
from PIL import Image
from report.hand_written import write_evaluation, write_study, write_table

from raygan.noise import Gaussian
from raygan.report.figures import denoised_pictures, noise_pictures, search_figures
from raygan.report.tables import front_table, verdict
from raygan.report.terminal import final_report
from raygan.search.space import When, space_to_json
from raygan.study.reader import StudyFiles

RATE, DISCRIMINATOR, LAYERS = "optimizers/generator/learning_rate", "discriminator", "discriminator/layers"
SPACE = {
    RATE: FloatDistribution(1e-4, 1e-2, log=True),
    DISCRIMINATOR: CategoricalDistribution(["SingleScore", "PatchGAN"]),
    LAYERS: When(DISCRIMINATOR, "PatchGAN", IntDistribution(1, 5)),
}
PAIR = "The two most important parameters"


def write_search(
    folder: Path, trials: list[tuple[str, float, float, float, int | None]], **record: object
) -> StudyFiles:
    """Trials of a state, val PSNR, operations per pixel, learning rate, and layers of a PatchGAN; two epochs each."""
    study = write_study(folder, space=space_to_json(SPACE), trials=len(trials), **record)
    rows, epochs = [], []
    for number, (state, psnr, operations, rate, layers) in enumerate(trials, start=1):
        values = {RATE: rate, DISCRIMINATOR: "PatchGAN" if layers else "SingleScore", LAYERS: layers}
        name = {"trial": f"trial-{number:04d}"}
        rows.append(name | {"state": state, "epochs": 2, "val_psnr": psnr, "operations_per_pixel": operations} | values)
        shared = name | {"val_ssim": 0.5, "seconds": 2.0}
        epochs += [shared | {"epoch": 1, "val_psnr": psnr}, shared | {"epoch": 2, "val_psnr": psnr - 1}]
    write_table(study, "trials.csv", rows)
    write_table(study, "metrics.csv", epochs)
    return StudyFiles(study)


@pytest.fixture
def searched(tmp_path: Path) -> StudyFiles:
    trials = [
        ("complete", 20.0, 100.0, 1e-4, None),
        ("failed", 50.0, 1.0, 1e-3, 3),
        ("pruned", 21.0, 90.0, 0.1234567890123456789e-2, 2),
        ("running", float("nan"), 90.0, 1e-3, 2),
    ]
    return write_search(tmp_path / "searched", trials)


def test_optuna_study_has_complete_and_pruned_trials(searched: StudyFiles) -> None:
    complete, pruned = searched.optuna_study().get_trials()
    assert (complete.state, pruned.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert (complete.values, pruned.values) == ([20.0], [21.0])
    assert complete.params == {RATE: 1e-4, DISCRIMINATOR: "SingleScore"}
    assert pruned.params == {RATE: 0.1234567890123456789e-2, DISCRIMINATOR: "PatchGAN", LAYERS: 2}
    assert isinstance(pruned.params[LAYERS], int)
    assert pruned.distributions == {
        RATE: SPACE[RATE],
        DISCRIMINATOR: SPACE[DISCRIMINATOR],
        LAYERS: IntDistribution(1, 5),
    }
    # The best score so far.
    assert complete.intermediate_values == {1: 20.0, 2: 20.0}
    assert pruned.user_attrs == {"trial": "trial-0003"}


def test_a_choice_of_none_is_a_value(tmp_path: Path) -> None:
    study = write_search(tmp_path / "none", [("complete", 20.0, 100.0, 1e-4, None), ("waiting", 21.0, 100.0, 1e-3, 2)])
    choices = CategoricalDistribution([0, None])
    when = {"when": DISCRIMINATOR, "is": "SingleScore"}
    study.record["space"]["training/pixel_epochs"] = json.loads(distribution_to_json(choices)) | when
    study.trials["training/pixel_epochs"] = None
    (trial,) = study.optuna_study().get_trials()
    assert trial.params["training/pixel_epochs"] is None
    study.trials[DISCRIMINATOR] = "PatchGAN"
    assert "training/pixel_epochs" not in study.optuna_study().get_trials()[0].params


def test_figures_of_few_and_equal_trials(searched: StudyFiles, tmp_path: Path) -> None:
    figures = search_figures(searched)
    assert len(figures["Learning curves"].data) == 2
    first, second = figures["Learning curves by time"].data
    assert (list(first.x), list(first.y), list(second.y)) == ([2.0, 4.0], [20.0, 20.0], [21.0, 21.0])
    assert PAIR in figures
    equal = write_search(tmp_path / "equal", [("complete", 20.0, 100.0, rate, None) for rate in (1e-4, 1e-3)])
    assert PAIR not in search_figures(equal)
    one = write_search(tmp_path / "one", [("complete", 20.0, 100.0, 1e-4, None)])
    assert PAIR not in search_figures(one)


def test_front_of_several_objectives(tmp_path: Path) -> None:
    trials = [
        ("complete", 20.0, 100.0, 1e-4, None),
        ("complete", 22.0, 200.0, 1e-3, 3),
        ("pruned", 21.0, 90.0, 1e-3, 2),
        ("failed", 50.0, 1.0, 1e-3, 2),
    ]
    objectives, best = ["val_psnr", "operations_per_pixel"], {"trial": "trial-0001"}
    study = write_search(tmp_path / "several", trials, objectives=objectives, best_trial=best)
    assert study.optuna_study().directions == study.optuna_study(objectives).directions
    table = front_table(study)
    # Not the one that was stopped early: it looks cheap for what it could reach.
    assert table["trial"].tolist() == ["trial-0002", "trial-0001"]
    assert table["winner"].tolist() == ["", "chosen"]
    assert "The objectives" in search_figures(study)


def test_final_report_of_a_search(tmp_path: Path) -> None:
    trials = [
        ("complete", 20.0, 100.0, 0.005, None),
        ("pruned", 21.0, 90.0, 1e-3, 2),
        ("failed", 30.0, 100.0, 0.005, None),
    ]
    best = {"trial": "trial-0002", "values": {RATE: 0.00123456, DISCRIMINATOR: "PatchGAN", LAYERS: 2}}
    noises = {"noises": (Gaussian(), Gaussian(name="film_grain"))}
    study = write_search(tmp_path / "found", trials, best_trial=best, config=noises)
    methods = itertools.product(("gaussian", "film_grain"), ("median", "raygan"))
    image = {"task": 0, "image": "a.png", "set": "evaluation", "level": "mean", "intensity": 0.1, "ssim": 0.5}
    write_evaluation(study.folder, [image | {"kind": kind, "method": method, "psnr": 21.0} for kind, method in methods])
    write_table(study.folder, "best/metrics.csv", [{"epoch": epoch, "val_psnr": 20.0 + epoch} for epoch in (1, 2)])
    text = final_report(study.folder)
    assert "median filter 3x3  " in text
    assert "film_grain" in text
    assert "best trial (trial-0002)" in text
    assert "21.00 dB in 2 epochs, stopped early" in text
    assert "with the paper's v1 values (trial-0001)" in text
    assert "30.00 dB in 2 epochs, failed" in text
    assert "22.00 dB in 2 epochs" in text
    assert f"  {RATE} = 0.001235" in text


def test_the_winner_is_compared_with_the_best_other_method(tmp_path: Path) -> None:
    study = write_study(tmp_path / "verdict")
    image = {"task": 0, "image": "a.png", "set": "evaluation", "level": "mean", "intensity": 0.04, "ssim": 0.5}
    scores = {"gaussian": {"noisy": 15.0, "median": 22.0, "raygan": 21.0}, "own": {"noisy": 18.0, "raygan": 24.5}}
    rows = [
        image | {"kind": kind, "method": method, "psnr": psnr}
        for kind, of_kind in scores.items()
        for method, psnr in of_kind.items()
    ]
    write_evaluation(study, [*rows, rows[0] | {"level": "low", "psnr": 40.0}])
    expected = "PSNR against the best other method: Gaussian -1.00 dB (median filter 3x3), own +6.50 dB (noisy input)."
    assert verdict(StudyFiles(study)) == expected


def test_pictures(tmp_path: Path) -> None:
    study = write_study(tmp_path / "pictures")
    image = {"task": 0, "image": "a.png", "set": "evaluation", "kind": "gaussian", "level": "mean", "intensity": 0.04}
    shown = {"psnr": 21.0, "ssim": 0.5, "picture": "0-a.png"}
    write_evaluation(study, [image | shown | {"method": method} for method in ("noisy", "median", "raygan")])
    strip = np.repeat(np.array([0, 80, 160, 240], dtype=np.uint8), 12)[None, :, None].repeat(10, 0).repeat(3, 2)
    file = io.BytesIO()
    Image.fromarray(strip).save(file, "PNG")
    study.write("evaluation/pictures/0-a.png", file.getvalue())
    pairs, strips = denoised_pictures(StudyFiles(study))
    before, after = (np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in pairs["a.png, Gaussian 0.04"])
    assert (before[5, 5, 0], after[5, 5, 0]) == (pytest.approx(80, abs=5), pytest.approx(240, abs=5))
    ((caption, jpeg),) = strips.items()
    assert caption == "a.png, Gaussian 0.04: clean, noisy input, median filter 3x3, RayGAN"
    crops = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert crops.shape == (10, 40, 3)
    assert crops[5, [5, 15, 25, 35], 0] == pytest.approx([0, 80, 160, 240], abs=5)
    ((caption, jpeg),) = noise_pictures(StudyFiles(study)).items()
    assert caption == "a.png: clean, Gaussian 0.04"
    assert Image.open(io.BytesIO(jpeg)).size == (20, 10)
