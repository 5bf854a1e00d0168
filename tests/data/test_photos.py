import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared
from PIL import Image

from raygan.config.run import DataConfig
from raygan.data.photos import Photos, TrainingPhotos, evaluation_photos, fingerprint, fixed_crops, training_photos
from raygan.data.sources import PhotoFolder, PhotosError, Samples

pytestmark = pytest.mark.usefixtures("ray_here")
Write = Callable[..., Path]


def data_of(folder: Path, **changes: Any) -> DataConfig:
    values = {"crop_size": 64, "train_photos": 8, "val_photos": 2} | changes
    return DataConfig(photos=PhotoFolder(location=str(folder)), evaluate_on=Samples(), **values)


def read(folder: Path, **changes: Any) -> TrainingPhotos:
    return training_photos(data_of(folder, **changes), memory=1e9)


def test_photos_are_split_and_decoded_as_pillow_does(write_photos: Write) -> None:
    folder = write_photos(12)
    photos = read(folder)
    assert (len(photos.train), len(photos.validation)) == (8, 2)
    assert set(photos.train.names).isdisjoint(photos.validation.names)
    for part in (photos.train, photos.validation):
        for name, pixels in zip(part.names, part.pixels, strict=True):
            assert np.array_equal(pixels, np.asarray(Image.open(folder / name)))


def test_the_split_depends_on_names_and_seed_alone(write_photos: Write) -> None:
    first, copy = write_photos(12, "first"), write_photos(12, "copy")
    assert read(first).train.names == read(copy).train.names
    assert read(first).train.names != read(first, seed=1).train.names


def test_a_small_folder_validates_on_a_fifth(write_photos: Write) -> None:
    photos = read(write_photos(10), train_photos=1000, val_photos=100)
    assert (len(photos.train), len(photos.validation)) == (8, 2)


def test_photos_of_many_sizes_and_in_subfolders(write_photos: Write, tmp_path: Path) -> None:
    write_photos(3, "photos")
    write_photos(3, "photos/inner", size=(64, 200))
    photos = read(tmp_path / "photos")
    assert {pixels.shape for pixels in photos.train.pixels + photos.validation.pixels} == {(80, 96, 3), (64, 200, 3)}
    assert sum(name.startswith("inner/") for name in photos.train.names + photos.validation.names) == 3


