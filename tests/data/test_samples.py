import numpy as np
import pytest
from PIL import Image

from raygan.data.samples import EVALUATION_PHOTOS, VALIDATION_PHOTOS, dead_leaves, sample_photos_folder


def test_images_depend_on_seed_and_index_alone() -> None:
    image = dead_leaves(64, seed=1, index=2)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, dead_leaves(64, seed=1, index=2))
    assert not np.array_equal(image, dead_leaves(64, seed=1, index=3))
    assert not np.array_equal(image, dead_leaves(64, seed=2, index=2))


def test_statistics_are_those_of_natural_images() -> None:
    images = np.stack([dead_leaves(128, seed=0, index=index) for index in range(24)]) / 255
    # They use the whole range without being mostly clipped, and are coloured but not garish.
    assert 0.35 < images.mean() < 0.65
    assert 0.15 < images.std() < 0.35
    assert ((images == 0) | (images == 1)).mean() < 0.15
    assert 0.02 < images.std(axis=3).mean() < 0.2
    # Power spectra of natural images fall about as frequency^-2 (Ruderman and Bialek, 1994).
    grey = images.mean(axis=3)
    power = (np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    radius = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None]) * 128
    bands = [(radius >= low) & (radius < 1.3 * low) for low in (3, 5, 8, 12, 20, 32)]
    slope = np.polyfit(
        np.log([radius[band].mean() for band in bands]), np.log([power[band].mean() for band in bands]), 1
    )[0]
    assert -3 < slope < -1.5


def test_validation_and_evaluation_share_no_photo() -> None:
    assert set(VALIDATION_PHOTOS).isdisjoint(EVALUATION_PHOTOS)
    folder = sample_photos_folder(VALIDATION_PHOTOS + EVALUATION_PHOTOS)
    for name in VALIDATION_PHOTOS + EVALUATION_PHOTOS:
        with Image.open(folder / name) as photo:
            assert photo.mode == "RGB"
            assert min(photo.size) >= 256


def test_a_missing_photo_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.png"):
        sample_photos_folder(("astronaut.png", "absent.png"))
