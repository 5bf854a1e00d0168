import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import raygan_here
from denoisers import SMALL, Blur, save_denoiser
from PIL import Image
from ray import cloudpickle
from skimage.filters import median as skimage_median
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.util import random_noise
from torch import Tensor

from raygan.config.kinds import Generator, Noise
from raygan.config.section import with_values
from raygan.data.photos import evaluation_photos
from raygan.data.samples import dead_leaves
from raygan.data.sources import PhotoFolder
from raygan.evaluation.classical import FILTERS, FilterError, filters_named
from raygan.evaluation.evaluate import evaluate_checkpoints, summarize, tabulate, write_evaluation
from raygan.evaluation.job import MEAN_ONLY, EvaluationSettings, EvaluationTask, evaluate
from raygan.evaluation.out_of_distribution import OUT_OF_DISTRIBUTION
from raygan.noise import Gaussian, SaltAndPepper, Speckle
from raygan.report.tables import evaluation_table
from raygan.storage import Folder
from raygan.train.denoisers import load_generator, load_weights

Write = Callable[..., Path]
PAPER_NOISES = (Gaussian(), SaltAndPepper(), Speckle())


@dataclass(frozen=True, kw_only=True)
class Darker(Noise):
    """A user's own noise."""

    low: float = 0.1
    high: float = 0.3

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        return clean - intensity * torch.rand(clean.shape, generator=generator)


@dataclass(frozen=True, kw_only=True)
class WaitsForTheFirstPhoto(Noise):
    """A noise that no second photo gets before the first one's result is out."""

    low: float = 0
    high: float = 0
    folder: str

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        place = Path(self.folder)
        if (place / "begun").exists():
            for _ in range(600):
                if (place / "out").exists():
                    return clean
                time.sleep(0.1)
            raise RuntimeError("the first photo's result is still missing")
        (place / "begun").touch()
        return clean


@pytest.fixture
def denoiser(tmp_path: Path) -> Folder:
    return save_denoiser(tmp_path / "best")


@pytest.fixture
def own_classes_by_value() -> Iterator[None]:
    """Workers get the classes of the tests as `raygan search FILE.py` sends those of a search file."""
    modules = [sys.modules[kind.__module__] for kind in (Darker, Blur)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


def run(
    folder: Path,
    denoiser: Folder,
    noises: Sequence[Noise] = PAPER_NOISES,
    settings: EvaluationSettings | None = None,
    actors: int = 1,
    generator: Generator = SMALL,
) -> tuple[pd.DataFrame, dict[str, bytes]]:
    photos = evaluation_photos(PhotoFolder(location=str(folder)))
    task = EvaluationTask(tuple(noises), {"raygan": (load_weights(denoiser, generator), generator.stride)})
    return tabulate(evaluate(photos, task, settings or EvaluationSettings(), {"CPU": 1}, actors), "raygan")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight small photos."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(8):
        Image.fromarray(dead_leaves(96, 0, index)[:80]).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def evaluated(
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
    ray_here: None,  # noqa: ARG001
) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """The eight photos, evaluated by two actors with all noises and levels."""
    return run(photos, save_denoiser(tmp_path_factory.mktemp("own") / "best"), actors=2)


@pytest.fixture(scope="module")
def evaluated_otherwise(
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
    ray_here: None,  # noqa: ARG001
) -> pd.DataFrame:
    """The same by one actor, with the noises in another order, other filters, and the mean level alone."""
    settings = EvaluationSettings(("wavelet", "nonlocal_means"), MEAN_ONLY, undo_clipping=True)
    return run(photos, save_denoiser(tmp_path_factory.mktemp("own") / "best"), PAPER_NOISES[::-1], settings)[0]


def clean_images(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)).transpose(2, 0, 1) / 255 for path in folder.iterdir()}


@pytest.mark.usefixtures("ray_here")
def test_scores_are_those_of_scikit_image(write_photos: Write, denoiser: Folder) -> None:
    """With noise of intensity 0, the input is perfect and the denoiser's score can be computed independently."""
    folder = write_photos(3, size=(70, 101))
    table, _ = run(folder, denoiser, [Gaussian(low=0, high=0)])
    assert len(table) == 3 * 3 * 3
    assert (table[table["method"] == "noisy"]["psnr"] == 100).all()
    generator, _ = load_generator(denoiser)
    for name, clean in clean_images(folder).items():
        padded = np.pad(clean, ((0, 0), (0, 2), (0, 3)), mode="reflect")
        with torch.no_grad():
            denoised = generator(torch.from_numpy(padded[None]).float())[0, :, :70, :101].clamp(0, 1).double().numpy()
        filtered = np.stack([skimage_median(channel, np.ones((3, 3)), mode="reflect") for channel in clean])
        for method, image in (("raygan", denoised), ("median", filtered)):
            rows = table[(table["image"] == name) & (table["method"] == method)]
            expected = peak_signal_noise_ratio(clean, image, data_range=1)
            assert rows["psnr"].to_list() == pytest.approx([expected] * 3, abs=1e-4)
            expected = structural_similarity(clean, image, data_range=1, channel_axis=0)
            assert rows["ssim"].to_list() == pytest.approx([expected] * 3, abs=1e-4)


