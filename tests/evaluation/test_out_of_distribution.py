import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from raygan.config.kinds import LEVELS, Noise
from raygan.config.section import ConfigError
from raygan.evaluation.out_of_distribution import (
    OUT_OF_DISTRIBUTION,
    GaussianThenSaltAndPepper,
    GreyGaussian,
    Jpeg,
    Poisson,
    SmoothGaussian,
)
from raygan.noise import Gaussian, SaltAndPepper, Speckle, add_noise
from raygan.seeds import torch_generator

GREY = torch.full((3, 512, 512), 0.5)


def added(noise: Noise, intensity: float) -> Tensor:
    """The difference from the clean image before clipping."""
    return noise.add(GREY, intensity, torch_generator("test")) - GREY


@pytest.mark.parametrize("noise", OUT_OF_DISTRIBUTION, ids=lambda noise: noise.key)
def test_noise_is_repeatable_within_range_and_grows_with_the_level(noise: Noise) -> None:
    photo = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    clean = torch.nn.functional.interpolate(photo, 128, mode="bicubic").clamp(0, 1)

    def noisy(intensity: float) -> Tensor:
        return add_noise(clean, [noise], [intensity], [torch_generator("test")])

    images = [noisy(noise.intensity(level)) for level in LEVELS]
    assert torch.equal(images[0], noisy(noise.low))
    assert all(image.shape == clean.shape and image.min() >= 0 and image.max() <= 1 for image in images)
    errors = [(image - clean).square().mean().item() for image in images]
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("trained", [Gaussian(), SaltAndPepper(), Speckle()], ids=lambda noise: noise.key)
def test_stronger_noise_is_outside_the_range_of_training(trained: Noise) -> None:
    [stronger] = [noise for noise in OUT_OF_DISTRIBUTION if noise.key == f"stronger_{trained.key}"]
    assert type(stronger) is type(trained)
    assert stronger.low > trained.high


def test_poisson_noise_has_the_variance_of_counts() -> None:
    noise = added(Poisson(), 1 / 20)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert noise.var().item() == pytest.approx(0.5 / 20, rel=0.02)


def test_grey_noise_is_the_same_in_all_channels() -> None:
    noise = added(GreyGaussian(), 0.04)
    assert torch.equal(noise[:1].expand_as(noise), noise)
    assert noise.var().item() == pytest.approx(0.04, rel=0.02)


def test_smooth_noise_is_correlated_between_neighbors() -> None:
    """Adjacent 3x3 means share six of nine values."""
    inside = added(SmoothGaussian(), 0.04)[..., 1:-1, 1:-1]
    assert inside.var().item() == pytest.approx(0.04, rel=0.02)
    neighbors = np.corrcoef(inside[..., :-1].flatten(), inside[..., 1:].flatten())[0, 1]
    assert neighbors == pytest.approx(6 / 9, abs=0.01)


def test_gaussian_then_salt_and_pepper_adds_both() -> None:
    noisy = GREY + added(GaussianThenSaltAndPepper(), 0.0)
    replaced = ((noisy == 0) | (noisy == 1)).float().mean().item()
    assert replaced == pytest.approx(0.02, rel=0.05)
    kept = noisy[(noisy > 0) & (noisy < 1)]
    assert kept.var().item() == pytest.approx(0.005, rel=0.02)


def test_jpeg_is_that_of_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=25)
    expected = np.asarray(Image.open(file)) / 255
    clean = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    noisy = Jpeg().add(clean, Jpeg().mean, torch_generator("test"))
    np.testing.assert_allclose(noisy.permute(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "low", "high"), [(Jpeg, 10, 40), (Poisson, 0, 0.1), (GreyGaussian, 0.2, 0.1)])
def test_invalid_ranges_are_refused(kind: type[Noise], low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="must hold, but got low="):
        kind(low=low, high=high)
