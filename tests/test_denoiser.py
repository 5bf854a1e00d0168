import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from raygan.inference.tiles import denoise
from raygan.models.generator import build_generator

from raygan.config.section import with_values
from raygan.inference.denoiser import Denoiser, ImageError
from raygan.presets import PAPER_V1
from raygan.study.storage import Folder
from raygan.train.checkpoint import DenoiserError


def save_denoiser(folder: Path, *, identity: bool) -> Folder:
    """A small residual U-Net as training keeps it: fresh, which is the identity, or with a last layer that is not."""
    values = {"architecture": "residual_unet", "base_width": 4, "depth": 2, "blocks": 1, "residual": True}
    values |= {"normalization": "none"}
    config = with_values(PAPER_V1, {f"generator/{name}": value for name, value in values.items()})
    torch.manual_seed(0)
    generator = build_generator(config.generator)
    if not identity:
        last = generator.output[0]  # type: ignore[index]
        torch.nn.init.normal_(last.weight, std=0.1)
    folder.mkdir(parents=True)
    safetensors.torch.save_file(generator.state_dict(), folder / "generator.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    return Folder(folder)


@pytest.fixture
def same(tmp_path: Path) -> Denoiser:
    return Denoiser(save_denoiser(tmp_path / "same", identity=True), tile=128)


def image_of(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    random = np.random.default_rng(0)
    if np.dtype(kind).kind == "f":
        return random.random(shape).astype(kind)
    return random.integers(0, np.iinfo(kind).max, shape, endpoint=True).astype(kind)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(140, 300), (200, 130, 1), (65, 64, 2), (300, 333, 3), (7, 290, 4), (1, 1, 3)])
def test_what_needs_no_denoising_comes_back_in_its_own_form(same: Denoiser, shape: tuple[int, ...], kind: Any) -> None:
    """Tiles are put together as they were cut, alpha is kept, and nothing is lost in conversions."""
    image = image_of(shape, kind)
    denoised = same(image)
    assert (denoised.shape, denoised.dtype) == (image.shape, image.dtype)
    np.testing.assert_allclose(denoised, image, rtol=0, atol=0 if image.dtype.kind == "u" else 1e-6)


def test_tiles_leave_no_seams(tmp_path: Path) -> None:
    """Against the whole image at once; tiles without overlap differ from that by ten times as much."""
    folder = save_denoiser(tmp_path / "own", identity=False)
    image = image_of((300, 420, 3), np.float32)
    tiled = Denoiser(folder, tile=128)
    noisy = torch.from_numpy(image).permute(2, 0, 1)[None]
    whole = denoise(tiled.generator, noisy)
    found = torch.from_numpy(tiled(image)).permute(2, 0, 1)[None]
    apart = torch.cat([denoise(tiled.generator, part) for part in noisy.split(128, dim=3)], dim=3)
    seams = (apart - whole).abs().max().item()
    assert seams > 0.01
    assert (found - whole).abs().max().item() < seams / 10
    # Where one tile alone says what is there, far from its own edges, it is the same to the last digits.
    torch.testing.assert_close(found[..., :40, :40], whole[..., :40, :40], rtol=0, atol=1e-6)


def test_grey_is_denoised_as_grey_colour(tmp_path: Path) -> None:
    denoiser = Denoiser(save_denoiser(tmp_path / "own", identity=False))
    grey = image_of((40, 50), np.float32)
    as_colour = denoiser(np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_allclose(denoiser(grey), as_colour.mean(axis=2), atol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 5), np.uint8), r"\(H, W\) or \(H, W, 1 to 4 channels\), but this one is \(4, 4, 5\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"but this one is \(2, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int32), "uint8, uint16 or real numbers, but this one is of int32"),
    ],
)
def test_what_is_no_image_is_refused(same: Denoiser, image: NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        same(image)


def test_bfloat16_is_exact_to_a_hundredth_of_the_range(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", identity=False)
    image = image_of((130, 200, 3), np.float32)
    exact, rounded = Denoiser(folder)(image), Denoiser(folder, precision="bfloat16")(image)
    assert 0 < np.abs(rounded - exact).mean() < 0.01


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "same", identity=True)
    with pytest.raises(ImageError, match="one of float32, bfloat16, not 'bf16'"):
        Denoiser(folder, precision="bf16")  # type: ignore[arg-type]


def test_tiles_must_be_large_enough_to_overlap(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "same", identity=True)
    with pytest.raises(ImageError, match="at least 128 pixels wide for this denoiser, not 100"):
        Denoiser(folder, tile=100)


def test_a_folder_without_a_denoiser_is_named(tmp_path: Path) -> None:
    with pytest.raises(DenoiserError, match=f"no denoiser in {tmp_path} .no generator.safetensors and no config"):
        Denoiser(Folder(tmp_path))
