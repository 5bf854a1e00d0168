from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shared, write_vgg19
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.signal import correlate2d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from raygan.losses import Vgg19, read_vgg19_weights
from raygan.metrics import colour_drift, psnr, ssim, vgg_distance


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


def test_one_value_an_image() -> None:
    clean = torch.rand(4, 3, 20, 20)
    denoised = clean.clone()
    denoised[2] = 0
    values = ssim(clean, denoised)
    assert values.shape == (4,)
    assert values.argmin() == 2


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="both sides >= 7, but the images are 6x20"):
        ssim(torch.rand(1, 3, 6, 20), torch.rand(1, 3, 6, 20))


def test_colour_drift_is_that_of_the_means() -> None:
    """Noise around the same colour does not count, nor do differences that even out within a channel; a tint does."""
    clean = torch.full((1, 3, 8, 8), 0.5)
    checkered = 0.2 * (torch.arange(64).reshape(8, 8) % 2 * 2.0 - 1)
    tint = torch.tensor([0.03, -0.03, 0.0])[:, None, None]
    images = torch.cat([clean, clean + checkered, clean + tint, clean + checkered + tint, clean + 2])
    assert colour_drift(clean, images).tolist() == pytest.approx([0, 0, 0.02, 0.02, 0.5], abs=1e-6)


def reference_vgg_distance(file: Path, clean: np.ndarray, denoised: np.ndarray) -> float:
    """Of two images (3, H, W), written down once more in NumPy, the whole image at once."""
    arrays = np.load(file)
    layers = []
    for image in (clean, denoised):
        features = image[::-1] * 255 - np.array([103.939, 116.779, 123.68])[:, None, None]
        units = []
        for layer in ("conv1_1", "conv1_2", "conv2_1", "conv2_2"):
            weights, biases = arrays[f"{layer}.weight"], arrays[f"{layer}.bias"]
            features = np.stack(
                [
                    sum(correlate2d(channel, kernel, "same") for channel, kernel in zip(features, kernels, strict=True))
                    + bias
                    for kernels, bias in zip(weights, biases, strict=True)
                ]
            ).clip(0)
            if layer.endswith("_2"):
                lengths = np.sqrt((features**2).sum(axis=0))
                units.append(np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0))
            if layer == "conv1_2":
                height, width = (side // 2 for side in features.shape[1:])
                parts = features[:, : 2 * height, : 2 * width].reshape(len(features), height, 2, width, 2)
                features = parts.max(axis=(2, 4))
        layers.append(units)
    return float(np.mean([((ours - theirs) ** 2).sum(axis=0).mean() for ours, theirs in zip(*layers, strict=True)]))


def test_vgg_distance_is_that_of_unit_features(tmp_path: Path) -> None:
    vgg19 = Vgg19(read_vgg19_weights(write_vgg19(tmp_path / "vgg19.npz")))
    clean, *others = torch.rand(3, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    expected = [
        reference_vgg_distance(tmp_path / "vgg19.npz", clean.double().numpy(), one.double().numpy()) for one in others
    ]
    assert vgg_distance(clean[None], torch.stack(others), vgg19).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [(128, 20), (129, 20), (261, 21), (384, 16)])
def test_vgg_distance_is_the_same_however_many_bands_an_image_takes(tmp_path: Path, size: tuple[int, int]) -> None:
    vgg19 = Vgg19(read_vgg19_weights(write_vgg19(tmp_path / "vgg19.npz")))
    clean, denoised = torch.rand(2, 1, 3, *size, generator=torch.Generator().manual_seed(0))
    features = [dict(vgg19.features_by_layer(image)) for image in (clean, denoised)]
    layers = []
    for name in ("conv1_2", "conv2_2"):
        ours, theirs = (one[name] / one[name].norm(dim=1, keepdim=True) for one in features)
        layers.append((ours - theirs).square().sum(dim=1).mean().item())
    assert vgg_distance(clean, denoised, vgg19).item() == pytest.approx(np.mean(layers), rel=1e-4)


def test_vgg_distance_of_equal_images_is_0_and_of_clamped_ones_too(tmp_path: Path) -> None:
    vgg19 = Vgg19(read_vgg19_weights(write_vgg19(tmp_path / "vgg19.npz")))
    clean = torch.rand(1, 3, 20, 20).round()
    assert vgg_distance(clean, torch.cat([clean, 3 * clean - 1, 1 - clean]), vgg19).tolist()[:2] == [0, 0]


def test_vgg_distance_with_real_weights_is_worse_for_what_looks_worse() -> None:
    vgg19 = Vgg19(read_vgg19_weights(shared("vgg19/vgg19_keras_conv1_1_to_conv2_2.npz")))
    pixels = np.asarray(Image.open(shared("bsd300/test/101085.jpg"))).transpose(2, 0, 1)[None] / 255
    clean = torch.from_numpy(pixels).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    blurred = [torch.from_numpy(gaussian_filter(pixels, (0, 0, sigma, sigma))).float() for sigma in (1, 3)]
    images = [clean, *blurred, clean + 0.05 * noise, clean + 0.2 * noise]
    equal, blurred_a_little, blurred_much, *noisy = vgg_distance(clean, torch.cat(images), vgg19).tolist()
    assert equal == 0
    assert 0.001 < blurred_a_little < blurred_much < 2
    assert 0.001 < noisy[0] < noisy[1] < 2