def test_unusable_photos_are_skipped_counted_and_named(write_photos: Write, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_photos(4)
    write_photos(1, mode="L")
    write_photos(1, mode="RGBA")
    write_photos(1, mode="P")
    Image.new("RGB", (63, 300)).save(folder / "narrow.png")
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no image")
    whole = (folder / "RGB-000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not an image file, so not even looked at")
    photos = read(folder)
    assert (len(photos.train), len(photos.validation)) == (3, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "skipped 7 of 11 photos: 1 not 3-channel RGB (mode L) (L-000.png); 1 not 3-channel RGB (mode P) (P-000.png); "
        "1 not 3-channel RGB (mode RGBA) (RGBA-000.png); 1 smaller than 64x64 (narrow.png); "
        "3 unreadable (cut.png, empty.jpg, text.png)"
    ]


def test_copies_are_used_once(write_photos: Write, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_photos(4)
    for name in ("RGB-000.png", "RGB-001.png"):
        (folder / f"copy-of-{name}").write_bytes((folder / name).read_bytes())
    (folder / "linked").symlink_to(folder)
    photos = read(folder)
    assert (len(photos.train), len(photos.validation)) == (3, 1)
    assert "skipped 2 of 6 photos: 2 a copy of another photo" in caplog.text


@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_odd_files_do_not_end_a_run(write_photos: Write, caplog: pytest.LogCaptureFixture, cache: str) -> None:
    folder = write_photos(4)
    (folder / "program.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "nowhere.png").symlink_to("absent.png")
    Image.new("RGB", (1100, 1000)).save(folder / "large.png")
    frames = [Image.new("RGB", (80, 80), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:])
    # Width and height as fractions, for which Pillow raises a TypeError.
    tiff = io.BytesIO()
    Image.new("RGB", (80, 80)).save(tiff, "TIFF")
    content = bytearray(tiff.getvalue())
    entry = content.index(struct.pack("<HH", 256, 4)) if struct.pack("<HH", 256, 4) in content else None
    entry = content.index(struct.pack("<HH", 256, 3)) if entry is None else entry
    content[entry + 2 : entry + 4] = struct.pack("<H", 12)
    (folder / "fraction.tif").write_bytes(content)
    photos = training_photos(data_of(folder, cache=cache, max_megapixels=1), memory=1e9)
    assert (len(photos.train), len(photos.validation)) == (3, 1)
    assert (
        "skipped 5 of 9 photos: 1 animated (animated.png); 1 larger than 1 megapixels (large.png); "
        "3 unreadable (fraction.tif, nowhere.png, program.jpg)"
    ) in caplog.text


def test_odd_metadata_does_not_matter(write_photos: Write, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_photos(4)
    Image.effect_noise((96, 96), 60).convert("RGB").save(folder / "scan.tif", dpi=(72, 72))
    content = (folder / "scan.tif").read_bytes()
    # The horizontal resolution, tag 282, twice.
    entry = content.index(struct.pack("<HHI", 282, 5, 1))
    (folder / "scan.tif").write_bytes(content[: entry + 4] + struct.pack("<I", 2) + content[entry + 8 :])
    with pytest.warns(UserWarning, match="Metadata Warning"), Image.open(folder / "scan.tif") as image:
        image.load()
    photos = training_photos(data_of(folder), memory=1e9)
    assert len(photos.train) + len(photos.validation) == 5
    assert "skipped" not in caplog.text


def test_a_preview_behind_a_cameras_photo_does_not_matter(
    write_photos: Write, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_photos(4)
    photo, preview = (Image.effect_noise((side, side), 60).convert("RGB") for side in (96, 32))
    photo.save(folder / "camera.jpg", "MPO", save_all=True, append_images=[preview])
    # What an editor leaves of the index: no number of images, of which Pillow warns.
    content = (folder / "camera.jpg").read_bytes()
    number = b"\x01\xb0" if b"MPF\0II" in content else b"\xb0\x01"
    (folder / "edited.jpg").write_bytes(content.replace(number, b"\xb0\xb0", 1) + b"edited")
    with pytest.warns(UserWarning, match="malformed MPO"):
        Image.open(folder / "edited.jpg").close()
    photos = training_photos(data_of(folder), memory=1e9)
    assert len(photos.train) + len(photos.validation) == 6
    assert "skipped" not in caplog.text


def test_other_formats_and_results_are_no_input(write_photos: Write, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_photos(4)
    Image.new("RGB", (80, 80)).save(folder / "other.bmp")
    for place, mark in (("studies/one", "study.json"), ("evaluation", "per_image.csv")):
        (folder / place / "pictures").mkdir(parents=True)
        (folder / place / mark).touch()
        Image.new("RGB", (80, 80)).save(folder / place / "pictures" / "result.png")
    assert len(read(folder).train) == 3
    assert "left out 1 images that are not of .jpg, .jpeg, .png, .webp, .tif, .tiff: other.bmp" in caplog.text
    assert f"left out earlier results in {folder}: evaluation/, studies/one/" in caplog.text


def test_photos_are_told_by_their_contents(write_photos: Write) -> None:
    first, copy = write_photos(4, "first"), write_photos(4, "copy")
    assert read(first).sha256 == read(copy).sha256 == read(first, cache="stream").sha256
    files = [fingerprint(*PhotoFolder(location=f"{folder}/").find()) for folder in (first, copy)]
    assert files[0] == files[1]
    Image.new("RGB", (80, 96)).save(copy / "RGB-000.png")
    assert read(first).sha256 != read(copy).sha256
    assert fingerprint(*PhotoFolder(location=str(copy)).find()) != files[0]


@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_fixed_crops_are_one_of_each_photo_and_the_same_again(write_photos: Write, cache: str) -> None:
    data = data_of(write_photos(6), cache=cache)
    photos = training_photos(data, memory=1e9)
    first, again = ([part.take_all() for part in fixed_crops(photos, data)] for _ in range(2))
    whole = read(write_photos(6))
    for rows, repeated, part, name in zip(
        first, again, (whole.train, whole.validation), ("training", "validation"), strict=True
    ):
        assert isinstance(part, Photos)
        assert [row["name"] for row in rows] == part.names
        assert {row["set"] for row in rows} == {name}
        for row, other, pixels in zip(rows, repeated, part.pixels, strict=True):
            assert np.array_equal(row["pixels"], other["pixels"])
            windows = np.lib.stride_tricks.sliding_window_view(pixels, (64, 64, 3))[:, :, 0]
            assert (windows == row["pixels"]).all(axis=(2, 3, 4)).any()


def test_enough_usable_photos_are_found_behind_unusable_ones(write_photos: Write) -> None:
    folder = write_photos(10)
    for index in range(30):
        (folder / f"broken-{index}.jpg").touch()
    photos = read(folder)
    assert (len(photos.train), len(photos.validation)) == (8, 2)


def test_missing_empty_and_useless_folders_are_refused(write_photos: Write, tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match=r"absent does not exist; give a folder"):
        read(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotosError, match=r"empty holds no image files"):
        read(tmp_path / "empty")
    with pytest.raises(PhotosError, match=r"has 1 usable photos of 1, but at least 2 are needed"):
        read(write_photos(1, "one"))
    with pytest.raises(PhotosError, match=r"has 0 usable photos of 3"):
        read(write_photos(3, "small"), crop_size=128)


def test_the_sample_set_needs_no_data() -> None:
    data = DataConfig(photos=Samples(), evaluate_on=Samples(), train_photos=3, crop_size=64)
    photos = training_photos(data, memory=0)
    assert photos.train.names == ["dead-leaves-00000", "dead-leaves-00001", "dead-leaves-00002"]
    assert {pixels.shape for pixels in photos.train.pixels} == {(256, 256, 3)}
    evaluated = {row["name"] for row in evaluation_photos(Samples()).take_all()}
    assert len(photos.validation) == len(evaluated) == 4
    assert evaluated.isdisjoint(photos.validation.names)


def test_evaluation_takes_all_usable_photos_of_any_size(
    write_photos: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_photos(3, "photos", size=(20, 40))
    write_photos(2, "photos/test", size=(33, 17))
    (tmp_path / "photos" / "broken.png").touch()
    rows = evaluation_photos(PhotoFolder(location=str(tmp_path / "photos"))).take_all()
    assert sorted(row["name"] for row in rows) == [
        "RGB-000.png",
        "RGB-001.png",
        "RGB-002.png",
        "test/RGB-000.png",
        "test/RGB-001.png",
    ]
    assert {row["pixels"].shape for row in rows} == {(20, 40, 3), (33, 17, 3)}
    assert "skipped 1 of 6 photos: 1 unreadable (broken.png)" in caplog.text
    with pytest.raises(PhotosError, match="no usable photo to evaluate on"):
        evaluation_photos(PhotoFolder(location=str(write_photos(2, "tiny", size=(8, 8)))))


def test_real_coco_photos() -> None:
    photos = read(shared("coco"), crop_size=256, train_photos=1000, val_photos=100)
    assert (len(photos.train), len(photos.validation)) == (477, 100)
    assert min(min(pixels.shape[:2]) for pixels in photos.train.pixels) >= 256


def test_real_bsd300_is_complete() -> None:
    rows = evaluation_photos(PhotoFolder(location=str(shared("bsd300")))).take_all()
    assert {row["pixels"].shape for row in rows} == {(321, 481, 3), (481, 321, 3)}
    assert sum(row["name"].startswith("test/") for row in rows) == 100
    assert len(rows) == 300
