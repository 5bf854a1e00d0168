"""Photos: where they come from, which are usable, how they are split, and reading them through Ray Data."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raygan.config.run import DataConfig
from raygan.data.crops import Photos, random_crop
from raygan.data.decode import decode_batch, decode_photo
from raygan.data.download import ASSETS, cache_folder, fetch
from raygan.data.samples import EVALUATION_PHOTOS, VALIDATION_PHOTOS, dead_leaves, sample_photos_folder
from raygan.errors import InputError
from raygan.seeds import derived_seed
from raygan.study.storage import Folder

if TYPE_CHECKING:
    from ray.data import Dataset

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
MEASURED = 16
"""Photos that are decoded to guess how much memory all would take."""
EVALUATED_TRAINING_PHOTOS = 1000
"""Of photos that are streamed, how many are scored as training photos: the paper's number."""
SMALLEST_EVALUATED = 16
"""Least side in pixels of a photo to evaluate on."""

logger = logging.getLogger(__name__)


class PhotosError(InputError):
    """A source of photos is missing or holds too few usable ones."""


@dataclass(frozen=True)
class StoredPhotos:
    """Usable photos that stay where they are."""

    folder: Folder
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class TrainingPhotos:
    """What a run trains and validates on; no photo is in both."""

    train: Photos | StoredPhotos
    validation: Photos


