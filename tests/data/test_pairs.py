"""Pairs of noisy and clean photos: finding, reading, splitting, cutting."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import ray
import torch
from PIL import Image

from raygan.config.run import DataConfig, TrainingConfig
from raygan.config.section import ConfigError, flat_values, parse_value, with_values
from raygan.data.crops import CachedCrops, StreamedCrops, pairs_in_batch
from raygan.data.pairs import evaluation_pairs, held_out_pairs, with_pairs
from raygan.data.photos import Photos, StoredPhotos, TrainingPhotos, training_photos
from raygan.data.sources import PairFolder, PhotosError, Samples
from raygan.presets import PAPER_V1
from raygan.storage import Folder

Write = Callable[..., Path]
DATA = DataConfig(photos=Samples(), evaluate_on=Samples(), crop_size=64, val_crops=5)
NO_PHOTOS = TrainingPhotos(Photos([], []), Photos([], []), "photos")


def noise(pixels: Any) -> np.ndarray:
    """The noisy version of a photo, which tells its clean one."""
    return (np.asarray(pixels) // 2 + 40).astype(np.uint8)


@pytest.fixture
def pairs(write_photos: Write) -> Path:
    """Ten pairs, in a folder."""
    write_photos(0, "pairs")
    folder = write_photos(10, "pairs/clean")
    noisy = folder.parent / "noisy"
    noisy.mkdir()
    for file in folder.iterdir():
        Image.fromarray(noise(Image.open(file))).save(noisy / file.name)
    return folder.parent


def read(folder: Path | str, **changes: Any) -> TrainingPhotos:
    source = PairFolder(location=str(folder))
    return with_pairs(NO_PHOTOS, dataclasses.replace(DATA, pairs=source, **changes))


def test_files_of_the_same_names_are_pairs(pairs: Path) -> None:
    (pairs / "clean" / "RGB-000.png").rename(pairs / "clean" / "alone.png")
    Image.open(pairs / "noisy" / "RGB-001.png").save(pairs / "noisy" / "RGB-001.webp", lossless=True)
    (pairs / "noisy" / "RGB-001.png").unlink()
    folder, found = PairFolder(location=str(pairs)).find()
    assert folder.location == str(pairs)
    assert found[0] == ("noisy/RGB-001.webp", "clean/RGB-001.png")
    assert found[1:] == [(f"noisy/RGB-{index:03d}.png", f"clean/RGB-{index:03d}.png") for index in range(2, 10)]


def test_two_files_of_one_name_are_refused(pairs: Path) -> None:
    shutil.copy(pairs / "clean" / "RGB-000.png", pairs / "clean" / "RGB-000.jpg")
    with pytest.raises(PhotosError, match=r"has both clean/RGB-000.jpg and clean/RGB-000.png"):
        PairFolder(location=str(pairs)).find()


def test_files_without_a_partner_are_named(pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pairs / "clean" / "RGB-000.png").rename(pairs / "clean" / "alone.png")
    PairFolder(location=str(pairs)).find()
    assert "without a clean partner: noisy/RGB-000.png" in caplog.text
    assert "without a noisy one: alone" in caplog.text


def test_a_csv_file_lists_pairs_in_any_place(pairs: Path) -> None:
    file = pairs / "pairs.csv"
    file.write_text("clean,noisy,iso\nclean/RGB-003.png,noisy/RGB-003.png,100\nclean/RGB-003.png,noisy/RGB-004.png,1\n")
    _, found = PairFolder(location=str(file)).find()
    assert found == [("noisy/RGB-003.png", "clean/RGB-003.png"), ("noisy/RGB-004.png", "clean/RGB-003.png")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "columns noisy and clean"),
        ("noisy,clean\n", "at least one row"),
        ("noisy,clean\nx.png\n", "in each row"),
        ("\xff", "columns noisy and clean"),
        ("noisy,clean\n/a.png,b.png\n", "not relative to its folder: /a.png"),
        ("noisy,clean\na.png,b.png\na.png,c.png\n", "lists a noisy file twice"),
    ],
)
def test_a_csv_file_without_pairs_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(PhotosError, match=message):
        PairFolder(location=str(tmp_path / "list.csv")).find()
    with pytest.raises(PhotosError, match="holds no pairs: it needs the folders noisy and clean"):
        PairFolder(location=str(tmp_path)).find()
    with pytest.raises(PhotosError, match="cannot be read as a CSV file"):
        PairFolder(location=str(tmp_path / "none.csv")).find()


@pytest.mark.usefixtures("ray_here")
def test_several_shots_of_a_scene_stay_on_one_side(pairs: Path) -> None:
    for index in range(10):
        shots = pairs / "noisy" / f"RGB-{index:03d}"
        shots.mkdir()
        (pairs / "noisy" / f"RGB-{index:03d}.png").rename(shots / "first.png")
        pixels = np.asarray(Image.open(shots / "first.png"))
        Image.fromarray(pixels + 1).save(shots / "second.png")
    photos = read(pairs)
    assert photos.train_pairs is not None
    assert photos.validation_pairs is not None
    train, validation = photos.train_pairs.names, photos.validation_pairs.names
    assert (len(train), len(validation)) == (16, 4)
    # Of few pairs, one of every scene comes first.
    few = read(pairs, train_photos=8, val_photos=2)
    assert few.train_pairs is not None
    assert len({name.rpartition("/")[0] for name in few.train_pairs.names}) == 8
    scenes = [{name.rpartition("/")[0] for name in names} for names in (train, validation)]
    assert (len(scenes[0]), len(scenes[1])) == (8, 2)
    assert scenes[0].isdisjoint(scenes[1])


@pytest.mark.usefixtures("ray_here")
def test_no_more_scenes_are_held_out_than_validation_takes(pairs: Path) -> None:
    photos = read(pairs, train_photos=9, val_photos=1)
    assert photos.train_pairs is not None
    assert photos.validation_pairs is not None
    assert (len(photos.train_pairs), len(photos.validation_pairs)) == (9, 1)


@pytest.mark.usefixtures("ray_here")
def test_pairs_are_split_and_hold_clean_and_noisy(pairs: Path) -> None:
    photos = read(pairs)
    assert photos.train_pairs is not None
    assert photos.validation_pairs is not None
    assert (len(photos.train_pairs), len(photos.validation_pairs)) == (8, 2)
    assert photos.sha256 not in ("photos", read(pairs, train_photos=5).sha256)
    assert photos.sha256 == read(pairs).sha256
    assert photos.train_pairs.names != getattr(read(pairs, seed=1).train_pairs, "names", None)
    for name, pixels in zip(photos.train_pairs.names, photos.train_pairs.pixels, strict=True):
        clean = np.asarray(Image.open(pairs / "clean" / Path(name).name))
        assert np.array_equal(pixels, np.concatenate([clean, noise(clean)], axis=2))
    kept = held_out_pairs(photos)
    assert kept is not None
    assert sorted(row["name"] for row in kept.take_all()) == sorted(photos.validation_pairs.names)
    assert held_out_pairs(NO_PHOTOS) is None


@pytest.mark.usefixtures("ray_here")
def test_clean_photos_decide_too_what_the_pairs_are(pairs: Path) -> None:
    before = read(pairs).sha256
    Image.fromarray(np.asarray(Image.open(pairs / "clean" / "RGB-000.png")) // 2).save(pairs / "clean" / "RGB-000.png")
    assert read(pairs).sha256 != before


@pytest.mark.usefixtures("ray_here")
def test_copies_of_a_clean_photo_stay_on_one_side(pairs: Path) -> None:
    for index in range(5, 10):
        shutil.copy(pairs / "clean" / f"RGB-{index - 5:03d}.png", pairs / "clean" / f"RGB-{index:03d}.png")
    photos = read(pairs)
    assert photos.train_pairs is not None
    assert photos.validation_pairs is not None
    numbers = [{int(name[-7:-4]) % 5 for name in part.names} for part in (photos.train_pairs, photos.validation_pairs)]
    assert numbers[0].isdisjoint(numbers[1])


@pytest.mark.usefixtures("ray_here")
def test_without_a_share_all_pairs_are_for_validation(pairs: Path) -> None:
    photos = read(pairs, pairs_share=0.0)
    assert photos.train_pairs is None
    assert photos.validation_pairs is not None
    assert len(photos.validation_pairs) == 10


@pytest.mark.usefixtures("ray_here")
def test_unusable_pairs_are_skipped_with_their_reasons(pairs: Path, caplog: pytest.LogCaptureFixture) -> None:
    noisy, clean = pairs / "noisy", pairs / "clean"
    Image.open(noisy / "RGB-000.png").crop((0, 0, 80, 70)).save(noisy / "RGB-000.png")
    Image.open(noisy / "RGB-001.png").convert("L").save(noisy / "RGB-001.png")
    (clean / "RGB-002.png").write_bytes(b"no image")
    deep = pyvips.Image.new_from_file(str(noisy / "RGB-003.png")).cast("ushort") * 257
    deep.copy(interpretation="rgb16").cast("ushort").write_to_file(str(noisy / "RGB-003.png"))
    turned = Image.open(noisy / "RGB-004.png")
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.save(noisy / "RGB-004.png", exif=exif)
    photos = read(pairs)
    assert photos.train_pairs is not None
    assert len(photos.train_pairs) == 4
    assert "skipped 5 of 10 pairs" in caplog.text
    assert "of unequal sizes (80x70 and 96x80, noisy and clean) (noisy/RGB-000.png)" in caplog.text
    assert "not 3-channel RGB (mode L) (noisy/RGB-001.png)" in caplog.text
    assert "unreadable: clean/RGB-002.png (noisy/RGB-002.png)" in caplog.text
    assert "with 16 bits per channel (noisy/RGB-003.png)" in caplog.text
    assert "of unequal EXIF orientations (noisy/RGB-004.png)" in caplog.text
    rows = evaluation_pairs(PairFolder(location=str(pairs)), 100).take_all()
    assert len(rows) == 5
    assert all(row["set"] == "pairs" and row["pixels"].shape == (80, 96, 6) for row in rows)
    with pytest.raises(PhotosError, match="0 clean photos with usable noisy ones, but at least 2 are needed"):
        read(pairs, crop_size=96)


def test_a_share_of_each_batch_is_cut_from_pairs_at_the_same_place() -> None:
    random = np.random.default_rng(0)
    clean = [random.integers(0, 256, (70, 90, 3), dtype=np.uint8) for _ in range(4)]
    pairs = Photos(list("abcd"), [np.concatenate([one, noise(one)], axis=2) for one in clean])
    photos = Photos(["dark"], [np.zeros((70, 90, 3), np.uint8)])
    data = dataclasses.replace(DATA, pairs_share=0.25, augmentation="flips_and_rotations")
    training = TrainingConfig(batch_size=8, steps_per_epoch=5)
    of_pairs = pairs_in_batch(data, 8)
    assert of_pairs.count(True) == 2
    whole = torch.stack(list(CachedCrops(photos, data, training, pairs=pairs).batches(1)))
    assert whole.shape == (5, 8, 6, 64, 64)
    for crops in whole:
        for crop, is_pair in zip(crops.numpy(), of_pairs, strict=True):
            expected = noise(crop[:3]) if is_pair else np.zeros_like(crop[3:])
            assert np.array_equal(crop[3:], expected)
            assert crop[:3].any() == is_pair
    parts = [torch.stack(list(CachedCrops(photos, data, training, rank, 2, pairs).batches(1))) for rank in range(2)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("workers", [1, 2])
def test_streamed_photos_with_pairs_give_the_same_crops(pairs: Path, write_photos: Write, workers: int) -> None:
    folder = write_photos(6)
    values = {"data/photos": str(folder), "data/pairs": str(pairs), "data/crop_size": 64, "training/batch_size": 4}
    config = with_values(PAPER_V1, {**values, "training/steps_per_epoch": 3, "training/epochs": 2})
    photos = with_pairs(training_photos(config.data, 1e9), config.data)
    assert photos.train_pairs is not None
    assert isinstance(photos.train, Photos)
    stored = StoredPhotos(Folder(folder), photos.train.names, 100)
    for rank in range(workers):
        cached = CachedCrops(photos.train, config.data, config.training, rank, workers, photos.train_pairs)
        streamed = StreamedCrops(stored, config, rank=rank, workers=workers, paired=ray.put(photos))
        for epoch in (1, 2):
            assert torch.equal(torch.cat(list(cached.batches(epoch))), torch.cat(list(streamed.batches(epoch))))


def test_a_share_that_gives_no_crop_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least one crop of each batch must hold, but got pairs_share=0\.05"):
        with_values(PAPER_V1, {"data/pairs": "mine", "data/pairs_share": 0.05})


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.3, 2), (0.5, 4), (0.9, 7), (1.0, 8)])
def test_pairs_in_a_batch(share: float, count: int) -> None:
    assert pairs_in_batch(dataclasses.replace(DATA, pairs_share=share), 8).count(True) == count


def test_pairs_have_a_path_and_survive_json() -> None:
    assert flat_values(PAPER_V1)["data/pairs"] is None
    config = with_values(PAPER_V1, {"data/pairs": "mine", "data/pairs_share": 1.0})
    assert config.data.pairs == PairFolder(location="mine")
    assert type(config).from_json(config.to_json()) == config
    assert parse_value(config, "data/pairs", "none") is None
    assert with_values(config, {"data/pairs": None}).data.pairs is None
    with pytest.raises(ConfigError, match="location not empty"):
        with_values(config, {"data/pairs": " "})
