import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import raygan_here
from denoisers import Blur, image_of, save_denoiser
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import RegularGridInterpolator

from raygan.data.samples import EVALUATION_PHOTOS, sample_photos_folder
from raygan.errors import InputError
from raygan.inference.denoiser import Denoiser, ImageError
from raygan.inference.error import CalibrationError, ErrorBounds, calibrate, conformal_quantile, read_bounds
from raygan.inference.files import denoise_path
from raygan.noise import Gaussian, SaltAndPepper, Speckle, add_noise
from raygan.seeds import torch_generator
from raygan.storage import DamagedError, Folder

TABLE = ErrorBounds([0.01, 0.1, 0.2], [0.1, 0.9], [0.0, 0.1, 0.3, 0.4], image_of((3, 2, 4), np.float64).tolist())


def photos_of(count: int, seed: int, side: int = 128) -> list[NDArray[np.uint8]]:
    """Smooth pictures with edges."""
    random = np.random.default_rng(seed)
    pixels = (random.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(count))
    kinds = (Image.Resampling.BICUBIC, Image.Resampling.NEAREST)
    return [np.array(Image.fromarray(small).resize((side, side), kinds[i % 2])) for i, small in enumerate(pixels)]


def noisy_images(photos: list[NDArray[np.uint8]]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Clean and noisy images, with each of the paper's noises at its mean intensity."""
    for index, photo in enumerate(photos):
        clean = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
        for noise in (Gaussian(), SaltAndPepper(), Speckle()):
            noisy = add_noise(clean, [noise], [noise.mean], [torch_generator("test", index)])
            yield tuple(image[0].permute(1, 2, 0).numpy() for image in (clean, noisy))  # type: ignore[misc]


def coverage(denoiser: Denoiser, photos: list[NDArray[np.uint8]]) -> float:
    """Share of the pixels whose error is within the bound."""
    inside = []
    for clean, noisy in noisy_images(photos):
        denoised, bound = denoiser.with_error(noisy)
        assert (bound.shape, bound.dtype) == (clean.shape[:2], np.float32)
        inside.append((np.abs(denoised - clean).max(axis=2) <= bound).mean())
    return float(np.mean(inside))


def test_conformal_quantile_counts_the_value_to_come() -> None:
    values = np.random.default_rng(0).permutation(19).astype(np.float32)
    # 0.9 of the 20 values that there will be: the 18th of the 19.
    assert conformal_quantile(values) == 17
    assert conformal_quantile(np.arange(10, dtype=np.float32)) == 9


def test_bounds_are_interpolated_in_the_table() -> None:
    features = [torch.rand(2, 1, 5, 6) * most for most in (0.3, 1.1, 0.5)]
    points = (TABLE.levels, TABLE.spreads, TABLE.textures)
    expected = RegularGridInterpolator(points, TABLE.bounds, bounds_error=False, fill_value=None)(
        np.stack([values.clamp(of[0], of[-1]).numpy() for values, of in zip(features, points, strict=True)], axis=-1)
    )
    np.testing.assert_allclose(TABLE.at(features).numpy(), expected, atol=1e-5)


def test_a_calibrated_denoiser_covers_90_percent(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", Blur())
    bounds = calibrate(folder, photos_of(12, seed=0))
    bounds.write(folder)
    assert read_bounds(folder) == bounds
    assert coverage(Denoiser.from_pretrained(folder), photos_of(8, seed=1)) == pytest.approx(0.9, abs=0.03)


def test_synthetic_covers_90_percent() -> None:
    """On four photos, which vary."""
    folder = sample_photos_folder(EVALUATION_PHOTOS)
    photos = [np.array(Image.open(folder / name).convert("RGB"))[64:192, 64:192] for name in EVALUATION_PHOTOS]
    assert coverage(Denoiser.from_pretrained(), photos) == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize("shape", [(300, 210), (300, 210, 3)])
def test_the_error_map_does_not_depend_on_the_tiles(shape: tuple[int, ...]) -> None:
    small = image_of((15, 14, *shape[2:]), np.uint8)
    noisy = np.array(Image.fromarray(small).resize(shape[1::-1], Image.Resampling.BICUBIC)) / np.float32(255)
    noisy = (noisy + np.random.default_rng(0).normal(0, 0.1, shape)).clip(0, 1).astype(np.float32)
    (whole, bound), (tiled, bound_in_tiles) = (
        Denoiser.from_pretrained("synthetic", tile=tile).with_error(noisy) for tile in (512, 136)
    )
    assert bound.shape == shape[:2]
    assert np.array_equal(whole, Denoiser.from_pretrained(precision="float32")(noisy))
    assert np.abs(tiled - whole).max() < 0.1
    assert np.abs(bound_in_tiles - bound).max() < 0.1 * bound.max()
    assert np.abs(bound_in_tiles - bound).mean() < 0.01 * bound.mean()


@pytest.fixture
def calibrated(tmp_path: Path) -> Folder:
    folder = save_denoiser(tmp_path / "own", Blur())
    TABLE.write(folder)
    return folder


@pytest.mark.parametrize("mode", ["RGB", "LA"])
def test_the_error_map_is_a_16_bit_file(tmp_path: Path, mode: str) -> None:
    # Of a class that the command can import.
    checkpoint = save_denoiser(tmp_path / "small")
    TABLE.write(checkpoint)
    pixels = image_of((300, 200, len(mode)), np.uint8)
    Image.fromarray(pixels, mode).save(tmp_path / "noisy.png")
    paths = [str(tmp_path / name) for name in ("noisy.png", "new.png", "maps/error.tif")]
    result = raygan_here("denoise", *paths[:2], "--error-map", paths[2], "--checkpoint", checkpoint)
    assert result.returncode == 0, result.stderr
    denoised, bound = Denoiser.from_pretrained(checkpoint).with_error(pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(paths[1])), denoised)
    found = np.asarray(Image.open(paths[2]))
    assert found.shape == (300, 200)
    np.testing.assert_allclose(found, bound * 65535, atol=2)
    assert (found >= bound * 65535 - 1).all()


@pytest.mark.parametrize(
    ("noisy", "error_map", "message"),
    [
        ("photo.png", "error.jpg", r"the error map's name must end in \.png, \.tif, \.tiff, but it is 'error\.jpg'"),
        ("photos", "error.png", "an error map is written for one image, but photos is a folder: give an image file"),
        ("photo.png", "photo.png", "the error map would overwrite an image, photo.png"),
        ("photo.png", "./clean.png", "the error map would overwrite an image, ./clean.png"),
        ("photo.png", "photo.png/error.png", "nothing can be written in .*photo.png"),
    ],
)
def test_impossible_error_maps_are_refused(
    calibrated: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noisy: str, error_map: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save("photo.png")
    with pytest.raises(InputError, match=message):
        denoise_path(
            Denoiser.from_pretrained(calibrated),
            noisy,
            "clean.png" if noisy.endswith("png") else "clean",
            error_map=error_map,
        )
    assert not (tmp_path / "clean.png").exists()


def test_denoisers_without_calibrated_bounds_are_refused(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", Blur())
    with pytest.raises(ImageError, match=r"has no calibrated error bounds \(no error.json\): calibrate it with"):
        Denoiser.from_pretrained(folder).with_error(image_of((8, 8), np.uint8))
    (tmp_path / "own" / "error.json").write_text(json.dumps({"levels": [1]}))
    with pytest.raises(DamagedError, match=r"error.json is damaged .*: restore it from a copy, or calibrate"):
        Denoiser.from_pretrained(folder).with_error(image_of((8, 8), np.uint8))


@pytest.mark.parametrize("options", [{"strength": 0.5}, {"self_ensemble": True}])
def test_bounds_hold_for_the_calibrated_computation_alone(calibrated: Folder, options: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="calibrated for strength 1 without self-ensemble: leave these"):
        Denoiser.from_pretrained(calibrated, **options).with_error(image_of((8, 8), np.uint8))


def test_calibration_needs_photos_as_large_as_its_crops(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", Blur())
    for photos in ([], photos_of(2, seed=0, side=100)):
        with pytest.raises(CalibrationError, match="calibration needs photos, all of 128x128 pixels or more"):
            calibrate(folder, photos)
