import io

import numpy as np
import pytest
import torch
from PIL import Image
from raygan.evaluation.unseen_noise import UNSEEN, add_unseen_noise, unseen_intensity
from raygan.noise.noise import LEVELS
from torch import Tensor

from raygan.config.run import NoiseConfig
from raygan.seeds import torch_generator

GREY = torch.full((1, 3, 512, 512), 0.5)


def added(kind: str, intensity: float, clean: Tensor = GREY) -> Tensor:
    """What a kind adds, before it is clipped."""
    return UNSEEN[kind].add(clean, intensity, torch_generator("test")) - clean


@pytest.mark.parametrize("kind", UNSEEN)
def test_every_kind_is_repeatable_in_range_and_gets_worse_with_its_level(kind: str) -> None:
    photo = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    clean = torch.nn.functional.interpolate(photo, 128, mode="bicubic").clamp(0, 1)
    noisy = [add_unseen_noise(clean, kind, level, torch_generator("test")) for level in LEVELS]
    again = add_unseen_noise(clean, kind, "low", torch_generator("test"))
    assert torch.equal(noisy[0], again)
    assert all(image.shape == clean.shape and image.min() >= 0 and image.max() <= 1 for image in noisy)
    errors = [(image - clean).square().mean().item() for image in noisy]
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("kind", ["gaussian", "salt_and_pepper", "speckle"])
def test_stronger_noise_is_beyond_what_is_trained_on(kind: str) -> None:
    least = unseen_intensity(f"stronger_{kind}", "low")
    assert least > NoiseConfig().range_of(kind).high  # type: ignore[arg-type]


def test_poisson_noise_has_the_variance_of_counts() -> None:
    noise = added("poisson", 20)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert noise.var().item() == pytest.approx(0.5 / 20, rel=0.02)


def test_grey_noise_is_the_same_in_all_channels() -> None:
    noise = added("grey_gaussian", 0.04)
    assert torch.equal(noise[:, :1].expand_as(noise), noise)
    assert noise.var().item() == pytest.approx(0.04, rel=0.02)


def test_smooth_noise_is_shared_by_neighbours() -> None:
    """Means of 3x3 have six values of nine in common with the next."""
    inside = added("smooth_gaussian", 0.04)[..., 1:-1, 1:-1]
    assert inside.var().item() == pytest.approx(0.04, rel=0.02)
    neighbours = np.corrcoef(inside[..., :-1].flatten(), inside[..., 1:].flatten())[0, 1]
    assert neighbours == pytest.approx(6 / 9, abs=0.01)


def test_two_kinds_are_both_there() -> None:
    noisy = GREY + added("gaussian_then_salt_and_pepper", 0.0)
    replaced = ((noisy == 0) | (noisy == 1)).float().mean().item()
    assert replaced == pytest.approx(0.02, rel=0.05)
    kept = noisy[(noisy > 0) & (noisy < 1)]
    assert kept.var().item() == pytest.approx(0.005, rel=0.02)


def test_jpeg_is_pillows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=20)
    expected = np.asarray(Image.open(file)) / 255
    clean = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    noisy = add_unseen_noise(clean, "jpeg", "mean", torch_generator("test"))
    np.testing.assert_allclose(noisy[0].permute(1, 2, 0), expected, atol=1e-6)
