from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from denoisers import SMALL, Blur, image_of, save_denoiser
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn

from raygan.data.samples import EVALUATION_PHOTOS, sample_photos_folder
from raygan.inference.denoiser import Denoiser, ImageError, SelfEnsemble, denoise
from raygan.models import UNet
from raygan.noise import SaltAndPepper, add_noise
from raygan.seeds import torch_generator
from raygan.storage import Folder
from raygan.train.denoisers import DenoiserError
from raygan.train.step import computes_in_bfloat16


class Recorder(nn.Module):
    """Returns and remembers its input."""

    def forward(self, noisy: Tensor) -> Tensor:
        self.seen = noisy
        return noisy


@pytest.mark.parametrize("size", [(64, 128), (65, 100), (321, 481), (40, 70), (1, 1), (2, 200), (33, 64)])
def test_images_of_any_size_are_padded_by_reflection_and_cropped(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    network = Recorder()
    assert torch.equal(denoise(network, images, 64), images)
    height, width = network.seen.shape[-2:]
    assert height % 64 == width % 64 == 0
    assert height - size[0] < 64
    assert width - size[1] < 64


def test_padding_equals_torch_reflection() -> None:
    images = torch.rand(1, 3, 100, 90)
    network = Recorder()
    denoise(network, images, 64)
    assert torch.equal(network.seen, nn.functional.pad(images, (0, 38, 0, 28), mode="reflect"))


def test_padding_is_reflected_again_for_images_smaller_than_half_the_stride() -> None:
    network = Recorder()
    denoise(network, torch.tensor([0.1, 0.2, 0.3]).expand(1, 3, 1, 3), 8)
    assert network.seen[0, 0, 5].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.2, 0.1, 0.2, 0.3, 0.2])


def test_multiples_of_the_stride_are_not_padded() -> None:
    generator = UNet(base_width=4).build().eval()
    images = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        assert torch.equal(denoise(generator, images, 64), generator(images))


def test_self_ensemble_is_the_mean_over_all_flips_and_turns() -> None:
    """Against NumPy's turns; so it does not matter how an image is held."""
    generator = UNet(base_width=4).build().eval()
    image = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        found = SelfEnsemble(generator)(image)
        results = []
        for turns in range(4):
            for mirrored in (False, True):
                turned = torch.rot90(image.flip(3) if mirrored else image, turns, (2, 3))
                back = torch.rot90(generator(turned), -turns, (2, 3))
                results.append(back.flip(3) if mirrored else back)
        turned_first = SelfEnsemble(generator)(torch.rot90(image, 1, (2, 3)))
    torch.testing.assert_close(found, torch.stack(results).mean(dim=0))
    torch.testing.assert_close(turned_first, torch.rot90(found, 1, (2, 3)))


def test_a_denoiser_uses_the_self_ensemble_if_asked(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own")
    noisy = image_of((64, 128, 3), np.uint8)
    plain, averaged = (Denoiser.from_pretrained(folder, self_ensemble=chosen)(noisy) for chosen in (False, True))
    assert plain.shape == averaged.shape
    assert not np.array_equal(plain, averaged)
    # Turned first, the image gives the same result, but for rounding.
    turned = np.rot90(Denoiser.from_pretrained(folder, self_ensemble=True)(np.rot90(noisy).copy()), -1)
    assert np.abs(turned.astype(int) - averaged.astype(int)).max() <= 1


def test_strength_is_the_share_of_the_noise_that_is_removed(tmp_path: Path) -> None:
    folder, noisy = save_denoiser(tmp_path / "own"), image_of((64, 70, 3), np.float32)
    plain = Denoiser.from_pretrained(folder)(noisy)
    assert np.array_equal(Denoiser.from_pretrained(folder, strength=1)(noisy), plain)
    np.testing.assert_allclose(Denoiser.from_pretrained(folder, strength=0)(noisy), noisy, atol=1e-6)
    for strength in (0.5, 1.5):
        expected = np.clip(noisy + strength * (plain - noisy), 0, 1)
        np.testing.assert_allclose(Denoiser.from_pretrained(folder, strength=strength)(noisy), expected, atol=1e-5)
    for strength in (-0.1, 1.6, float("nan")):
        with pytest.raises(ImageError, match=r"strength must be from 0 to 1\.5"):
            Denoiser.from_pretrained(folder, strength=strength)


@pytest.fixture
def same(tmp_path: Path) -> Denoiser:
    return Denoiser.from_pretrained(save_denoiser(tmp_path / "same", identity=True), tile=128)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(140, 300), (200, 130, 1), (65, 64, 2), (300, 333, 3), (7, 290, 4), (1, 1, 3)])
def test_identity_keeps_shape_type_and_values(same: Denoiser, shape: tuple[int, ...], kind: Any) -> None:
    """Tiles are joined as they were cut, alpha is kept, and nothing is lost in conversions."""
    image = image_of(shape, kind)
    denoised = same(image)
    assert (denoised.shape, denoised.dtype) == (image.shape, image.dtype)
    np.testing.assert_allclose(denoised, image, rtol=0, atol=0 if image.dtype.kind == "u" else 1e-6)


