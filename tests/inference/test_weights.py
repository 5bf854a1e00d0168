"""The denoisers that come with RayGAN, as a user meets them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, raygan, shared
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from raygan.config.kinds import Noise
from raygan.config.run import Config
from raygan.config.section import flat_values, with_values
from raygan.data.samples import EVALUATION_PHOTOS, sample_photos_folder
from raygan.evaluation.classical import FILTERS, filtered
from raygan.inference.denoiser import Denoiser, denoise
from raygan.models.cost import operations_per_pixel
from raygan.noise import Gaussian, add_noise
from raygan.presets import CAMERA, DENOISER
from raygan.seeds import torch_generator
from raygan.storage import Folder
from raygan.train.denoisers import load_generator
from raygan.weights import DEFAULT, NAMES, denoiser_folder

KNOWN = {
    "synthetic": {"101085": 24.752, "3096": 36.834, "86016": 22.825},
    "camera": {"101085": 24.431, "3096": 36.427, "86016": 22.539},
    "small": {"101085": 24.356, "3096": 35.300, "86016": 22.441},
    "found": {"101085": 24.397, "3096": 35.494, "86016": 22.328},
    "baseline": {"101085": 24.453, "3096": 35.708, "86016": 22.498},
}
"""PSNR in dB on photos of BSD300, with Gaussian noise of the mean intensity from NumPy's default generator, seed 0."""


def photo(name: str) -> torch.Tensor:
    pixels = np.array(Image.open(sample_photos_folder((name,)) / name).convert("RGB"))[64:192, 64:192]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def psnr(clean: torch.Tensor, denoised: torch.Tensor) -> float:
    return float(peak_signal_noise_ratio(clean.numpy(), denoised.clamp(0, 1).numpy(), data_range=1))


def test_they_are_small_and_each_has_a_card() -> None:
    folders = [Path(denoiser_folder(name)) for name in NAMES]
    size = {folder.name: sum(file.stat().st_size for file in folder.iterdir()) for folder in folders}
    assert size["synthetic"] + size["camera"] < 20e6
    assert sum(size.values()) < 32e6
    assert all(f"`{folder.name}`" in (folder / "README.md").read_text().partition("\n")[0] for folder in folders)


@pytest.mark.parametrize(("name", "preset"), [("baseline", DENOISER), ("camera", CAMERA)])
def test_denoisers_are_what_their_searches_train(name: str, preset: Config) -> None:
    _, config = load_generator(Folder(denoiser_folder(name)))
    expected = with_values(preset, {"training/best_by": "val_psnr", "training/precision": config.training.precision})
    for part in ("generator", "loss", "noises", "sampling", "clean_share", "optimizers", "training"):
        assert getattr(config, part) == getattr(expected, part)


def test_found_is_what_the_recorded_search_found() -> None:
    record = json.loads((ROOT / "benchmarks" / "gain" / "study.json").read_text())
    _, config = load_generator(Folder(denoiser_folder("found")))
    values = flat_values(config)
    assert record["status"] == "finished"
    assert record["best_trial"]["values"] == {path: values[path] for path in record["best_trial"]["values"]}


@pytest.mark.parametrize(("name", "photo", "expected"), [(name, *row) for name in KNOWN for row in KNOWN[name].items()])
def test_results_do_not_change(name: str, photo: str, expected: float) -> None:
    pixels = np.array(Image.open(shared(f"bsd300/test/{photo}.jpg")))
    noise = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32)
    noisy = np.clip(pixels / np.float32(255) + np.float32(0.0425) ** 0.5 * noise, 0, 1).transpose(2, 0, 1)[None]
    generator, config = load_generator(Folder(denoiser_folder(name)))
    denoised = denoise(generator, torch.from_numpy(noisy), config.generator.stride)
    clean = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    assert psnr(clean, denoised) == pytest.approx(expected, abs=0.01)


def test_camera_removes_the_noise_of_real_cameras() -> None:
    folder = shared("polyu/test")
    gains = []
    for file in sorted((folder / "noisy").iterdir())[::9]:
        noisy, clean = (np.array(Image.open(folder / part / file.name)) for part in ("noisy", "clean"))
        scores = [peak_signal_noise_ratio(clean, image) for image in (noisy, Denoiser.from_pretrained("camera")(noisy))]
        gains.append(scores[1] - scores[0])
    assert min(gains) > 3


@pytest.mark.parametrize("noise", DENOISER.noises, ids=lambda noise: noise.key)
def test_the_default_is_better_than_every_filter(noise: Noise) -> None:
    """At the mean intensity, on photos that it was not trained on."""
    generator, config = load_generator(Folder(denoiser_folder(DEFAULT)))
    ours, theirs = [], []
    for index, name in enumerate(EVALUATION_PHOTOS):
        clean = photo(name)
        noisy = add_noise(clean, [noise], [noise.mean], [torch_generator("test", index)])
        ours.append(psnr(clean, denoise(generator, noisy, config.generator.stride)))
        theirs.append([psnr(clean, filtered(one, noisy)) for one in FILTERS])
    assert np.mean(ours) > np.mean(theirs, axis=0).max() + 1


def test_it_denoises_right_after_installation(tmp_path: Path) -> None:
    clean = photo("astronaut.png")
    noisy = add_noise(clean, [Gaussian()], [0.02], [torch_generator("test")])
    pixels = (255 * noisy[0]).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "noisy.png")
    result = raygan("denoise", tmp_path / "noisy.png", tmp_path / "clean.png")
    assert result.returncode == 0, result.stderr
    denoised = torch.from_numpy(np.array(Image.open(tmp_path / "clean.png"))).permute(2, 0, 1)[None] / 255
    assert psnr(clean, denoised) > psnr(clean, noisy) + 8


@pytest.mark.parametrize(
    ("name", "operations"), [("synthetic", 600e3), ("small", 100e3), ("found", 110e3), ("baseline", 350e3)]
)
def test_cost(name: str, operations: float) -> None:
    _, config = load_generator(Folder(denoiser_folder(name)))
    assert operations_per_pixel(config.generator) <= operations
