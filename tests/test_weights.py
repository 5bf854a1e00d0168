"""The denoiser that comes with RayGAN, as a user meets it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import raygan
from PIL import Image
from raygan.inference.tiles import denoise
from raygan.noise.noise import add_noise
from skimage.metrics import peak_signal_noise_ratio

from raygan.config.run import NOISE_KINDS, NoiseConfig, NoiseKind
from raygan.data.samples import EVALUATION_PHOTOS, sample_photos_folder
from raygan.evaluation.classical import FILTERS, filtered
from raygan.presets import DENOISER
from raygan.seeds import torch_generator
from raygan.study.storage import Folder
from raygan.train.checkpoint import load_denoiser
from raygan.weights import SHIPPED


def photo(name: str) -> torch.Tensor:
    pixels = np.array(Image.open(sample_photos_folder((name,)) / name).convert("RGB"))[64:192, 64:192]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def psnr(clean: torch.Tensor, denoised: torch.Tensor) -> float:
    return float(peak_signal_noise_ratio(clean.numpy(), denoised.clamp(0, 1).numpy(), data_range=1))


def test_it_is_small_and_is_what_the_search_trains() -> None:
    size = sum(file.stat().st_size for file in Path(SHIPPED).iterdir() if file.is_file())
    assert size < 20e6
    _, config = load_denoiser(Folder(SHIPPED))
    for part in ("generator", "loss", "noise", "optimizers", "training"):
        assert getattr(config, part) == getattr(DENOISER, part)


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_it_is_better_than_every_filter(kind: NoiseKind) -> None:
    """At mean intensity, on photos that it has never seen."""
    generator, _ = load_denoiser(Folder(SHIPPED))
    intensity = torch.tensor([NoiseConfig().range_of(kind).mean])
    ours, theirs = [], []
    for index, name in enumerate(EVALUATION_PHOTOS):
        clean = photo(name)
        noisy = add_noise(clean, [kind], intensity, [torch_generator("test", index)])
        ours.append(psnr(clean, denoise(generator, noisy)))
        theirs.append([psnr(clean, filtered(one, noisy)) for one in FILTERS])
    assert np.mean(ours) > np.mean(theirs, axis=0).max() + 1


def test_it_denoises_right_after_installation(tmp_path: Path) -> None:
    clean = photo("astronaut.png")
    noisy = add_noise(clean, ["gaussian"], torch.tensor([0.02]), [torch_generator("test")])
    pixels = (255 * noisy[0]).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "noisy.png")
    result = raygan("denoise", tmp_path / "noisy.png", tmp_path / "clean.png")
    assert result.returncode == 0, result.stderr
    denoised = torch.from_numpy(np.array(Image.open(tmp_path / "clean.png"))).permute(2, 0, 1)[None] / 255
    assert psnr(clean, denoised) > psnr(clean, noisy) + 8
