import numpy as np
import pytest
import torch
from conftest import shared
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from raygan.metrics import colour_drift, psnr, ssim


def reference(clean: torch.Tensor, denoised: torch.Tensor) -> tuple[list[float], list[float]]:
    pairs = [(c.double().numpy(), d.double().numpy().clip(0, 1)) for c, d in zip(clean, denoised, strict=True)]
    return (
        [peak_signal_noise_ratio(c, d, data_range=1) for c, d in pairs],
        [structural_similarity(c, d, data_range=1, channel_axis=0) for c, d in pairs],
    )


@pytest.mark.parametrize("size", [(7, 7), (8, 31), (64, 64), (101, 67)])
@pytest.mark.parametrize("deviation", [0.01, 0.3])
def test_equal_to_scikit_image_on_random_images(size: tuple[int, int], deviation: float) -> None:
    random = torch.Generator().manual_seed(size[0])
    clean = torch.rand((3, 3, *size), generator=random, dtype=torch.float64)
    denoised = clean + deviation * torch.randn(clean.shape, generator=random, dtype=torch.float64)
    expected_psnr, expected_ssim = reference(clean, denoised)
    assert psnr(clean, denoised).tolist() == pytest.approx(expected_psnr, abs=1e-9)
    assert ssim(clean, denoised).tolist() == pytest.approx(expected_ssim, abs=1e-9)
    assert psnr(clean.float(), denoised.float()).tolist() == pytest.approx(expected_psnr, abs=1e-5)
    assert ssim(clean.float(), denoised.float()).tolist() == pytest.approx(expected_ssim, abs=1e-4)


@pytest.mark.parametrize("name", ["test/3096.jpg", "test/101085.jpg", "train/8143.jpg"])
def test_equal_to_scikit_image_on_real_photos(name: str) -> None:
    pixels = np.asarray(Image.open(shared(f"bsd300/{name}")))
    clean = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() / 255
    denoised = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected_psnr, expected_ssim = reference(clean, denoised)
    assert psnr(clean, denoised).tolist() == pytest.approx(expected_psnr, abs=1e-6)
    assert ssim(clean, denoised).tolist() == pytest.approx(expected_ssim, abs=1e-6)


def test_known_values() -> None:
    clean = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64)
    assert psnr(clean, clean + 0.1).item() == pytest.approx(20)
    assert psnr(clean, clean).item() == float("inf")
    assert ssim(clean, clean).item() == pytest.approx(1)


def test_denoised_is_clamped() -> None:
    clean = torch.ones(1, 3, 16, 16)
    assert psnr(clean, clean + 5).item() == float("inf")


def test_one_value_per_image() -> None:
    clean = torch.rand(4, 3, 20, 20)
    denoised = clean.clone()
    denoised[2] = 0
    values = ssim(clean, denoised)
    assert values.shape == (4,)
    assert values.argmin() == 2


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="both sides >= 7, but the images are 6x20"):
        ssim(torch.rand(1, 3, 6, 20), torch.rand(1, 3, 6, 20))


def test_colour_drift_is_the_shift_of_the_means() -> None:
    """Differences that cancel out within a channel do not count; a tint does."""
    clean = torch.full((1, 3, 8, 8), 0.5)
    checkered = 0.2 * (torch.arange(64).reshape(8, 8) % 2 * 2.0 - 1)
    tint = torch.tensor([0.03, -0.03, 0.0])[:, None, None]
    images = torch.cat([clean, clean + checkered, clean + tint, clean + checkered + tint, clean + 2])
    assert colour_drift(clean, images).tolist() == pytest.approx([0, 0, 0.02, 0.02, 0.5], abs=1e-6)
