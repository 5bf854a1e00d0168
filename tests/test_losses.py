import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import shared, write_vgg19
from PIL import Image
from torch.nn import functional

from raygan.losses import MeanSquaredError, Vgg19Features, WeightsError, adversarial_loss, pixel_loss

LAYERS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")


@pytest.fixture
def keras_file(tmp_path: Path) -> Path:
    return write_vgg19(tmp_path / "vgg19.npz")


def keras_features(file: Path, images: torch.Tensor) -> torch.Tensor:
    """conv2_2's features, written down once more from the data's README."""
    arrays = {name: torch.from_numpy(array) for name, array in np.load(file).items()}
    features = images.flip(1) * 255 - torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
    for layer in LAYERS:
        features = functional.relu(
            functional.conv2d(features, arrays[f"{layer}.weight"], arrays[f"{layer}.bias"], padding=1)
        )
        if layer == "conv1_2":
            features = functional.max_pool2d(features, 2, 2)
    return features


def content_loss(file: Path, scale: str, clean: torch.Tensor, denoised: torch.Tensor) -> float:
    loss = Vgg19Features(weights=str(file), scale=scale)  # type: ignore[arg-type]
    return float(loss.build(loss.read_weights())(clean, denoised))


def test_vgg19_loss_with_keras_weights_in_every_scale(keras_file: Path) -> None:
    clean, denoised = torch.rand(2, 2, 3, 32, 32)
    expected_clean, expected_denoised = keras_features(keras_file, clean), keras_features(keras_file, denoised)
    distance = (expected_clean - expected_denoised).square().mean().item()
    assert content_loss(keras_file, "paper", clean, denoised) == pytest.approx(distance, rel=1e-4)
    assert content_loss(keras_file, "source", clean, denoised) == pytest.approx(0.006 * distance, rel=1e-4)
    relative = distance / expected_clean.square().mean().item()
    assert content_loss(keras_file, "relative", clean, denoised) == pytest.approx(relative, rel=1e-4)


def test_vgg19_loss_with_torchvisions_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.vgg19(weights=None)
    torch.save(network.state_dict(), tmp_path / "vgg19.pth")
    clean, denoised = torch.rand(2, 2, 3, 32, 32)
    prepare = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    conv2_2 = network.features[:9].eval()
    with torch.no_grad():
        expected = functional.mse_loss(conv2_2(prepare(clean)), conv2_2(prepare(denoised))).item()
    assert content_loss(tmp_path / "vgg19.pth", "paper", clean, denoised) == pytest.approx(expected, rel=1e-4)


def test_vgg19_loss_sends_gradients_to_the_denoised_image_only(keras_file: Path) -> None:
    clean = torch.rand(1, 3, 16, 16, requires_grad=True)
    denoised = torch.rand(1, 3, 16, 16, requires_grad=True)
    loss = Vgg19Features(weights=str(keras_file))
    loss.build(loss.read_weights())(clean, denoised).backward()
    assert clean.grad is None
    assert denoised.grad is not None
    assert denoised.grad.abs().sum() > 0


def test_real_weights_have_the_magnitudes_that_the_data_states() -> None:
    file = shared("vgg19/vgg19_keras_conv1_1_to_conv2_2.npz")
    names = ["test/101085.jpg", "test/86000.jpg", "train/8143.jpg", "test/253027.jpg"]
    pixels = np.stack([np.asarray(Image.open(shared(f"bsd300/{name}")))[:256, :256] for name in names])
    clean = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    noisy = (clean + 50 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert 40_000 < content_loss(file, "paper", clean, noisy) < 110_000


def test_pixel_losses_are_the_mean_squared_and_the_mean_absolute_error() -> None:
    clean, denoised = torch.rand(2, 2, 3, 8, 8)
    content = MeanSquaredError()
    assert content.weights_source is None
    squared = content.build(content.read_weights())(clean, denoised)
    assert squared.item() == pytest.approx((clean - denoised).square().mean().item())
    assert pixel_loss(clean, denoised).item() == pytest.approx((clean - denoised).abs().mean().item())


def test_vgg19_loss_describes_its_weights(keras_file: Path) -> None:
    digest = hashlib.sha256(keras_file.read_bytes()).hexdigest()
    described = Vgg19Features(weights=str(keras_file), scale="relative").describe()
    assert f"loss/content/scale=relative, weights {keras_file.name} (SHA-256 {digest})" in described
    assert Vgg19Features(weights="a.npz").weights_source == "a.npz"


def test_adversarial_loss_is_binary_cross_entropy_of_the_sigmoid() -> None:
    scores = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
    probabilities = 1 / (1 + np.exp(-scores.numpy()))
    assert adversarial_loss(scores, clean=True).item() == pytest.approx(-np.log(probabilities).mean())
    assert adversarial_loss(scores, clean=False).item() == pytest.approx(-np.log(1 - probabilities).mean())


def test_missing_damaged_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.pth").write_text("no weights")
    np.savez(tmp_path / "other.npz", **{"conv1_1.weight": np.zeros((64, 1, 3, 3))})
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "short.pth")
    for name, message in {
        "absent.npz": "is not a file",
        "text.npz": "cannot be read",
        "text.pth": "cannot be read",
        "other.npz": r"conv1_1.weight must have shape \(64, 3, 3, 3\), but is of shape \(64, 1",
        "short.pth": r"features.0.bias must have shape \(64,\), but is missing",
    }.items():
        with pytest.raises(WeightsError, match=message):
            Vgg19Features(weights=str(tmp_path / name)).read_weights()
