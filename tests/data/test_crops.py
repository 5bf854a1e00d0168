import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from raygan.config.run import DataConfig, TrainingConfig
from raygan.config.section import ConfigError
from raygan.data.crops import CachedCrops, clean_in_batch, to_unit_range, validation_crops
from raygan.data.photos import Photos
from raygan.data.sources import Samples

DATA = DataConfig(photos=Samples(), evaluate_on=Samples(), crop_size=64, val_crops=5)


def numbered_photos(count: int = 6) -> Photos:
    """Photos whose first channel is the photo's number, and the others row and column."""
    pixels = []
    for index in range(count):
        height, width = 70 + index, 90
        row, column = np.mgrid[:height, :width]
        image = np.stack([np.full_like(row, index), row, column], axis=2).astype(np.uint8)
        image.flags.writeable = False
        pixels.append(image)
    return Photos([str(index) for index in range(count)], pixels)


def epoch_of(epoch: int, *, rank: int = 0, workers: int = 1, seed: int = 0, steps: int = 3) -> torch.Tensor:
    training = TrainingConfig(batch_size=4, steps_per_epoch=steps, seed=seed)
    crops = CachedCrops(numbered_photos(), DATA, training, rank=rank, workers=workers)
    return torch.stack(list(crops.batches(epoch)))


def test_crops_are_contiguous_squares_of_their_photo() -> None:
    batches = epoch_of(1)
    assert batches.shape == (3, 4, 3, 64, 64)
    assert batches.dtype == torch.uint8
    crops = batches.flatten(0, 1).long()
    assert (crops[:, 1, 1:] - crops[:, 1, :-1] == 1).all()
    assert (crops[:, 2, :, 1:] - crops[:, 2, :, :-1] == 1).all()
    assert (crops[:, 0].flatten(1).float().std(dim=1) == 0).all()


def test_every_photo_is_used_once_before_any_is_used_again() -> None:
    numbers = epoch_of(1)[:, :, 0, 0, 0].flatten().tolist()
    assert sorted(numbers[:6]) == sorted(numbers[6:]) == [0, 1, 2, 3, 4, 5]


def test_epochs_and_seeds_differ_and_repeat_exactly() -> None:
    assert torch.equal(epoch_of(1), epoch_of(1))
    assert not torch.equal(epoch_of(1), epoch_of(2))
    assert not torch.equal(epoch_of(1), epoch_of(1, seed=1))


def test_positions_reach_all_of_the_photo() -> None:
    rows = epoch_of(1, steps=100)[:, :, 1, 0, 0].flatten()
    columns = epoch_of(1, steps=100)[:, :, 2, 0, 0].flatten()
    assert set(columns.tolist()) == set(range(90 - 64 + 1))
    assert rows.min() == 0
    assert rows.max() == 75 - 64


def test_workers_share_each_batch_without_overlap() -> None:
    whole = epoch_of(1)[:, :, 0, 0, 0]
    parts = [epoch_of(1, rank=rank, workers=2)[:, :, 0, 0, 0] for rank in range(2)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_an_epoch_is_125_steps_or_one_pass_over_the_photos() -> None:
    assert CachedCrops(numbered_photos(), DATA, TrainingConfig(batch_size=2)).steps == 125
    crops = CachedCrops(numbered_photos(), DATA, TrainingConfig(batch_size=2, steps_per_epoch=None))
    assert crops.steps == 3
    assert len(list(crops.batches(1))) == 3
    assert CachedCrops(numbered_photos(1), DATA, TrainingConfig(batch_size=8, steps_per_epoch=None)).steps == 1


def test_validation_crops_are_fixed_and_spread_over_the_photos() -> None:
    crops = validation_crops(numbered_photos(3), DATA)
    assert torch.equal(crops.photos, validation_crops(numbered_photos(3), DATA).photos)
    assert crops.photos[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1]
    assert crops.pairs is None


def test_unit_range_is_exact_at_its_ends() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert to_unit_range(pixels, "cpu").tolist() == [0.0, 0.20000000298023224, 1.0]


@pytest.mark.parametrize(("augmentation", "positions"), [("none", 1), ("flips", 2), ("flips_and_rotations", 8)])
def test_augmentation_turns_the_same_crops(augmentation: Any, positions: int) -> None:
    """Of the square's eight symmetries, numbered by turns and flips, as many occur as the setting says."""
    training = TrainingConfig(batch_size=4, steps_per_epoch=20)
    plain, turned = (
        torch.cat(list(CachedCrops(numbered_photos(), data, training).batches(1)))
        for data in (DATA, dataclasses.replace(DATA, augmentation=augmentation))
    )
    found = set()
    for crop, result in zip(plain, turned, strict=True):
        symmetries = {
            (turns, flipped): torch.rot90(crop.flip(2) if flipped else crop, turns, (1, 2))
            for turns in range(4)
            for flipped in (False, True)
        }
        [match] = [name for name, image in symmetries.items() if torch.equal(image, result)]
        found.add(match)
    assert len(found) == positions
    assert augmentation != "flips" or found == {(0, False), (0, True)}


def test_crops_are_enlarged_by_a_random_factor() -> None:
    """Rows and columns are numbered: the step from one to the next is the inverse of the factor."""
    data = dataclasses.replace(DATA, max_enlargement=4.0)
    training = TrainingConfig(batch_size=4, steps_per_epoch=50)
    crops = torch.cat(list(CachedCrops(numbered_photos(), data, training).batches(1))).float()
    assert crops.shape == (200, 3, 64, 64)
    inside = slice(8, -8)
    rows = (crops[:, 1, inside].diff(dim=1)).mean(dim=(1, 2))
    columns = (crops[:, 2, :, inside].diff(dim=2)).mean(dim=(1, 2))
    torch.testing.assert_close(rows, columns, rtol=0, atol=0.03)
    factors = 1 / rows
    assert 0.97 < factors.min() < 1.1
    assert 3.6 < factors.max() < 4.4
    assert factors.log().mean().item() == pytest.approx(np.log(4) / 2, rel=0.1)
    with pytest.raises(ConfigError, match="1 <= min_enlargement <= max_enlargement <= 8"):
        dataclasses.replace(DATA, max_enlargement=0.5)


def test_crops_that_stay_clean_keep_their_size() -> None:
    """A quarter of the crops, on every worker those of the whole batch; the others are enlarged at least threefold."""
    data = dataclasses.replace(DATA, min_enlargement=3.0, max_enlargement=4.0)
    training = TrainingConfig(batch_size=8, steps_per_epoch=50)
    workers = [CachedCrops(numbered_photos(), data, training, rank, 2, clean_share=0.25) for rank in (0, 1)]
    crops = torch.cat([torch.stack(list(one.batches(1))) for one in workers], dim=1).float()
    factors = 1 / crops[:, :, 1, 8:-8].diff(dim=2).mean(dim=(2, 3))
    keep = torch.tensor([clean_in_batch(0.25, training, 1, step) for step in range(50)])
    assert keep.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert torch.all(factors[keep] == 1)
    assert 2.8 < factors[~keep].min() < factors[~keep].max() < 4.4
