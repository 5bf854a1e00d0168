"""Training on pairs of noisy and clean photos, as a user runs it, and evaluating on them."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import raygan_here, warnings_of
from denoisers import save_denoiser
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from raygan.config.section import with_values
from raygan.data.samples import dead_leaves
from raygan.presets import DENOISER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TINY = {
    "training/steps_per_epoch": 4,
    "training/batch_size": 4,
    "training/precision": "float32",
    "generator/base_width": 4,
    "generator/blocks": 1,
    "discriminator/base_width": 4,
    "data/crop_size": 64,
    "data/train_photos": 6,
    "data/val_crops": 4,
}
OPTIONS = [option for path, value in TINY.items() for option in ("--set", f"{path}={value}")]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pairs with noise that is the same everywhere."""
    folder = tmp_path_factory.mktemp("camera")
    for part in ("noisy", "clean"):
        (folder / part).mkdir()
    for index in range(10):
        clean = dead_leaves(96, 0, index)
        Image.fromarray(clean).save(folder / "clean" / f"{index}.png")
        noisy = clean // 2 + np.where(np.arange(96)[:, None, None] % 4 < 2, 60, 40)
        Image.fromarray(noisy.astype(np.uint8)).save(folder / "noisy" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser of random weights."""
    folder = tmp_path_factory.mktemp("start") / "denoiser"
    shape = {path: value for path, value in TINY.items() if path.startswith("generator/")}
    save_denoiser(folder, with_values(DENOISER, shape).generator)
    return folder


@pytest.mark.usefixtures("ray_here")
def test_fine_tuning_says_what_it_gained_over_where_it_started(pairs: Path, start: Path, tmp_path: Path) -> None:
    names = ["--set", f"training/start_from={start}", "--storage", tmp_path, "--name", "tuned"]
    length = ["--trials", "2", "--trial-epochs", "1", "--epochs", "2"]
    run = raygan_here("search", "finetune", "--pairs", pairs, *OPTIONS, *names, *length)
    assert run.returncode == 0, run.stdout + run.stderr
    assert warnings_of(run) == ""
    assert "Pairs: 6 to train, 2 to validate" in run.stdout
    assert "mean of 2 held-out pairs" in run.stdout
    folder = tmp_path / "tuned"
    summary = pd.read_csv(folder / "evaluation" / "summary.csv").query("set == 'pairs'").set_index("method")
    assert list(summary.index) == ["noisy", "median", "raygan", "start"]
    assert set(summary["images"]) == {2}
    gain = summary.loc["raygan", "psnr_mean"] - summary.loc["start", "psnr_mean"]
    better = f"the new denoiser gains {gain:.3f} dB over {start}, and is better on"
    assert (better if gain > 0 else f"no better than {start} on the held-out pairs") in run.stdout
    # Trials are compared on pairs.
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["val_psnr"] == row["val_psnr_pairs"] for row in rows)
    assert json.loads((folder / "study.json").read_text())["config"]["data"]["pairs"]["location"] == str(pairs)
    report = raygan_here("report", folder)
    assert report.returncode == 0, report.stderr
    page = (folder / "report" / "report.md").read_text()
    assert "all methods on the held-out pairs" in page
    assert "starting denoiser" in page


@pytest.mark.usefixtures("ray_here")
def test_evaluation_on_pairs_scores_as_scikit_image_does(pairs: Path, start: Path, tmp_path: Path) -> None:
    run = raygan_here("evaluate", start, "--pairs", pairs, "--output", tmp_path, "--filters", "median")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "10 pairs" in run.stdout
    table = pd.read_csv(tmp_path / "per_image.csv")
    assert set(table["kind"]) == {"pairs"}
    assert list(table["method"].unique()) == ["noisy", "median", "raygan"]
    for row in table.query("method == 'noisy'").itertuples():
        name = Path(str(row.image)).name
        clean, noisy = (np.asarray(Image.open(pairs / part / name)) / 255 for part in ("clean", "noisy"))
        assert row.psnr == pytest.approx(peak_signal_noise_ratio(clean, noisy, data_range=1), abs=1e-4)
        similarity = structural_similarity(clean, noisy, data_range=1, channel_axis=2)
        assert row.ssim == pytest.approx(similarity, abs=1e-4)
    # Before-and-after pictures of the first four, and of the best and the worst.
    judged = table.query("method == 'raygan'").sort_values("psnr")["image"].to_list()
    expected = {*sorted(judged)[:4], judged[0], judged[-1]}
    assert set(table.loc[table["picture"].notna(), "image"]) == expected
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == set(table["picture"].dropna())
    both = raygan_here("evaluate", start, "--pairs", pairs, "--out-of-distribution", "--output", tmp_path)
    assert (both.returncode, "give one of --pairs, --out-of-distribution" in both.stderr) == (2, True)
    none = raygan_here("evaluate", start, "--pairs", tmp_path / "missing", "--output", tmp_path)
    assert (none.returncode, "holds no pairs" in none.stderr) == (2, True)