def training_photos(config: DataConfig, memory: float) -> TrainingPhotos:
    """Select and split the configured photos: usable ones have 3 channels and both sides >= `crop_size`.

    Those to train on are read, or stay where they are, as `config.cache` says; "auto" reads them if all, decoded, take
    at most `memory` bytes, by the size of the first few. The split depends on the files' names and `config.seed`
    alone. Unusable photos are skipped with one warning that counts and names them. Raises `PhotosError` for a source
    that is missing or has fewer than two usable photos. Needs Ray to be running.
    """
    if config.photos == "samples":
        size = max(256, config.crop_size)
        train = _collect(_generated(size, config.seed, config.train_photos))
        val, problems = _split_problems(_read(*_sample_photos(VALIDATION_PHOTOS), config.crop_size))
        _warn(problems, len(VALIDATION_PHOTOS))
        return TrainingPhotos(train=train, validation=_first(val, config.val_photos))

    folder, names = find_photos(config.photos)
    order = np.random.default_rng(derived_seed("photo split", config.seed)).permutation(len(names))
    candidates = [names[index] for index in order]
    wanted = config.train_photos + config.val_photos
    stream = config.cache == "stream" or (
        config.cache == "auto" and _mean_size(folder, candidates[:MEASURED]) * min(wanted, len(candidates)) > memory
    )
    usable, problems = Photos([], []), dict[str, str]()
    looked_at = 0
    while looked_at < len(candidates) and len(usable) < wanted:
        # A tenth more than what lacks, so that a few unusable ones do not cost another round.
        wave = candidates[looked_at : looked_at + (wanted - len(usable)) * 11 // 10 + 1]
        looked_at += len(wave)
        more, bad = _split_problems(_read(folder, wave, config.crop_size, pixels=not stream))
        usable = Photos(usable.names + more.names, usable.pixels + more.pixels)
        problems |= bad
    _warn(problems, looked_at)
    if len(usable) < 2:
        raise PhotosError(
            f"{config.photos} has {len(usable)} usable photos of {looked_at}, but at least 2 are needed: RGB, "
            f"both sides >= {config.crop_size} pixels (data/crop_size)"
        )
    held_out = min(config.val_photos, max(1, len(usable) // 5))
    if stream:
        stored = StoredPhotos(folder, usable.names[held_out : held_out + config.train_photos])
        validation, _ = _split_problems(_read(folder, usable.names[:held_out], config.crop_size))
        return TrainingPhotos(train=stored, validation=validation)
    train = Photos(usable.names[held_out:], usable.pixels[held_out:])
    return TrainingPhotos(train=_first(train, config.train_photos), validation=_first(usable, held_out))


def evaluation_photos(source: str) -> Dataset:
    """The usable photos of a source, decoded: rows of `name`, `pixels`, uint8 (H, W, 3), and `set`, "evaluation".

    Usable ones have 3 channels and both sides >= 16; others are skipped with one warning that counts and names
    them. Raises `PhotosError` where none is left. Needs Ray to be running.
    """
    from ray.data.expressions import col, lit

    folder, names = _sample_photos(EVALUATION_PHOTOS) if source == "samples" else find_photos(source)
    photos = _read(folder, names, SMALLEST_EVALUATED).materialize()
    labels = photos.select_columns(["name", "problem"]).take_all()
    problems = {row["name"]: row["problem"] for row in labels if row["problem"]}
    _warn(problems, len(labels))
    if len(problems) == len(labels):
        raise PhotosError(f"{source} has no usable photo to evaluate on: RGB, both sides >= {SMALLEST_EVALUATED}")
    # Materialised, so that no task of reading waits for a core that the evaluation's actors hold.
    usable: Dataset = photos.filter(expr=col("problem") == "").drop_columns(["problem", "index"])
    return usable.with_column("set", lit("evaluation")).materialize()


def fixed_crops(photos: TrainingPhotos, config: DataConfig) -> list[Dataset]:
    """One fixed crop of each training and validation photo, as rows like those of `evaluation_photos`.

    Their `set` is "training" or "validation": the paper reports both besides the evaluation photos (tables 4 and 5).
    Of photos that stay where they are, the first `EVALUATED_TRAINING_PHOTOS` are taken.
    """
    import ray.data

    train = photos.train
    if isinstance(train, StoredPhotos):
        train, _ = _split_problems(_read(train.folder, train.names[:EVALUATED_TRAINING_PHOTOS], config.crop_size))
    datasets = []
    for part, chosen in (("training", train), ("validation", photos.validation)):
        rows = []
        for index, (name, pixels) in enumerate(zip(chosen.names, chosen.pixels, strict=True)):
            random = np.random.default_rng(derived_seed(f"fixed {part} crops", config.seed, index))
            rows.append({"name": name, "pixels": random_crop(pixels, config.crop_size, random), "set": part})
        datasets.append(ray.data.from_items(rows, override_num_blocks=_blocks(len(rows))))
    return datasets


def find_photos(source: str) -> tuple[Folder, list[str]]:
    """The folder that a source names, downloaded if need be, and its image files.

    Raises `PhotosError` where there are none, and `DownloadError`.
    """
    folder = Folder(fetch(ASSETS[source], cache_folder()) if source in ("coco", "bsd300") else source)
    names = [name for name in folder.files() if name.lower().endswith(SUFFIXES)]
    if not names:
        state = "holds no image files" if folder.exists() else "does not exist"
        raise PhotosError(f"{folder} {state}; give a folder or an s3:// or gs:// prefix of {', '.join(SUFFIXES)} files")
    return folder, names


def _sample_photos(names: tuple[str, ...]) -> tuple[Folder, list[str]]:
    return Folder(sample_photos_folder(names)), list(names)


def _mean_size(folder: Folder, names: list[str]) -> float:
    """Bytes that a decoded photo takes."""
    decoded = [decode_photo(folder, name, 1) for name in names]
    sizes = [3 * photo.width * photo.height for photo, problem in decoded if not problem]
    return sum(sizes) / max(1, len(sizes))


def _read(folder: Folder, names: list[str], smallest: int, *, pixels: bool = True) -> Dataset:
    """Rows of `index`, `name`, `pixels` (one, if they are not wanted) and `problem`, empty for a usable photo."""
    import ray
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where: dict[str, Any] = {}
    if folder.is_local and len(ray.nodes()) > 1:
        # A folder of the machine that the search runs on; others need not have it.
        here = ray.get_runtime_context().get_node_id()
        cores = next(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here)
        where = {
            "num_cpus": min(1, cores),
            "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
        }
    rows = [{"index": index, "name": name} for index, name in enumerate(names)]
    return ray.data.from_items(rows, override_num_blocks=_blocks(len(rows))).map_batches(
        partial(decode_batch, folder=folder, smallest=smallest, pixels=pixels), batch_size=None, **where
    )


def _generated(size: int, seed: int, count: int) -> Dataset:
    import ray.data

    return ray.data.range(count, override_num_blocks=_blocks(count)).map_batches(
        partial(_generate, size=size, seed=seed), batch_size=None
    )


def _blocks(rows: int) -> int:
    """How many parts to read in: 16 photos each, or less, so that many cores share few photos too."""
    return max(min(8, rows), -(-rows // 16))


def _generate(batch: dict[str, NDArray[Any]], size: int, seed: int) -> dict[str, Any]:
    indices = batch["id"].tolist()
    return {
        "index": indices,
        "name": [f"dead-leaves-{index:05d}" for index in indices],
        "pixels": np.stack([dead_leaves(size, seed, index) for index in indices]),
    }


def _split_problems(dataset: Dataset) -> tuple[Photos, dict[str, str]]:
    rows = sorted(dataset.iter_rows(), key=lambda row: int(row["index"]))
    problems = {row["name"]: row["problem"] for row in rows if row["problem"]}
    return _as_photos(row for row in rows if not row["problem"]), problems


def _collect(dataset: Dataset) -> Photos:
    return _as_photos(sorted(dataset.iter_rows(), key=lambda row: int(row["index"])))


def _as_photos(rows: Iterable[dict[str, Any]]) -> Photos:
    kept = list(rows)
    return Photos([row["name"] for row in kept], [row["pixels"] for row in kept])


def _first(photos: Photos, count: int) -> Photos:
    return Photos(photos.names[:count], photos.pixels[:count])


def _warn(problems: dict[str, str], looked_at: int) -> None:
    if not problems:
        return
    by_reason = defaultdict(list)
    for name, problem in problems.items():
        by_reason[problem].append(name)
    parts = []
    for reason, names in sorted(by_reason.items()):
        shown = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
        parts.append(f"{len(names)} {reason} ({shown})")
    logger.warning("skipped %d of %d photos: %s", len(problems), looked_at, "; ".join(parts))
