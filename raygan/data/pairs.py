"""Reading and splitting pairs of noisy and clean photos. Imports neither torch nor Ray, like `raygan.data.photos`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raygan.config.kinds import PairSource
from raygan.config.run import DataConfig
from raygan.data.photos import (
    SMALLEST_EVALUATED,
    Photos,
    TrainingPhotos,
    decode_photo,
    decoded_where_they_are,
    evaluation_rows,
    split_problems,
    warn_of,
)
from raygan.data.sources import PhotosError
from raygan.seeds import derived_seed
from raygan.study.storage import Folder

if TYPE_CHECKING:
    from ray.data import Dataset


def with_pairs(photos: TrainingPhotos, config: DataConfig) -> TrainingPhotos:
    """The photos together with the configured pairs, if any, decoded and split into training and validation.

    Usable pairs have two RGB files of the same size, both sides >= `crop_size`; others are skipped with one warning.
    All noisy shots of a clean photo are on the same side of the split, which depends on the file names and
    `config.seed` alone. Raises `PhotosError` if there are no pairs, or fewer than two clean photos with usable ones.
    Ray must be running.
    """
    if config.pairs is None:
        return photos
    folder, pairs = config.pairs.find()
    clean_names = sorted({clean for _, clean in pairs})
    order = np.random.default_rng(derived_seed("pair split", config.seed)).permutation(len(clean_names))
    place = {clean_names[index]: rank for rank, index in enumerate(order)}
    in_order = sorted(pairs, key=lambda pair: (place[pair[1]], pair[0]))
    digests = dict[str, str]()
    usable, problems = split_problems(_read(folder, in_order, config.crop_size, config.max_megapixels), digests)
    warn_of(problems, len(pairs), "pairs")
    clean_of = dict(pairs)
    scenes = list(dict.fromkeys(clean_of[name] for name in usable.names))
    if len(scenes) < 2:
        raise PhotosError(
            f"{folder} has {len(scenes)} clean photos with usable noisy ones, but at least 2 are needed: RGB, of equal "
            f"sizes, both sides >= {config.crop_size} pixels (data/crop_size)"
        )
    held_out = set(scenes[: min(config.val_photos, max(1, len(scenes) // 5))])
    is_held_out = [clean_of[name] in held_out for name in usable.names]
    train = _chosen(usable, [index for index, held in enumerate(is_held_out) if not held][: config.train_photos])
    validation = _chosen(usable, [index for index, held in enumerate(is_held_out) if held])
    contents = {name: digest for digest, name in digests.items()}
    used = [photos.sha256, *((name, contents[name]) for name in (*train.names, *validation.names))]
    sha256 = hashlib.sha256(json.dumps(used).encode()).hexdigest()
    return replace(photos, sha256=sha256, train_pairs=train, validation_pairs=validation)


def evaluation_pairs(source: PairSource, max_megapixels: int) -> Dataset:
    """The usable pairs of a source, decoded: rows of `name`, `pixels`, uint8 (H, W, 6), and `set`, "pairs".

    Unusable ones are skipped with a warning. Raises `PhotosError` if none is left. Ray must be running.
    """
    return evaluation_rows(_read(*source.find(), SMALLEST_EVALUATED, max_megapixels), source.key, "pairs")


def held_out_pairs(photos: TrainingPhotos) -> Dataset | None:
    """The validation pairs, as rows like those of `evaluation_pairs`, or None without pairs."""
    import ray.data

    pairs = photos.validation_pairs
    if pairs is None:
        return None
    drawn = zip(pairs.names, pairs.pixels, strict=True)
    return ray.data.from_items([{"name": name, "pixels": pixels, "set": "pairs"} for name, pixels in drawn])


def _read(folder: Folder, pairs: Sequence[tuple[str, str]], smallest: int, max_megapixels: int) -> Dataset:
    """The pairs, named by their noisy file."""

    def decode(index: int, noisy: str) -> tuple[NDArray[np.uint8], str, str]:
        images, problem, digest = [], "", ""
        for name in (pairs[index][1], noisy):
            image, problem, digest = decode_photo(folder, name, smallest, max_megapixels)
            images.append(np.asarray(image))
            if problem:
                return images[0], f"{problem}: {name}" if name != noisy else problem, digest
        clean, shot = images
        if clean.shape != shot.shape:
            sizes = " and ".join(f"{one.shape[1]}x{one.shape[0]}" for one in (shot, clean))
            return clean, f"of unequal sizes ({sizes}, noisy and clean)", digest
        return np.concatenate([clean, shot], axis=2), problem, digest

    return decoded_where_they_are(folder, [noisy for noisy, _ in pairs], decode)


def _chosen(photos: Photos, indices: Sequence[int]) -> Photos:
    return Photos([photos.names[index] for index in indices], [photos.pixels[index] for index in indices])
