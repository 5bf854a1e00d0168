"""Reading, validating and splitting photos through Ray Data. Imports neither torch nor Ray: each reading process
starts with it."""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raygan.config.kinds import PhotoSource
from raygan.config.run import DataConfig
from raygan.data.samples import VALIDATION_PHOTOS, dead_leaves, sample_photos_folder
from raygan.data.sources import PhotosError, Samples
from raygan.seeds import derived_seed
from raygan.study.storage import Folder

if TYPE_CHECKING:
    from ray.data import Dataset

PROBED = 16
"""Photos that are decoded to estimate how much memory all would take."""
EVALUATED_TRAINING_PHOTOS = 1000
"""Of photos that are streamed, how many are scored as training photos: the paper's number."""
SMALLEST_EVALUATED = 16
"""Minimum side in pixels of a photo to evaluate on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photos:
    """Decoded photos in memory: names, and pixels as uint8 (H, W, 3), of any sizes, perhaps read-only."""

    names: list[str]
    pixels: list[NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, part: slice) -> Photos:
        return Photos(self.names[part], self.pixels[part])


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

    Training photos are read, or stay where they are, as `config.cache` says; "auto" reads them if all, decoded, take at
    most `memory` bytes, as estimated from the first few. The split depends on the file names and `config.seed` alone.
    Unusable photos are skipped with one warning that counts and names them. Raises `PhotosError` if the source is
    missing or has fewer than two usable photos. Ray must be running.
    """
    if isinstance(config.photos, Samples):
        return _samples(config)
    folder, names = config.photos.find()
    order = np.random.default_rng(derived_seed("photo split", config.seed)).permutation(len(names))
    candidates = [names[index] for index in order]
    wanted = config.train_photos + config.val_photos
    stream = config.cache == "stream" or (
        config.cache == "auto" and _mean_bytes(folder, candidates[:PROBED]) * min(wanted, len(candidates)) > memory
    )
    usable, problems = Photos([], []), dict[str, str]()
    seen = 0
    while seen < len(candidates) and len(usable) < wanted:
        # A tenth more than what is missing, so that a few unusable ones do not cost another round.
        batch = candidates[seen : seen + (wanted - len(usable)) * 11 // 10 + 1]
        seen += len(batch)
        more, bad = _split_problems(_read(folder, batch, config.crop_size, pixels=not stream))
        usable = Photos(usable.names + more.names, usable.pixels + more.pixels)
        problems |= bad
    _warn(problems, seen)
    if len(usable) < 2:
        raise PhotosError(
            f"{folder} has {len(usable)} usable photos of {seen}, but at least 2 are needed: RGB, both sides >= "
            f"{config.crop_size} pixels (data/crop_size)"
        )
    held_out = min(config.val_photos, max(1, len(usable) // 5))
    if stream:
        stored = StoredPhotos(folder, usable.names[held_out : held_out + config.train_photos])
        validation, _ = _split_problems(_read(folder, usable.names[:held_out], config.crop_size))
        return TrainingPhotos(train=stored, validation=validation)
    return TrainingPhotos(train=usable[held_out : held_out + config.train_photos], validation=usable[:held_out])


def evaluation_photos(source: PhotoSource) -> Dataset:
    """The usable photos of a source, decoded: rows of `name`, `pixels`, uint8 (H, W, 3), and `set`, "evaluation".

    Usable ones have 3 channels and both sides >= 16; others are skipped with one warning that counts and names them.
    Raises `PhotosError` if none is left. Ray must be running.
    """
    from ray.data.expressions import col, lit

    photos = _read(*source.find(), SMALLEST_EVALUATED).materialize()
    labels = photos.select_columns(["name", "problem"]).take_all()
    problems = {row["name"]: row["problem"] for row in labels if row["problem"]}
    _warn(problems, len(labels))
    if len(problems) == len(labels):
        raise PhotosError(f"{source.key} has no usable photo to evaluate on: RGB, both sides >= {SMALLEST_EVALUATED}")
    # Materialized, so that no reading task waits for a core that the evaluation's actors hold.
    usable: Dataset = photos.filter(expr=col("problem") == "").drop_columns(["problem", "index"])
    return usable.with_column("set", lit("evaluation")).materialize()


def fixed_crops(photos: TrainingPhotos, config: DataConfig) -> list[Dataset]:
    """One fixed crop of each training and validation photo, as rows like those of `evaluation_photos`.

    Their `set` is "training" or "validation": the paper reports both besides the evaluation photos (tables 4 and 5). Of
    photos that are streamed, the first `EVALUATED_TRAINING_PHOTOS` are taken.
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


def random_corner(height: int, width: int, size: int, random: np.random.Generator) -> tuple[int, int]:
    """Top and left of a square at a random position in a photo."""
    return int(random.integers(height - size + 1)), int(random.integers(width - size + 1))


def random_crop(pixels: NDArray[np.uint8], size: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """A square of the pixels, (H, W, 3), at a random position."""
    height, width, _ = pixels.shape
    top, left = random_corner(height, width, size, random)
    return pixels[top : top + size, left : left + size]


def decode_photo(folder: Folder, name: str, smallest: int) -> tuple[Image.Image, str]:
    """The photo, and why it cannot be used, or an empty string.

    Not yet an array: copying all pixels out of Pillow takes a tenth of the decoding time, and a crop needs few.
    """
    nothing = Image.new("RGB", (1, 1))
    try:
        content = folder.read(name)
    except PermissionError:
        return nothing, "unreadable"
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode != "RGB":
                return nothing, f"not 3-channel RGB (mode {image.mode})"
            if min(image.size) < smallest:
                return nothing, f"smaller than {smallest}x{smallest}"
            image.load()
            return image, ""
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        # What Pillow raises for the many ways in which a file can be damaged.
        return nothing, "unreadable"


def _decode_batch(batch: dict[str, NDArray[Any]], folder: Folder, smallest: int, pixels: bool) -> dict[str, Any]:
    """Rows of `name` with `problem` and `pixels` added; only the first pixel unless `pixels`."""
    decoded = np.empty(len(batch["name"]), dtype=object)
    problems = []
    for row, name in enumerate(batch["name"].tolist()):
        photo, problem = decode_photo(folder, name, smallest)
        decoded[row] = np.asarray(photo if pixels else photo.crop((0, 0, 1, 1)))
        problems.append(problem)
    return {**batch, "pixels": decoded, "problem": problems}


def _samples(config: DataConfig) -> TrainingPhotos:
    import ray.data

    count = config.train_photos
    generated = ray.data.range(count, override_num_blocks=_blocks(count)).map_batches(
        partial(_generate, size=max(256, config.crop_size), seed=config.seed), batch_size=None
    )
    folder = Folder(sample_photos_folder(VALIDATION_PHOTOS))
    validation, problems = _split_problems(_read(folder, list(VALIDATION_PHOTOS), config.crop_size))
    _warn(problems, len(VALIDATION_PHOTOS))
    return TrainingPhotos(train=_split_problems(generated)[0], validation=validation[: config.val_photos])


def _generate(batch: dict[str, NDArray[Any]], size: int, seed: int) -> dict[str, Any]:
    indices = batch["id"].tolist()
    return {
        "index": indices,
        "name": [f"dead-leaves-{index:05d}" for index in indices],
        "pixels": np.stack([dead_leaves(size, seed, index) for index in indices]),
        "problem": [""] * len(indices),
    }


def _mean_bytes(folder: Folder, names: list[str]) -> float:
    """Bytes that a decoded photo takes."""
    decoded = [decode_photo(folder, name, 1) for name in names]
    sizes = [3 * photo.width * photo.height for photo, problem in decoded if not problem]
    return sum(sizes) / max(1, len(sizes))


def _read(folder: Folder, names: list[str], smallest: int, *, pixels: bool = True) -> Dataset:
    """Rows of `index`, `name`, `pixels` (one, unless they are wanted) and `problem`, empty for a usable photo."""
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
        partial(_decode_batch, folder=folder, smallest=smallest, pixels=pixels), batch_size=None, **where
    )


def _blocks(rows: int) -> int:
    """How many parts to read in: 16 photos each, or fewer, so that many cores share few photos too."""
    return max(min(8, rows), -(-rows // 16))


def _split_problems(dataset: Dataset) -> tuple[Photos, dict[str, str]]:
    """The usable photos in order, and the problems of the others by name."""
    rows = sorted(dataset.iter_rows(), key=lambda row: int(row["index"]))
    problems = {row["name"]: row["problem"] for row in rows if row["problem"]}
    return _as_photos(row for row in rows if not row["problem"]), problems


def _as_photos(rows: Iterable[dict[str, Any]]) -> Photos:
    kept = list(rows)
    return Photos([row["name"] for row in kept], [row["pixels"] for row in kept])


def _warn(problems: dict[str, str], seen: int) -> None:
    if not problems:
        return
    by_reason = defaultdict(list)
    for name, problem in problems.items():
        by_reason[problem].append(name)
    parts = []
    for reason, names in sorted(by_reason.items()):
        shown = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
        parts.append(f"{len(names)} {reason} ({shown})")
    logger.warning("skipped %d of %d photos: %s", len(problems), seen, "; ".join(parts))
