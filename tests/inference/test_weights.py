"""The shipped denoiser as a user meets it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import raygan, shared
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from raygan.config.kinds import Noise
from raygan.config.section import with_values
from raygan.data.samples import EVALUATION_PHOTOS, sample_photos_folder
from raygan.evaluation.classical import FILTERS, filtered
from raygan.inference.denoiser import denoise
from raygan.models.cost import operations_per_pixel
from raygan.noise import Gaussian, add_noise
from raygan.presets import DENOISER
from raygan.seeds import torch_generator
from raygan.study.storage import Folder
from raygan.train.checkpoint import load_generator
from raygan.weights import SHIPPED, denoiser_folder

KNOWN = {"101085": 24.453, "3096": 35.708, "86016": 22.498}
"""PSNR in dB on photos of BSD300, with Gaussian noise of the mean intensity from NumPy's default generator, seed 0."""


def photo(name: str) -> torch.Tensor:
    pixels = np.array(Image.open(sample_photos_folder((name,)) / name).convert("RGB"))[64:192, 64:192]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def psnr(clean: torch.Tensor, denoised: torch.Tensor) -> float:
    return float(peak_signal_noise_ratio(clean.numpy(), denoised.clamp(0, 1).numpy(), data_range=1))


def test_it_is_small_and_is_what_the_search_trains() -> None:
    size = sum(file.stat().st_size for file in Path(denoiser_folder(SHIPPED)).iterdir() if file.is_file())
    assert size < 20e6
    _, config = load_generator(Folder(denoiser_folder(SHIPPED)))
    expected = with_values(DENOISER, {"training/best_by": "val_psnr"})
    for part in ("generator", "loss", "noises", "sampling", "optimizers", "training"):
        assert getattr(config, part) == getattr(expected, part)


@pytest.mark.parametrize(("name", "expected"), KNOWN.items())
def test_its_results_do_not_change(name: str, expected: float) -> None:
    pixels = np.array(Image.open(shared(f"bsd300/test/{name}.jpg")))
    noise = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32)
    noisy = np.clip(pixels / np.float32(255) + np.float32(0.0425) ** 0.5 * noise, 0, 1).transpose(2, 0, 1)[None]
    generator, config = load_generator(Folder(denoiser_folder(SHIPPED)))
    denoised = denoise(generator, torch.from_numpy(noisy), config.generator.stride)
    clean = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    assert psnr(clean, denoised) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("noise", DENOISER.noises, ids=lambda noise: noise.key)
def test_it_is_better_than_every_filter(noise: Noise) -> None:
    """At the mean intensity, on photos that it was not trained on."""
    generator, config = load_generator(Folder(denoiser_folder(SHIPPED)))
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


@pytest.mark.parametrize(("name", "gain", "operations"), [("synthetic", 0.3, 600e3), ("small", -1.0, 100e3)])
def test_named_denoisers_keep_their_cost_and_quality(name: str, gain: float, operations: float) -> None:
    clean = photo("astronaut.png")
    noisy = (clean + 0.0425**0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    scores = []
    for one in (name, SHIPPED):
        network, config = load_generator(Folder(denoiser_folder(one)))
        scores.append(psnr(clean, denoise(network, noisy, config.generator.stride)))
        if one == name:
            assert operations_per_pixel(config.generator) <= operations
    assert scores[0] > scores[1] + gain