def test_every_photo_noise_level_and_method_is_scored(
    photos: Path, evaluated: tuple[pd.DataFrame, dict[str, bytes]]
) -> None:
    table, pictures = evaluated
    assert list(table.columns) == [
        *("image", "set", "kind", "level", "intensity", "method"),
        *("psnr", "ssim", "colour_drift", "seconds", "picture"),
    ]
    assert len(table) == 8 * 3 * 3 * 3
    order = ["image", "kind", "level", "method"]
    assert table[order].head(3).to_numpy().tolist() == [
        ["0.png", "gaussian", "low", method] for method in ("noisy", "median", "raygan")
    ]
    assert not table.duplicated(order).any()
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
            for clean in clean_images(photos).values()
            for _ in range(20)
        ]
        # The mean of one draw over the photos has a standard deviation of about 0.05.
        assert rows["psnr"].mean() == pytest.approx(np.mean(expected), abs=0.25)
    # Pictures of the first photos, and of the worst and the best one: clean, noisy, median and denoised side by side.
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    at_mean = table[table["level"] == "mean"]
    expected = {(f"{index}.png", noise.key) for index, noise in itertools.product(range(4), PAPER_NOISES)}
    for kind, rows in at_mean[at_mean["method"] == "raygan"].sort_values("psnr").groupby("kind"):
        expected |= {(image, kind) for image in (rows["image"].iloc[0], rows["image"].iloc[-1])}
    shown = table[table["picture"] != ""]
    assert set(zip(shown["image"], shown["kind"], strict=True)) == expected
    assert (set(shown["picture"]), set(shown["level"]), len(shown)) == (set(pictures), {"mean"}, 3 * len(expected))


@pytest.mark.usefixtures("ray_here", "own_classes_by_value")
def test_a_photo_is_reported_as_soon_as_it_is_done(write_photos: Write, denoiser: Folder, tmp_path: Path) -> None:
    photos = evaluation_photos(PhotoFolder(location=str(write_photos(3))))
    task = EvaluationTask(
        (WaitsForTheFirstPhoto(folder=str(tmp_path)),), {"raygan": (load_weights(denoiser, SMALL), SMALL.stride)}
    )
    results = evaluate(photos, task, EvaluationSettings((), MEAN_ONLY), {"CPU": 1}, 1)
    assert len(next(results)) == 2
    (tmp_path / "out").touch()
    assert len(list(results)) == 2


def test_neither_actors_nor_methods_nor_levels_nor_other_noises_change_a_score(
    evaluated: tuple[pd.DataFrame, dict[str, bytes]], evaluated_otherwise: pd.DataFrame
) -> None:
    keys = ["image", "kind", "level", "method"]
    scores = ["psnr", "ssim", "colour_drift"]
    one, other = (table.set_index(keys)[scores] for table in (evaluated[0], evaluated_otherwise))
    both = one.index.intersection(other.index)
    assert len(both) == 8 * len(PAPER_NOISES) * len(("noisy", "raygan"))
    pd.testing.assert_frame_equal(one.loc[both], other.loc[both], check_exact=True)


@pytest.mark.usefixtures("ray_here", "own_classes_by_value")
def test_user_defined_noises_and_generators_are_evaluated(write_photos: Write, tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "blur", Blur())
    table, _ = run(write_photos(2), folder, [Darker()], generator=Blur())
    assert set(table["kind"]) == {"darker"}
    scores = table.groupby(["level", "method"])["psnr"].mean()
    assert scores["low", "noisy"] > scores["mean", "noisy"] > scores["high", "noisy"]
    assert scores["mean", "raygan"] != scores["mean", "noisy"]


@pytest.mark.usefixtures("ray_here")
def test_the_command_compares_denoisers_and_filters(write_photos: Write, denoiser: Folder, tmp_path: Path) -> None:
    folder = write_photos(2)
    # Of equal names, and long ones.
    for part, photo in zip(("a", "b"), sorted(folder.glob("*.png")), strict=True):
        (folder / part).mkdir()
        photo.rename(folder / part / f"{'n' * 200}.png")
    command = ["evaluate", denoiser.location, "--evaluate-on", str(folder), "--output", str(tmp_path / "found")]
    result = raygan_here(*command, "--filters", "median", "wavelet", "--levels", "mean", "--self-ensemble")
    assert result.returncode == 0, result.stderr
    assert "2/2" in result.stderr
    table = pd.read_csv(tmp_path / "found" / "summary.csv")
    assert set(table["set"]) == {"evaluation", "evaluation/a", "evaluation/b"}
    summary = table[table["set"] == "evaluation"].set_index(["kind", "method"])
    assert set(summary.index.get_level_values("method")) == {"noisy", "median", "wavelet", "raygan"}
    assert set(summary["level"]) == {"mean"}
    for name, label in (("noisy", "noisy input"), ("wavelet", "wavelet"), ("raygan", "RayGAN")):
        row = summary.loc[("speckle", name)]
        [line] = [line for line in result.stdout.splitlines() if label in line]
        assert f"{row['psnr_mean']:.2f} / {row['ssim_mean']:.3f}" in line
    per_image = pd.read_csv(tmp_path / "found" / "per_image.csv")
    assert len(per_image) == 2 * 3 * 4
    assert (per_image.loc[per_image["method"] != "noisy", "seconds"] > 0).all()
    assert len(list((tmp_path / "found" / "pictures").iterdir())) == 2 * 3


