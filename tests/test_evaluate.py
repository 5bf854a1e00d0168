from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import raygan, write_vgg19
from PIL import Image
from raygan.evaluation.unseen_noise import UNSEEN
from raygan.models.generator import build_generator
from raygan.noise.noise import LEVELS
from skimage.filters import median as skimage_median
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.util import random_noise

from raygan.config.run import Config, IntensityRange, NoiseConfig
from raygan.config.section import with_values
from raygan.data.photos import evaluation_photos
from raygan.evaluation.classical import FILTERS, filtered
from raygan.evaluation.evaluate import MEAN_ONLY, evaluate, evaluate_checkpoints, summarise, tabulate
from raygan.losses import Vgg19, read_vgg19_weights
from raygan.metrics import vgg_distance
from raygan.report.tables import evaluation_table
from raygan.study.storage import Folder
from raygan.train.checkpoint import Best, save_checkpoint

Write = Callable[..., Path]


@pytest.fixture
def denoiser(tiny_config: Config, tmp_path: Path) -> Folder:
    torch.manual_seed(0)
    config = with_values(tiny_config, {"hardware/device": "cpu"})
    save_checkpoint(tmp_path / "best", config, {}, Best.of(build_generator(config.generator), {}), {})
    return Folder(tmp_path / "best" / "denoiser")


def run(folder: Path, denoiser: Folder, noise: NoiseConfig, actors: int = 1) -> tuple[pd.DataFrame, dict[str, bytes]]:
    photos = evaluation_photos(str(folder))
    return tabulate(evaluate(photos, {"raygan": denoiser}, noise, {"CPU": 1}, actors), noise, ["raygan"])


def clean_images(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)).transpose(2, 0, 1) / 255 for path in folder.iterdir()}


@pytest.mark.usefixtures("ray_here")
def test_noiseless_scores_are_scikit_images(write_photos: Write, denoiser: Folder, tiny_config: Config) -> None:
    """With noise of no strength, the input is perfect and the denoiser's score can be computed independently."""
    folder = write_photos(3, size=(70, 100))
    none = IntensityRange(low=0.0, high=0.0)
    table, _ = run(folder, denoiser, NoiseConfig(kinds=("gaussian",), gaussian=none))
    assert len(table) == 3 * 3 * 3
    assert (table[table["method"] == "noisy"]["psnr"] == np.inf).all()
    torch.manual_seed(0)
    generator = build_generator(tiny_config.generator).eval()
    for name, clean in clean_images(folder).items():
        padded = np.pad(clean, ((0, 0), (0, 58), (0, 28)), mode="reflect")
        with torch.no_grad():
            denoised = generator(torch.from_numpy(padded[None]).float())[0, :, :70, :100].double().numpy()
        filtered = np.stack([skimage_median(channel, np.ones((3, 3)), mode="reflect") for channel in clean])
        for method, image in (("raygan", denoised), ("median", filtered)):
            rows = table[(table["image"] == name) & (table["method"] == method)]
            expected = peak_signal_noise_ratio(clean, image, data_range=1)
            assert rows["psnr"].to_list() == pytest.approx([expected] * 3, abs=1e-4)
            expected = structural_similarity(clean, image, data_range=1, channel_axis=0)
            assert rows["ssim"].to_list() == pytest.approx([expected] * 3, abs=1e-4)


@pytest.mark.usefixtures("ray_here")
def test_every_photo_kind_level_and_method_is_scored(write_photos: Write, denoiser: Folder) -> None:
    folder = write_photos(5)
    table, pictures = run(folder, denoiser, NoiseConfig(), actors=2)
    assert list(table.columns) == [
        *("image", "set", "kind", "level", "intensity", "method"),
        *("psnr", "ssim", "colour_drift", "seconds", "picture"),
    ]
    assert len(table) == 5 * 3 * 3 * 3
    assert not table.duplicated(["image", "kind", "level", "method"]).any()
    # The noise is scikit-image's, at the paper's intensities.
    random = np.random.default_rng(0)
    for kind, mode, argument, intensity in (
        ("gaussian", "gaussian", "var", 0.0425),
        ("salt_and_pepper", "s&p", "amount", 0.045),
        ("speckle", "speckle", "var", 0.1025),
    ):
        rows = table[(table["kind"] == kind) & (table["level"] == "mean") & (table["method"] == "noisy")]
        expected = [
            peak_signal_noise_ratio(clean, random_noise(clean, mode, rng=random, **{argument: intensity}), data_range=1)
            for clean in clean_images(folder).values()
            for _ in range(20)
        ]
        # One draw's mean over the five photos deviates by about 0.06.
        assert rows["psnr"].mean() == pytest.approx(np.mean(expected), abs=0.25)
    # Pictures of the first photos: clean, noisy, median and denoised side by side.
    assert len(pictures) == 4 * 3
    assert all(name.endswith(".png") for name in pictures)