def test_tiles_leave_no_seams(tmp_path: Path) -> None:
    """Against the whole image at once; tiles without overlap differ from that by ten times as much."""
    folder = save_denoiser(tmp_path / "own")
    image = image_of((300, 420, 3), np.float32)
    tiled = Denoiser.from_pretrained(folder, tile=128, precision="float32")
    noisy = torch.from_numpy(image).permute(2, 0, 1)[None]
    whole = denoise(tiled.generator, noisy, SMALL.stride)
    found = torch.from_numpy(tiled(image)).permute(2, 0, 1)[None]
    apart = torch.cat([denoise(tiled.generator, part, SMALL.stride) for part in noisy.split(128, dim=3)], dim=3)
    seams = (apart - whole).abs().max().item()
    assert seams > 0.01
    assert (found - whole).abs().max().item() < seams / 10
    # Within a single tile and far from its edges, the result is the same to the last digits.
    torch.testing.assert_close(found[..., :40, :40], whole[..., :40, :40], rtol=0, atol=1e-6)


def test_grey_is_denoised_as_grey_colour(tmp_path: Path) -> None:
    denoiser = Denoiser.from_pretrained(save_denoiser(tmp_path / "own"))
    grey = image_of((40, 50), np.float32)
    as_colour = denoiser(np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_allclose(denoiser(grey), as_colour.mean(axis=2), atol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 5), np.uint8), r"\(H, W\) or \(H, W, 1 to 4 channels\), but this one is \(4, 4, 5\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"but this one is \(2, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int32), "uint8, uint16 or floats, but this one is of int32"),
    ],
)
def test_unsupported_arrays_are_refused(same: Denoiser, image: NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        same(image)


def test_a_user_defined_generator_denoises(tmp_path: Path) -> None:
    image = image_of((300, 420, 3), np.float64)
    denoised = Denoiser.from_pretrained(save_denoiser(tmp_path / "own", Blur(size=5)), tile=200)(image)
    expected = uniform_filter(image, (5, 5, 1))
    # Tiles end in zero padding; blending weights are small, but not 0, there.
    np.testing.assert_allclose(denoised[5:-5, 5:-5], expected[5:-5, 5:-5], atol=0.05)
    np.testing.assert_allclose(denoised[5:100, 5:100], expected[5:100, 5:100], atol=1e-6)


def test_bfloat16_is_exact_to_a_hundredth_of_the_range(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own")
    image = image_of((130, 200, 3), np.float32)
    exact, rounded, chosen = (
        Denoiser.from_pretrained(folder, precision=precision)(image) for precision in ("float32", "bfloat16", "auto")
    )
    assert 0 < np.abs(rounded - exact).mean() < 0.01
    assert np.array_equal(chosen, rounded if computes_in_bfloat16("cpu") else exact)


def test_other_networks_are_computed_in_float32_by_default(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", Blur(size=5))
    image = image_of((30, 40, 3), np.float32)
    exact, chosen = (Denoiser.from_pretrained(folder, precision=precision) for precision in ("float32", "auto"))
    assert chosen.precision == "float32"
    assert np.array_equal(chosen(image), exact(image))


@pytest.mark.parametrize("name", ["synthetic", "small"])
def test_bfloat16_loses_less_than_a_hundredth_of_a_decibel(name: str) -> None:
    """Where errors are smallest, with salt and pepper: the layers at full resolution are exact."""
    clean = np.asarray(Image.open(sample_photos_folder(EVALUATION_PHOTOS) / "astronaut.png").convert("RGB"))
    clean = clean[100:292, 150:342].astype(np.float32) / 255
    planes = torch.from_numpy(clean).permute(2, 0, 1)[None]
    noisy = add_noise(planes, [SaltAndPepper()], [SaltAndPepper().mean], [torch_generator("test")])[0].permute(1, 2, 0)
    exact, rounded = (
        peak_signal_noise_ratio(clean, Denoiser.from_pretrained(name, precision=precision)(noisy.numpy()), data_range=1)
        for precision in ("float32", "bfloat16")
    )
    assert exact > 35
    assert rounded == pytest.approx(exact, abs=0.01)


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "same", identity=True)
    with pytest.raises(ImageError, match="one of auto, float32, bfloat16, not 'bf16'"):
        Denoiser.from_pretrained(folder, precision="bf16")  # type: ignore[arg-type]


def test_tiles_too_small_to_overlap_are_refused(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "same", identity=True)
    with pytest.raises(ImageError, match="at least 128 pixels wide for this denoiser, not 100"):
        Denoiser.from_pretrained(folder, tile=100)


def test_a_folder_without_a_denoiser_is_named(tmp_path: Path) -> None:
    with pytest.raises(DenoiserError, match=f"no denoiser in {tmp_path} "):
        Denoiser.from_pretrained(Folder(tmp_path))