@pytest.mark.usefixtures("ray_here")
def test_an_evaluation_takes_one_core_per_process(write_photos: Write, denoiser: Folder, tmp_path: Path) -> None:
    """Whatever a training worker takes. No other machine needs the denoiser's files."""
    network, config = load_generator(denoiser)
    shutil.rmtree(denoiser.path)
    training = {"hardware/device": "cpu", "hardware/cpus_per_worker": 1000, "hardware/workers": 2}
    config = with_values(config, {**training, "data/cache": "stream", "hardware/reading_cpus_per_worker": 1000})
    photos = evaluation_photos(PhotoFolder(location=str(write_photos(2))))
    task = EvaluationTask((Gaussian(),), {"raygan": (network, config.generator.stride)})
    # What an earlier evaluation wrote, and what others have put there.
    found, pictures = Folder(tmp_path / "found"), tmp_path / "found" / "pictures"
    found.write("per_image.csv", "image,picture\na.png,0-1-a.png\nb.png,\n")
    for name in ("0-1-a.png", "1-mine.png"):
        found.write(f"pictures/{name}", b"")
    summary = write_evaluation(photos, [task], EvaluationSettings((), MEAN_ONLY), config, found)
    assert set(summary["method"]) == {"noisy", "raygan"}
    assert {path.name for path in pictures.iterdir()} > {"1-mine.png"}
    assert not (pictures / "0-1-a.png").exists()


@pytest.mark.usefixtures("ray_here")
def test_out_of_distribution_noise(write_photos: Write, denoiser: Folder, tmp_path: Path) -> None:
    # A denoiser's configuration says which hardware it was trained on: that does not matter.
    _, config = load_generator(denoiser)
    elsewhere = {"hardware/device": "cuda", "hardware/workers": 8, "hardware/cpus_per_worker": 1000}
    values = {**elsewhere, "hardware/reading_cpus_per_worker": 1000, "data/cache": "stream"}
    denoiser.write("config.json", json.dumps(with_values(config, values).to_json()).encode())
    photos, output = str(write_photos(2)), str(tmp_path / "found")
    settings = EvaluationSettings(levels=("low",))
    summary = evaluate_checkpoints([denoiser.location], photos, output, settings, noises=OUT_OF_DISTRIBUTION)
    names = [noise.key for noise in OUT_OF_DISTRIBUTION]
    assert list(summary["kind"].unique()) == names
    assert len(summary) == len(names) * 3
    assert set(summary["level"]) == {"low"}
    assert summary.set_index("kind")["intensity"]["poisson"].unique() == pytest.approx([1 / 60])
    pd.testing.assert_frame_equal(summary, pd.read_csv(tmp_path / "found" / "summary.csv"), check_dtype=False)
    assert all(name in evaluation_table(summary) for name in names)


def test_clipping_is_undone_for_clipped_gaussian_noise_alone(evaluated_otherwise: pd.DataFrame) -> None:
    table = evaluated_otherwise
    unbiased = table[table["method"] == "nonlocal_means_clipping_undone"]
    assert (len(unbiased), set(unbiased["kind"])) == (8, {"gaussian"})
    biased = table.query("method == 'nonlocal_means' and kind == 'gaussian'")
    assert unbiased["psnr"].mean() > biased["psnr"].mean() + 0.1
    # A row without values for the other kinds.
    text = evaluation_table(summarize(table.assign(task=0)))
    [line] = [line for line in text.splitlines() if "clipping undone" in line]
    assert line.count(" / ") == 1
    assert "nan" not in line


def test_unknown_filters_are_refused() -> None:
    if "bm3d" not in FILTERS:
        with pytest.raises(FilterError, match="bm3d needs a package: pip install bm3d"):
            filters_named(["median", "bm3d"])
    with pytest.raises(FilterError, match="there is no filter blur; there are median, decision_median"):
        filters_named(["median", "blur"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--levels", "lower"], "lower"),
        (["--levels", "low", "high", "--lpips"], "add mean to --levels"),
        (["absent"], "there is no denoiser in "),
        (["--output", "/dev/null/found"], "nothing can be written in /dev/null/found"),
        (["--undo-clipping"], "is for filters that average: give --filters nonlocal_means or bm3d as well"),
        (["--undo-clipping", "--filters", "nonlocal_means", "--protocol", "awgn50"], "that of protocols not clipped"),
    ],
)
def test_missing_denoisers_and_unwritable_folders_are_refused(
    denoiser: Folder, options: list[str], message: str
) -> None:
    result = raygan_here("evaluate", denoiser.location, *options)
    assert result.returncode == 2
    assert message in result.stderr