@pytest.mark.usefixtures("ray_here")
def test_dividing_the_work_changes_nothing(write_photos: Write, denoiser: Folder) -> None:
    folder = write_photos(4)
    noise = NoiseConfig(kinds=("speckle",))
    one, two = (run(folder, denoiser, noise, actors)[0].drop(columns="seconds") for actors in (1, 2))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.usefixtures("ray_here")
def test_neither_other_methods_nor_other_levels_change_the_noise(write_photos: Write, denoiser: Folder) -> None:
    photos = evaluation_photos(str(write_photos(1)))
    scores = []
    for filters, levels in (((), MEAN_ONLY), (("median", "wavelet"), LEVELS)):
        rows = evaluate(photos, {"raygan": denoiser}, NoiseConfig(), {"CPU": 1}, 1, filters=filters, levels=levels)
        table, _ = tabulate(rows, NoiseConfig(), ["raygan"], filters)
        chosen = table[(table["method"] == "noisy") & (table["level"] == "mean")]
        scores.append(chosen.set_index("kind")["psnr"].to_dict())
    assert scores[0] == scores[1]
    assert len(scores[0]) == 3


@pytest.mark.usefixtures("ray_here")
def test_with_vgg19_weights_every_row_has_its_distance(write_photos: Write, denoiser: Folder, tmp_path: Path) -> None:
    weights = read_vgg19_weights(write_vgg19(tmp_path / "vgg19.npz"))
    folder, noise = write_photos(2), NoiseConfig(kinds=("gaussian",), gaussian=IntensityRange(low=0.0, high=0.08))
    rows = evaluate(evaluation_photos(str(folder)), {"raygan": denoiser}, noise, {"CPU": 1}, 1, weights)
    table, _ = tabulate(rows, noise, ["raygan"])
    assert list(table.columns[-6:]) == ["psnr", "ssim", "colour_drift", "vgg_distance", "seconds", "picture"]
    noisy = table[table["method"] == "noisy"].set_index(["image", "level"])["vgg_distance"]
    for name, clean in clean_images(folder).items():
        assert noisy[name, "low"] == 0 < noisy[name, "mean"] < noisy[name, "high"]
        image = torch.from_numpy(clean[None]).float()
        row = table[(table["image"] == name) & (table["method"] == "median") & (table["level"] == "low")]
        expected = vgg_distance(image, filtered("median", image), Vgg19(weights)).item()
        assert row["vgg_distance"].item() == pytest.approx(expected, rel=1e-4)
    summary = summarise(table.assign(task=0)).set_index(["level", "method"])
    assert summary.loc[("mean", "noisy"), "vgg_distance_mean"] == pytest.approx(noisy[:, "mean"].mean())
    # The best image's is the least.
    assert summary.loc[("mean", "noisy"), "vgg_distance_min"] == noisy[:, "mean"].min()


def test_summary_averages_and_maximises_over_images() -> None:
    per_image = pd.DataFrame(
        [
            (0, "x/a", "evaluation", "gaussian", "mean", 0.04, "noisy", 10.0, 0.1, 0.0),
            (0, "y/b", "evaluation", "gaussian", "mean", 0.04, "noisy", 14.0, 0.3, 0.0),
            (0, "x/a", "evaluation", "gaussian", "mean", 0.04, "raygan", 20.0, 0.5, 2.0),
            (0, "y/b", "evaluation", "gaussian", "mean", 0.04, "raygan", 21.0, 0.9, 4.0),
            (0, "z/c", "training", "gaussian", "mean", 0.04, "raygan", 30.0, 0.8, 1.0),
        ],
        columns=["task", "image", "set", "kind", "level", "intensity", "method", "psnr", "ssim", "seconds"],
    )
    summary = summarise(per_image)
    assert list(summary.columns) == [
        *("task", "set", "kind", "level", "intensity", "method"),
        *("images", "psnr_mean", "psnr_max", "ssim_mean", "ssim_max", "seconds_mean"),
    ]
    rows = {(row[1], row[5]): row[6:] for row in summary.to_numpy().tolist()}
    assert rows == {
        ("evaluation", "noisy"): [2, 12.0, 14.0, 0.2, 0.3, 0.0],
        ("evaluation", "raygan"): [2, 20.5, 21.0, 0.7, 0.9, 3.0],
        ("training", "raygan"): [1, 30.0, 30.0, 0.8, 0.8, 1.0],
        # The evaluation photos of each folder apart, as BSD300's train and test photos are.
        ("evaluation/x", "noisy"): [1, 10.0, 10.0, 0.1, 0.1, 0.0],
        ("evaluation/y", "noisy"): [1, 14.0, 14.0, 0.3, 0.3, 0.0],
        ("evaluation/x", "raygan"): [1, 20.0, 20.0, 0.5, 0.5, 2.0],
        ("evaluation/y", "raygan"): [1, 21.0, 21.0, 0.9, 0.9, 4.0],
    }


