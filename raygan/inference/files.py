"""Denoising image files. Their bit depth, alpha, colour profile and other metadata are kept."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyvips
from tqdm import tqdm

from raygan.config.run import Precision
from raygan.inference.denoiser import TILE, Denoiser, ImageError
from raygan.study.storage import Folder
from raygan.weights import SHIPPED

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
"""Suffixes of image files."""
# It raises what it logs.
logging.getLogger("pyvips").setLevel(logging.CRITICAL)
QUALITY = 95
"""Quality of lossy formats."""
COLOURS = ("b-w", "grey16", "srgb", "rgb16")
"""libvips's names of the supported colour spaces."""


def denoise_file(denoiser: Denoiser, content: bytes, suffix: str) -> bytes:
    """Denoise an image file's content; returns a file of the format of `suffix`.

    Supports 8 and 16 bits, grey and colour, palettes, and alpha, which is kept. CMYK is converted to sRGB. The image is
    rotated by its EXIF orientation, and keeps its other EXIF entries and its ICC profile. Raises `ImageError` for
    other files.
    """
    try:
        image = pyvips.Image.new_from_buffer(content, "", fail_on="truncated").autorot()
        if image.interpretation == "cmyk":
            image = image.icc_transform("srgb", embedded=True)
        pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
        kind = {"uchar": np.uint8, "ushort": np.uint16}.get(image.format)
        if image.interpretation not in COLOURS or kind is None or pages > 1:
            raise ImageError(
                f"an image must be of one page in grey or colour, of 8 or 16 bits, but this one is of {pages} pages, "
                f"{image.interpretation}, {image.format}"
            )
        height, width, channels = image.height, image.width, image.bands

        def region(rows: slice, columns: slice) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8 | np.uint16]]:
            part = image.crop(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            return np.asarray(part.numpy()).reshape(part.height, part.width, channels)

        # Through a file, since a large result may not fit into memory.
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / "denoised"
            with raw.open("wb") as file:
                for band in denoiser.bands(region, height, width):
                    file.write(band.tobytes())
            denoised = pyvips.Image.rawload(
                str(raw), width, height, channels * np.dtype(kind).itemsize, interpretation=image.interpretation
            )
            if kind is np.uint16:
                denoised = denoised.copy(bands=channels, format="ushort")
            lossy = {"Q": QUALITY} if suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
            # Inserted into the noisy image, which has the metadata.
            written: bytes = image.insert(denoised, 0, 0).write_to_buffer(suffix, **lossy)
    except pyvips.Error as error:
        raise ImageError(f"it cannot be read or written as an image: {error}") from error
    return written


def denoise_path(
    noisy: str,
    denoised: str,
    checkpoint: str = SHIPPED,
    device: str = "auto",
    tile: int = TILE,
    precision: Precision = "float32",
    *,
    on_ray: bool = False,
) -> list[str]:
    """Denoise the image file `noisy` into the file `denoised`, or all images of a folder into another, by their names.

    Both may be paths or s3:// or gs:// addresses. Files of a folder that cannot be denoised are skipped; returns one
    line about each. `on_ray` distributes a folder over the GPUs, or else the cores, of a Ray cluster. Raises
    `ImageError` if a single file cannot be denoised, there is nothing to denoise, or the input would be overwritten.
    """
    if noisy.lower().endswith(SUFFIXES):
        (source, name), (target, new_name) = _parent(noisy), _parent(denoised)
        if not denoised.lower().endswith(SUFFIXES):
            raise ImageError(f"the result's name must end in {', '.join(SUFFIXES)}, but it is {denoised!r}")
        _require_elsewhere(f"{source}/{name}", f"{target}/{new_name}")
        _Task(Denoiser(checkpoint, device, tile, precision), source, target).run(name, new_name)
        return []
    source, target = Folder(noisy), Folder(denoised)
    _require_elsewhere(source.location, target.location)
    names = [name for name in source.files() if name.lower().endswith(SUFFIXES)]
    if not names:
        raise ImageError(f"there are no images in {source} (files that end in {', '.join(SUFFIXES)})")
    # Loaded here also for a cluster, whose machines may be unable to read the checkpoint or import its network.
    task = _Task(Denoiser(checkpoint, "cpu" if on_ray else device, tile, precision), source, target)
    problems = _run_on_ray(task, names, device) if on_ray else map(task.try_run, names)
    return [problem for problem in tqdm(problems, total=len(names), unit="image") if problem]


def _parent(path: str) -> tuple[Folder, str]:
    parent, _, name = path.rpartition("/")
    return Folder(parent or "."), name


def _require_elsewhere(noisy: str, denoised: str) -> None:
    if noisy == denoised:
        raise ImageError(f"the result would overwrite the input, {noisy}: choose another path for it")


@dataclass
class _Task:
    """Denoising files of one folder into another."""

    denoiser: Denoiser
    source: Folder
    target: Folder
    device: str | None = None
    """Device to move the denoiser to; None: it stays where it is."""

    def __post_init__(self) -> None:
        if self.device is not None:
            self.denoiser.to(self.device)

    def run(self, name: str, new_name: str) -> None:
        """Denoise one file."""
        try:
            content = self.source.read(name)
            self.target.write(new_name, denoise_file(self.denoiser, content, Path(new_name).suffix))
        except OSError as error:
            raise ImageError(f"it cannot be read, or its result not written: {error}") from error

    def try_run(self, name: str) -> str:
        """Denoise one file into one of the same name; returns the problem, if there is one, or an empty string."""
        try:
            self.run(name, name)
        except ImageError as error:
            return f"{name}: {error}"
        return ""


def _run_on_ray(task: _Task, names: list[str], device: str) -> Iterator[str]:
    """`_Task.try_run` in Ray actors, one per GPU, or else per core; yields as files are done."""
    import ray
    from ray.util import ActorPool

    from raygan.train.cluster import start_ray

    start_ray()
    available = ray.cluster_resources()
    gpus = int(available.get("GPU", 0)) if device != "cpu" else 0
    actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=-1, max_task_retries=-1)(_Task)
    arguments = (ray.put(task.denoiser), task.source, task.target, "cuda" if gpus else "cpu")
    actors = [actor.remote(*arguments) for _ in range(min(gpus or int(available["CPU"]), len(names)))]
    yield from ActorPool(actors).map_unordered(lambda one, name: one.try_run.remote(name), names)
