"""Reading, validating and splitting photos through Ray Data. Imports neither torch nor Ray: each reading process
starts with it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raygan.config.kinds import PhotoSource
from raygan.config.run import MAX_MEGAPIXELS, PAIRS, DataConfig
from raygan.data.samples import VALIDATION_PHOTOS, dead_leaves, sample_photos_folder
from raygan.data.sources import PhotosError, Samples
from raygan.seeds import derived_seed
from raygan.storage import Folder

if TYPE_CHECKING:
    from ray.data import Dataset

PROBED = 16
"""Photos that are decoded to estimate how much memory all would take."""
EVALUATED_TRAINING_PHOTOS = 1000
"""Of photos that are streamed, how many are scored as training photos: the paper's number."""
SMALLEST_EVALUATED = 16
"""Minimum side in pixels of a photo to evaluate on."""
SAMPLED = 300
"""Files that are read to tell a folder of photos from others."""
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
"""Pillow's names of the formats that are read. Others may start programs, as EPS does."""
# Checked in `decode_photo` instead, where the user can raise it.
Image.MAX_IMAGE_PIXELS = None

Decode = Callable[[int, str], tuple[NDArray[np.uint8], str, str]]
"""Makes pixels, a problem or an empty string, and the digest of a file's content of an index and a name."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photos:
    """Decoded photos in memory: names, and pixels as uint8 (H, W, 3), of any sizes, perhaps read-only.

    Pairs have the pixels (H, W, 6): the clean photo, then the noisy one.
    """

    names: list[str]
    pixels: list[NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, part: slice) -> Photos:
        return Photos(self.names[part], self.pixels[part])

    def crop(self, index: int, size: int, random: np.random.Generator) -> NDArray[np.uint8]:
        """A square of a photo, (size, size, 3 or 6), at a random position."""
        height, width, _ = self.pixels[index].shape
        top, left = int(random.integers(height - size + 1)), int(random.integers(width - size + 1))
        return self.pixels[index][top : top + size, left : left + size]


@dataclass(frozen=True)
class StoredPhotos:
    """Usable photos that stay where they are."""

    folder: Folder
    names: list[str]
    max_megapixels: int

    def __len__(self) -> int:
        return len(self.names)

    def crop(self, index: int, size: int, random: np.random.Generator) -> NDArray[np.uint8]:
        """See `Photos.crop`; raises `PhotosError` if the photo can no longer be used."""
        photo, problem, _ = decode_photo(self.folder, self.names[index], size, self.max_megapixels)
        if problem:
            name = self.folder.address(self.names[index])
            raise PhotosError(f"{name} was usable when the study began, but is {problem} now")
        top, left = int(random.integers(photo.height - size + 1)), int(random.integers(photo.width - size + 1))
        return np.asarray(photo.crop((left, top, left + size, top + size)))


@dataclass(frozen=True)
class TrainingPhotos:
    """What a run trains and validates on; no photo is in both."""

    train: Photos | StoredPhotos
    validation: Photos
    sha256: str = ""
    """Of the names and contents of both, and of the pairs."""
    train_pairs: Photos | None = None
    validation_pairs: Photos | None = None


def training_photos(config: DataConfig, memory: float) -> TrainingPhotos:
    """Select and split the configured photos: usable ones have 3 channels and both sides >= `crop_size`.

    Training photos are read, or stay where they are, as `config.cache` says; "auto" reads them if all, decoded, take at
    most `memory` bytes, as estimated from the first few. The split depends on the file names and `config.seed` alone.
    Unusable photos, and copies of others, are skipped with one warning that counts and names them. Raises `PhotosError`
    if the source is missing or has fewer than two usable photos. Ray must be running.
    """
    if isinstance(config.photos, Samples):
        if config.cache == "stream":
            raise PhotosError("generated photos (data/photos=samples) cannot be streamed: give another data/cache")
        return _samples(config)
    folder, names = config.photos.find()
    order = np.random.default_rng(derived_seed("photo split", config.seed)).permutation(len(names))
    candidates = [names[index] for index in order]
    wanted = config.train_photos + config.val_photos
    stream = config.cache == "stream" or (
        config.cache == "auto"
        and _mean_bytes(folder, candidates[:PROBED], config) * min(wanted, len(candidates)) > memory
    )
    usable, problems, digests = Photos([], []), dict[str, str](), dict[str, str]()
    read = partial(_read, folder, smallest=config.crop_size, max_megapixels=config.max_megapixels)
    seen = 0
    while seen < len(candidates) and len(usable) < wanted:
        # A tenth more than what is missing, so that a few unusable ones do not cost another round.
        batch = candidates[seen : seen + (wanted - len(usable)) * 11 // 10 + 1]
        seen += len(batch)
        more, bad = split_problems(read(batch, pixels=not stream), digests)
        usable = Photos(usable.names + more.names, usable.pixels + more.pixels)
        problems |= bad
    warn_skipped(problems, seen)
    if len(usable) < 2:
        raise PhotosError(
            f"{folder} has {len(usable)} usable photos of {seen}, but at least 2 are needed: RGB, both sides >= "
            f"{config.crop_size} pixels (data/crop_size)"
        )
    held_out = min(config.val_photos, max(1, len(usable) // 5))
    used = usable[: held_out + config.train_photos]
    contents = {name: digest for digest, name in digests.items()}
    sha256 = hashlib.sha256(json.dumps([(name, contents[name]) for name in used.names]).encode()).hexdigest()
    if stream:
        stored = StoredPhotos(folder, used.names[held_out:], config.max_megapixels)
        validation, _ = split_problems(read(used.names[:held_out]))
        return TrainingPhotos(stored, validation, sha256)
    return TrainingPhotos(used[held_out:], used[:held_out], sha256)


def evaluation_photos(source: PhotoSource, max_megapixels: int = MAX_MEGAPIXELS) -> Dataset:
    """The usable photos of a source, decoded: rows of `name`, `pixels`, uint8 (H, W, 3), and `set`, "evaluation".

    Usable ones have 3 channels and both sides >= 16; others are skipped with one warning that counts and names them.
    Raises `PhotosError` if none is left. Ray must be running.
    """
    return evaluation_rows(_read(*source.find(), SMALLEST_EVALUATED, max_megapixels), source.key, "evaluation")


def evaluation_rows(photos: Dataset, source: str, part: str) -> Dataset:
    """The usable ones of photos or pairs that were read, as the set `part`; see `evaluation_photos`."""
    from ray.data.expressions import col, lit

    photos = photos.materialize()
    labels = photos.select_columns(["name", "problem"]).take_all()
    problems = {row["name"]: row["problem"] for row in labels if row["problem"]}
    warn_skipped(problems, len(labels), PAIRS if part == PAIRS else "photos")
    if len(problems) == len(labels):
        what = "pairs to evaluate on: two RGB photos of equal sizes" if part == PAIRS else "photo to evaluate on: RGB"
        raise PhotosError(f"{source} has no usable {what}, both sides >= {SMALLEST_EVALUATED}")
    usable: Dataset = photos.filter(expr=col("problem") == "").drop_columns(["problem", "index", "digest"])
    # One photo per block, so that each is reported when it has been evaluated. Materialized, so that no reading task
    # waits for a core that the evaluation's actors hold.
    return usable.with_column("set", lit(part)).repartition(len(labels) - len(problems)).materialize()


def fingerprint(folder: Folder, names: list[str]) -> dict[str, Any]:
    """What tells these files from others of the same names: their number, and the SHA-256 of names and contents.

    Of many files, the contents of `SAMPLED` are taken.
    """
    digest = hashlib.sha256(json.dumps(names).encode())
    for name in names[:: -(-len(names) // SAMPLED)]:
        with contextlib.suppress(OSError):
            digest.update(folder.read(name))
    return {"files": len(names), "sha256": digest.hexdigest()}


def fixed_crops(photos: TrainingPhotos, config: DataConfig) -> list[Dataset]:
    """One fixed crop of each training and validation photo, as rows like those of `evaluation_photos`.

    Their `set` is "training" or "validation": the paper reports both besides the evaluation photos (tables 4 and 5). Of
    photos that are streamed, the first `EVALUATED_TRAINING_PHOTOS` are taken.
    """
    import ray.data

    train = photos.train
    if isinstance(train, StoredPhotos):
        names = train.names[:EVALUATED_TRAINING_PHOTOS]
        train, _ = split_problems(_read(train.folder, names, config.crop_size, config.max_megapixels))
    datasets = []
    for part, chosen in (("training", train), ("validation", photos.validation)):
        rows = []
        for index, name in enumerate(chosen.names):
            random = np.random.default_rng(derived_seed(f"fixed {part} crops", config.seed, index))
            rows.append({"name": name, "pixels": chosen.crop(index, config.crop_size, random), "set": part})
        datasets.append(ray.data.from_items(rows, override_num_blocks=_blocks(len(rows))))
    return datasets


def decode_photo(folder: Folder, name: str, smallest: int, max_megapixels: int) -> tuple[Image.Image, str, str]:
    """The photo, why it cannot be used, or an empty string, and the SHA-256 of its file.

    The photo has 8 bits; `info["bits"]` says how many its file has.
    Not yet an array: copying all pixels out of Pillow takes a tenth of the decoding time, and a crop needs few.
    """
    nothing, digest = Image.new("RGB", (1, 1)), ""
    try:
        content = folder.read(name)
    except OSError as error:
        # A bucket that does not answer says nothing about a photo.
        if not folder.is_local and not isinstance(error, FileNotFoundError | PermissionError):
            raise
        return nothing, "unreadable", digest
    try:
        digest = hashlib.sha256(content).hexdigest()
        with warnings.catch_warnings():
            # Pillow only warns of some missing bytes; those of metadata do not matter here.
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*(EXIF|MPO|Metadata Warning)")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if problem := _problem(image, smallest, max_megapixels):
                return nothing, problem, digest
            # Pillow cuts 16 bits of colour images to 8.
            bits = 16 if any(";16" in str(part) for part in image.tile) else 8
            image.load()
            image.info["bits"] = bits
    except Exception:  # noqa: BLE001  (decoders raise anything on a damaged file, and one photo must not end a run)
        return nothing, "unreadable", digest
    return image, "", digest


def _problem(image: Image.Image, smallest: int, max_megapixels: int) -> str:
    """Why an image whose header was read cannot be used, or an empty string."""
    if image.mode != "RGB":
        return f"not 3-channel RGB (mode {image.mode})"
    if min(image.size) < smallest:
        return f"smaller than {smallest}x{smallest}"
    if image.width * image.height > max_megapixels * 1e6:
        return f"larger than {max_megapixels} megapixels"
    # Behind the photo, a camera's JPEG may hold a preview.
    return "animated" if image.format != "MPO" and getattr(image, "is_animated", False) else ""


def _samples(config: DataConfig) -> TrainingPhotos:
    size = max(256, config.crop_size)
    names = [f"dead-leaves-{index:05d}" for index in range(config.train_photos)]
    train, _ = split_problems(_rows(names, lambda index, name: (dead_leaves(size, config.seed, index), "", name)))
    folder, crop_size = Folder(sample_photos_folder(VALIDATION_PHOTOS)), config.crop_size
    validation, problems = split_problems(_read(folder, list(VALIDATION_PHOTOS), crop_size, config.max_megapixels))
    warn_skipped(problems, len(VALIDATION_PHOTOS))
    validation = validation[: config.val_photos]
    sha256 = hashlib.sha256(json.dumps([size, config.seed, names, validation.names]).encode()).hexdigest()
    return TrainingPhotos(train, validation, sha256)


def _mean_bytes(folder: Folder, names: list[str], config: DataConfig) -> float:
    """Bytes that a decoded photo takes."""
    decoded = [decode_photo(folder, name, 1, config.max_megapixels) for name in names]
    sizes = [3 * photo.width * photo.height for photo, problem, _ in decoded if not problem]
    return sum(sizes) / max(1, len(sizes))


def _read(folder: Folder, names: list[str], smallest: int, max_megapixels: int, *, pixels: bool = True) -> Dataset:
    """The photos of a folder, as `_rows`; only the first pixel of each unless `pixels`."""

    def decode(_: int, name: str) -> tuple[NDArray[np.uint8], str, str]:
        photo, problem, digest = decode_photo(folder, name, smallest, max_megapixels)
        return np.asarray(photo if pixels else photo.crop((0, 0, 1, 1))), problem, digest

    return decoded_on_this_node(folder, names, decode)


def decoded_on_this_node(folder: Folder, names: list[str], decode: Decode) -> Dataset:
    """See `_rows`; a local folder is read on this machine, since others need not have it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not folder.is_local or len(ray.nodes()) == 1:
        return _rows(names, decode)
    here = ray.get_runtime_context().get_node_id()
    cores = next(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here)
    where = NodeAffinitySchedulingStrategy(here, soft=False)
    return _rows(names, decode, num_cpus=min(1, cores), scheduling_strategy=where)