def test_median_is_scikit_images() -> None:
    noisy = torch.rand(1, 3, 20, 30)
    expected = [skimage_median(channel, np.ones((3, 3)), mode="reflect") for channel in noisy[0].numpy()]
    assert np.array_equal(filtered("median", noisy)[0].numpy(), np.array(expected))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("deviation", [0.1, 0.25])
def test_every_filter_denoises(name: str, deviation: float) -> None:
    """Of Gaussian noise on an image that is smooth but for one edge, each removes at least 3 dB."""
    ramp = torch.linspace(0.2, 0.5, 96)
    clean = (ramp[:, None] + 0.3 * (ramp > 0.35)).expand(1, 3, 96, 96)
    noisy = clean + deviation * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    before, after = ((image - clean).square().mean().log10() for image in (noisy, filtered(name, noisy)))
    assert 10 * (before - after) > 3


@pytest.mark.parametrize("name", FILTERS)
def test_filters_leave_what_has_no_noise(name: str) -> None:
    flat = torch.full((1, 3, 32, 32), 0.5)
    torch.testing.assert_close(filtered(name, flat), flat, rtol=0, atol=1e-3)


def test_the_command_compares_denoisers_and_filters(write_photos: Write, denoiser: Folder, tmp_path: Path) -> None:
    folder = write_photos(2)
    command = ["evaluate", denoiser.location, "--evaluate-on", str(folder), "--output", str(tmp_path / "found")]
    result = raygan(*command, "--filters", "median,wavelet", "--levels", "mean")
    assert result.returncode == 0, result.stderr
    assert "mean intensity, 2 photos" in result.stdout
    assert "evaluation 2/2 photos   [done]" in result.stdout
    summary = pd.read_csv(tmp_path / "found" / "summary.csv").set_index(["kind", "method"])
    assert set(summary.index.get_level_values("method")) == {"noisy", "median", "wavelet", "raygan"}
    assert set(summary["level"]) == {"mean"}
    for name, label in (("noisy", "noisy input"), ("wavelet", "wavelet"), ("raygan", "RayGAN")):
        row = summary.loc[("speckle", name)]
        [line] = [line for line in result.stdout.splitlines() if line.startswith(label)]
        assert f"{row['psnr_mean']:.2f} / {row['ssim_mean']:.3f}" in line
    per_image = pd.read_csv(tmp_path / "found" / "per_image.csv")
    assert len(per_image) == 2 * 3 * 4
    assert (per_image.loc[per_image["method"] != "noisy", "seconds"] > 0).all()


@pytest.mark.usefixtures("ray_here")
def test_noise_that_nobody_trained_on(write_photos: Write, denoiser: Folder, tmp_path: Path) -> None:
    photos, output = str(write_photos(2)), str(tmp_path / "found")
    summary = evaluate_checkpoints([denoiser.location], photos, output, ["median"], ["low"], None, unseen=True)
    assert list(summary["kind"].unique()) == list(UNSEEN)
    assert len(summary) == len(UNSEEN) * 3
    assert set(summary["level"]) == {"low"}
    assert summary.set_index("kind")["intensity"]["poisson"].unique().tolist() == [60]
    pd.testing.assert_frame_equal(summary, pd.read_csv(tmp_path / "found" / "summary.csv"), check_dtype=False)
    assert all(kind in evaluation_table(summary) for kind in UNSEEN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--filters", "median,blur"], "there is no filter blur; there are median, bilateral"),
        (["--levels", "lower"], "there is no level lower; there are low, mean, high"),
        (["absent"], "there is no denoiser in "),
        (["--output", "/dev/null/found"], "nothing can be written in /dev/null/found"),
    ],
)
def test_unknown_names_are_refused(denoiser: Folder, options: list[str], message: str) -> None:
    result = raygan("evaluate", denoiser.location, *options)
    assert result.returncode == 2
    assert message in result.stderr
