import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.crops import CachedCrops, StreamedCrops
from raygan.data.photos import Photos, StoredPhotos, training_photos
from raygan.data.sources import PhotosError

pytestmark = pytest.mark.usefixtures("ray_here")
Write = Callable[..., Path]


@pytest.fixture
def config(tiny_config: Config, write_photos: Write) -> Config:
    values = {"data/photos": str(write_photos(10)), "data/train_photos": 7, "data/augmentation": "flips_and_rotations"}
    return with_values(tiny_config, values)


def both(config: Config) -> tuple[Photos, StoredPhotos]:
    """The same photos in memory and where they are."""
    memory, stored = (
        training_photos(with_values(config, {"data/cache": cache}).data, memory=1e9) for cache in ("memory", "stream")
    )
    assert isinstance(memory.train, Photos)
    assert isinstance(stored.train, StoredPhotos)
    assert memory.validation.names == stored.validation.names
    return memory.train, stored.train


@contextlib.contextmanager
def all_cores_held() -> Iterator[None]:
    """As training holds them."""
    group = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    assert group.wait(30)
    yield
    remove_placement_group(group)


@pytest.mark.parametrize(("rank", "workers"), [(0, 1), (1, 2)])
def test_crops_are_those_of_photos_in_memory_though_training_holds_all_cores(
    config: Config, rank: int, workers: int
) -> None:
    photos, stored = both(config)
    cached = CachedCrops(photos, config.data, config.training, rank=rank, workers=workers)
    streamed, later = (StreamedCrops(stored, config, rank=rank, workers=workers) for _ in range(2))
    assert streamed.steps == cached.steps == 3
    with all_cores_held():
        for epoch in (1, 2, 3):
            expected = list(cached.batches(epoch))
            found = list(streamed.batches(epoch))
            assert len(found) == 3
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        # A run that is resumed starts with a later epoch.
        assert torch.equal(next(iter(later.batches(3))), expected[0])


def test_auto_streams_what_is_larger_than_memory(config: Config) -> None:
    size = 80 * 96 * 3
    assert config.data.cache == "auto"
    assert isinstance(training_photos(config.data, memory=9 * size).train, Photos)
    assert isinstance(training_photos(config.data, memory=8 * size).train, StoredPhotos)


def test_a_photo_that_breaks_on_the_way_is_named(config: Config) -> None:
    _, stored = both(config)
    name = stored.names[0]
    Path(stored.folder.location, name).write_bytes(b"broken")
    with pytest.raises(PhotosError, match=f"{name} was usable when the study began, but is unreadable now$"):
        list(StreamedCrops(stored, config).batches(1))