def _rows(names: list[str], decode: Decode, **where: Any) -> Dataset:
    """Rows of `index`, `name`, and what `decode` makes of these: `pixels`, `problem`, empty for a usable photo, and
    `digest`, the same for copies of a photo."""
    import ray.data

    def decoded(batch: dict[str, NDArray[Any]]) -> dict[str, Any]:
        pixels, problems, digests = np.empty(len(batch["name"]), dtype=object), [], []
        for row, (index, name) in enumerate(zip(batch["index"].tolist(), batch["name"].tolist(), strict=True)):
            pixels[row], problem, digest = decode(index, name)
            problems.append(problem)
            digests.append(digest)
        return {**batch, "pixels": pixels, "problem": problems, "digest": digests}

    rows = [{"index": index, "name": name} for index, name in enumerate(names)]
    dataset = ray.data.from_items(rows, override_num_blocks=_blocks(len(rows)))
    return dataset.map_batches(decoded, batch_size=None, **where)


def _blocks(rows: int) -> int:
    """How many parts to read in: 16 photos each, or fewer, so that many cores share few photos too."""
    return max(min(8, rows), -(-rows // 16))


def split_problems(dataset: Dataset, digests: dict[str, str] | None = None) -> tuple[Photos, dict[str, str]]:
    """The usable photos in order, and the problems of the others by name.

    Photos whose digest is in `digests` already, which gets those of the usable ones with their names, are copies.
    """
    digests = {} if digests is None else digests
    usable, problems = Photos([], []), dict[str, str]()
    for row in sorted(dataset.iter_rows(), key=lambda row: int(row["index"])):
        problem = row["problem"]
        if not problem and digests.setdefault(row["digest"], row["name"]) != row["name"]:
            problem = "a copy of another photo"
        if problem:
            problems[row["name"]] = problem
        else:
            usable.names.append(row["name"])
            usable.pixels.append(row["pixels"])
    return usable, problems


def warn_skipped(problems: dict[str, str], seen: int, what: str = "photos") -> None:
    """Warn of what was skipped, of `seen` in all, by reason; `problems` are reasons by name."""
    parts = []
    for reason, group in itertools.groupby(sorted(problems, key=lambda name: (problems[name], name)), problems.get):
        names = list(group)
        shown = names if len(names) <= 5 else [*names[:5], "…"]
        parts.append(f"{len(names)} {reason} ({', '.join(shown)})")
    if parts:
        logger.warning("skipped %d of %d %s: %s", len(problems), seen, what, "; ".join(parts))
