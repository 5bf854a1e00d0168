"""Reading and splitting pairs of noisy and clean photos. Imports neither torch nor Ray, like `raygan.data.photos`."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raygan.config.kinds import PairSource
from raygan.config.run import PAIRS, DataConfig
from raygan.data.photos import (
    SMALLEST_EVALUATED,
    Photos,
    TrainingPhotos,
    decode_photo,
    decoded_on_this_node,
    evaluation_rows,
    split_problems,
    warn_skipped,
)
from raygan.data.sources import PhotosError
from raygan.seeds import derived_seed
from raygan.storage import Folder

if TYPE_CHECKING:
    from ray.data import Dataset

ORIENTATION = 0x0112
"""EXIF tag of the orientation."""


def with_pairs(photos: TrainingPhotos, config: DataConfig) -> TrainingPhotos:
    """The photos together with the configured pairs, if any, decoded and split into training and validation.

    A usable pair has two 8-bit RGB files of the same size and orientation, both sides >= `crop_size`; others are
    skipped with one warning. All noisy shots of a clean photo, and of copies of it, are on the same side of the split,
    which depends on the file names and `config.seed` alone. At most `train_photos` + `val_photos` pairs are read, one
    shot of every clean photo before a second one. If `pairs_share` is 0, all pairs are for validation. Raises
    `PhotosError` if there are no pairs, or fewer than two clean photos with usable noisy ones. Ray must be running.
    """
    if config.pairs is None:
        return photos
    folder, pairs = config.pairs.find()
    chosen = _shot_by_shot(pairs, config.seed)[: config.train_photos + config.val_photos]
    digests = dict[str, str]()
    usable, problems = split_problems(_read(folder, chosen, config.crop_size, config.max_megapixels), digests)
    warn_skipped(problems, len(chosen), PAIRS)
    contents = {name: digest.split() for digest, name in digests.items()}
    scenes = list(dict.fromkeys(contents[name][0] for name in usable.names))
    if len(scenes) < 2:
        raise PhotosError(
            f"{folder} has {len(scenes)} clean photos with usable noisy ones, but at least 2 are needed: RGB, 8 bits, "
            f"of equal sizes, both sides >= {config.crop_size} pixels (data/crop_size)"
        )
    shots = Counter(contents[name][0] for name in usable.names)
    before = itertools.accumulate((shots[scene] for scene in scenes), initial=0)
    # No more scenes than it takes: the others are trained on.
    needed = sum(count < config.val_photos for count in itertools.islice(before, len(scenes)))
    held_out = set(scenes if config.pairs_share == 0 else scenes[: max(1, min(needed, len(scenes) // 5))])
    is_held_out = [contents[name][0] in held_out for name in usable.names]
    train = _chosen(usable, [index for index, held in enumerate(is_held_out) if not held][: config.train_photos])
    validation = _chosen(usable, [index for index, held in enumerate(is_held_out) if held][: config.val_photos])
    used = [photos.sha256, *((name, contents[name]) for name in (*train.names, *validation.names))]
    sha256 = hashlib.sha256(json.dumps(used).encode()).hexdigest()
    return replace(photos, sha256=sha256, train_pairs=train if len(train) else None, validation_pairs=validation)


def evaluation_pairs(source: PairSource, max_megapixels: int) -> Dataset:
    """The usable pairs of a source, decoded: rows of `name`, `pixels`, uint8 (H, W, 6), and `set`, "pairs".

    Unusable ones are skipped with a warning. Raises `PhotosError` if none is left. Ray must be running.
    """
    return evaluation_rows(_read(*source.find(), SMALLEST_EVALUATED, max_megapixels), source.key, PAIRS)


def held_out_pairs(photos: TrainingPhotos) -> Dataset | None:
    """The validation pairs, as rows like those of `evaluation_pairs`, or None without pairs."""
    import ray.data

    pairs = photos.validation_pairs
    if pairs is None:
        return None
    rows = zip(pairs.names, pairs.pixels, strict=True)
    return ray.data.from_items([{"name": name, "pixels": pixels, "set": PAIRS} for name, pixels in rows])


def _shot_by_shot(pairs: Sequence[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """The pairs, ordered so that the first shots of all clean photos, in random order, come before the second ones."""
    clean_names = sorted({clean for _, clean in pairs})
    order = np.random.default_rng(derived_seed("pair split", seed)).permutation(len(clean_names))
    rank = {clean_names[index]: rank for rank, index in enumerate(order)}
    shots = dict.fromkeys(clean_names, 0)
    numbered = []
    for noisy, clean in sorted(pairs):
        numbered.append((shots[clean], rank[clean], noisy, clean))
        shots[clean] += 1
    return [(noisy, clean) for _, _, noisy, clean in sorted(numbered)]


def _read(folder: Folder, pairs: Sequence[tuple[str, str]], smallest: int, max_megapixels: int) -> Dataset:
    """The pairs, named by their noisy file; their digest is that of the clean file, a space, and the noisy file's."""

    def decode(index: int, noisy: str) -> tuple[NDArray[np.uint8], str, str]:
        images, digests = [], []
        for name in (pairs[index][1], noisy):
            image, problem, digest = decode_photo(folder, name, smallest, max_megapixels)
            if problem or image.info["bits"] != 8:
                problem = problem or f"with {image.info['bits']} bits per channel"
                return np.asarray(image), problem if name == noisy else f"{problem}: {name}", digest
            images.append(image)
            digests.append(digest)
        clean, shot = images
        problem = ""
        if clean.size != shot.size:
            sizes = " and ".join(f"{one.width}x{one.height}" for one in (shot, clean))
            problem = f"of unequal sizes ({sizes}, noisy and clean)"
        elif len({one.getexif().get(ORIENTATION, 1) for one in images}) == 2:
            problem = "of unequal EXIF orientations"
        if problem:
            return np.asarray(clean), problem, " ".join(digests)
        return np.concatenate([clean, shot], axis=2), "", " ".join(digests)

    return decoded_on_this_node(folder, [noisy for noisy, _ in pairs], decode)


def _chosen(photos: Photos, indices: Sequence[int]) -> Photos:
    return Photos([photos.names[index] for index in indices], [photos.pixels[index] for index in indices])
