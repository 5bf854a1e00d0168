"""Denoising image files. Their bit depth, alpha, colour profile and other metadata are kept."""

from __future__ import annotations

import errno
import io
import logging
import math
import re
import struct
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyvips
from numpy.typing import NDArray
from PIL import TiffImagePlugin
from tqdm import tqdm

from raygan.config.run import MAX_MEGAPIXELS
from raygan.data.sources import SUFFIXES, image_names
from raygan.inference.denoiser import Denoiser, ImageError
from raygan.inference.error import ErrorBounds
from raygan.storage import Folder, StorageError, split_file

# It raises what it logs.
logging.getLogger("pyvips").setLevel(logging.CRITICAL)
logger = logging.getLogger(__name__)
# Pillow only copies EXIF entries, of images whose size has been checked.
PIL.Image.MAX_IMAGE_PIXELS = None
IN_MEMORY = 512 * 2**20
"""Bytes of a denoised image up to which it is held in memory."""
RETRIES = 2
"""How often an image is tried again if its process died."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
QUALITY = 95
"""Quality of lossy formats."""
COLOURS = ("b-w", "grey16", "srgb", "rgb16")
"""libvips's names of the supported colour spaces."""
LOADERS = {
    rb"\xff\xd8\xff": (".jpg", "jpegload_buffer", "truncated"),
    rb"\x89PNG\r\n\x1a\n": (".png", "pngload_buffer", "truncated"),
    rb"RIFF....WEBP": (".webp", "webpload_buffer", "truncated"),
    # libtiff also warns of odd metadata; of missing bytes see `_check_tiff`.
    rb"II[*+]\0|MM\0[*+]": (".tif", "tiffload_buffer", "error"),
}
"""By how a file begins: its suffix, libvips's loader, which has others, some of which start programs, and what that
must fail on."""
JPEG = (".jpg", ".jpeg")
LOSSY = (*JPEG, ".webp")
LARGEST_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
"""Most pixels of a side in formats that have a limit."""
ERROR_SUFFIXES = (".png", ".tif", ".tiff")
"""Formats of error maps: those that hold 16 bits."""
EXIF, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005
"""Tags of the directories below the first one, the last of them below EXIF's: it tells Adobe RGB."""
IPTC = 33723
"""TIFF's tag of press captions."""
STRUCTURE = frozenset(
    {*range(254, 270), *range(273, 305), *range(317, 348), 512, 513, 514, 529, 530, 532, 700, IPTC, 34675}
)
"""TIFF's tags about pixels, and those that libvips carries over itself: everything else describes the picture."""
XMP, LARGEST_XMP = "xmp-data", 65_502
"""libvips's name of the XMP packet, and its most bytes in a JPEG file."""
BIG_TIFF, BIG_ENDIAN_BIG_TIFF = b"II+\0", b"MM\0+"
"""How TIFF files with offsets of 64 bits begin; Pillow does not read the entries of the second kind."""
REDUCED, OFFSETS = 254, {273: 279, 324: 325}
"""TIFF's tags: of a smaller version of another image, and where strips or tiles begin, with those of their lengths."""
GAMMA = 45_455
"""The value of a PNG file's gAMA chunk that is near sRGB's curve."""
UPRIGHT = re.compile(rb"""(<tiff:Orientation>|tiff:Orientation=["'])[2-8]""")
"""An orientation in it, which no longer holds."""
NOISY, LEFT = 10 / 255, 0.7
"""Noise from which on a user would see it, and the share of it that a denoiser leaves if it does not know its kind."""


class ImageWarning(UserWarning):
    """Something about an image was not kept, or its noise was left."""


@dataclass(frozen=True)
class DenoisedFile:
    """What became of an image file."""

    content: bytes
    error_map: bytes
    notes: tuple[str, ...]
    """What was not kept, and whether noise was left."""


def denoise_file(denoiser: Denoiser, content: bytes, suffix: str, max_megapixels: int = MAX_MEGAPIXELS) -> bytes:
    """Denoise an image file's content; returns a file of the format of `suffix`.

    Supports 8 and 16 bits, grey and colour, palettes, and alpha, which is kept. CMYK is converted to sRGB. The image is
    rotated by its EXIF orientation, and keeps its other EXIF entries, but no thumbnail, and its ICC profile. Raises
    `ImageError` for other and for damaged files, images of more than `max_megapixels`, and transparency that the format
    cannot hold. Warns with `ImageWarning` of what else it cannot hold, and of strong noise that was not removed.
    """
    denoised = denoise_content(denoiser, content, suffix, max_megapixels)
    for note in denoised.notes:
        warnings.warn(note, ImageWarning, stacklevel=2)
    return denoised.content


def denoise_content(
    denoiser: Denoiser,
    content: bytes,
    suffix: str,
    max_megapixels: int = MAX_MEGAPIXELS,
    error: tuple[ErrorBounds, str] | None = None,
) -> DenoisedFile:
    """`denoise_file` without warnings, and with an error map, given its bounds and suffix: see `denoise_path`."""
    bounds, error_suffix = error or (None, "")
    notes: list[str] = []
    try:
        image = _load(content, max_megapixels)
        _check_kept(image, suffix, notes)
        _note_left_out(image, content, suffix, notes)
        exif = _exif_of(image, content, notes)
        height, width, channels = image.height, image.width, image.bands
        kind = np.dtype(np.uint16 if image.format == "ushort" else np.uint8)

        def region(rows: slice, columns: slice) -> NDArray[Any]:
            part = image.crop(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            return np.asarray(part.numpy()).reshape(part.height, part.width, channels)

        pixels = _large_array((height, width, channels), kind)
        # Bounds of the error, times 65535.
        errors = _large_array((height, width, 1), np.dtype(np.uint16)) if bounds is not None else None
        top = 0
        for band, bound in denoiser.bands(region, height, width, bounds):
            rows = slice(top, top + len(band))
            pixels[rows] = band
            if errors is not None:
                # Rounded up, so that they stay bounds.
                errors[rows, :, 0] = np.ceil(bound.clip(0, 1) * 65535)
            top = rows.stop
        denoised = _as_image(pixels, image.interpretation)
        # With less strength, noise is left on purpose.
        if denoiser.strength >= 1:
            _note_noise_left(image, denoised, notes)
        # Inserted into the noisy image, which has the metadata.
        result = _as_file(image.insert(denoised, 0, 0), suffix, exif)
        error_map = _as_image(errors, "grey16").write_to_buffer(error_suffix) if errors is not None else b""
        return DenoisedFile(result, error_map, tuple(notes))
    except pyvips.Error as error:
        raise ImageError(f"it cannot be read or written as an image: {error}") from error


def _large_array(shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """An uninitialized array, in a temporary file if it is very large: it may not fit into memory."""
    if math.prod(shape) * kind.itemsize <= IN_MEMORY:
        return np.empty(shape, kind)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, kind, "w+", shape=shape)


def _as_image(pixels: NDArray[Any], interpretation: str) -> pyvips.Image:
    """The image of an array, (H, W, channels), which it does not copy."""
    height, width, channels = pixels.shape
    kind = "ushort" if pixels.dtype == np.uint16 else "uchar"
    image = pyvips.Image.new_from_memory(pixels.data, width, height, channels, kind)
    return image.copy(interpretation=interpretation)


def denoise_path(
    denoiser: Denoiser,
    noisy: str,
    denoised: str,
    *,
    max_megapixels: int = MAX_MEGAPIXELS,
    ray_device: str | None = None,
    error_map: str | None = None,
) -> list[str]:
    """Denoise the image file `noisy` into the file `denoised`, or all images of a folder into another, by their names.

    Both may be paths or s3:// or gs:// addresses. Files of a folder that cannot be denoised are skipped; returns one
    line about each. `ray_device`, if given, distributes a folder over a Ray cluster: over its GPUs, or else its cores
    ("auto"), or over its cores ("cpu"). `error_map`, for a single image, is another file to write: 16-bit grey, with
    the bound of `Denoiser.with_error` times 65535. Raises `ImageError` if a single file cannot be denoised, there is
    nothing to denoise, the input would be overwritten, one of two is a file and the other a folder, or there can be no
    error map, and `StorageError` if nothing can be written, or the disk is full.
    """
    (folder, name), (new_folder, new_name) = split_file(noisy), split_file(denoised)
    single = name.lower().endswith(SUFFIXES)
    if single != new_name.lower().endswith(SUFFIXES):
        formats, which = ", ".join(SUFFIXES), denoised if single else noisy
        raise ImageError(
            f"give two image files, whose names end in {formats}, or two folders: {which!r} is no such file"
        )
    if single and ray_device is not None:
        raise ImageError(f"--ray distributes a folder, but {noisy} is one image: leave --ray out")
    source, target = (folder, new_folder) if single else (Folder(noisy), Folder(denoised))
    if source.location == target.location and (not single or name == new_name):
        raise ImageError(f"the result would overwrite the input, {noisy}: choose another path for it")
    task = _Task(denoiser, source, target, max_megapixels)
    if error_map is not None:
        _check_error_map(error_map, noisy, denoised)
    if single:
        target.require_writable()
        _log_notes(noisy, task.run(name, new_name, error_map))
        return []
    # An earlier result inside the input is not input.
    result = target.path.removeprefix(f"{source.path}/") + "/"
    names = [name for name in image_names(source) if not name.startswith(result)]
    if not names:
        raise ImageError(f"there are no images in {source} (files that end in {', '.join(SUFFIXES)})")
    target.require_writable()
    outcomes = map(task.try_run, names) if ray_device is None else _run_on_ray(task, names, ray_device)
    problems = []
    for name, problem, notes in tqdm(outcomes, total=len(names), unit="image"):
        _log_notes(name, notes)
        problems += [f"{name}: {problem}"] if problem else []
    return problems


def _check_error_map(error_map: str, noisy: str, denoised: str) -> None:
    """Raise `ImageError` unless an error map can be written for this input."""
    files = [(folder.location, name) for folder, name in map(split_file, (error_map, noisy, denoised))]
    if not files[0][1].lower().endswith(ERROR_SUFFIXES):
        raise ImageError(f"the error map's name must end in {', '.join(ERROR_SUFFIXES)}, but it is {error_map!r}")
    if not files[1][1].lower().endswith(SUFFIXES):
        raise ImageError(f"an error map is written for one image, but {noisy} is a folder: give an image file")
    if files[0] in files[1:]:
        raise ImageError(f"the error map would overwrite an image, {error_map}: choose another path for it")
    split_file(error_map)[0].require_writable()


def suffix_of(content: bytes) -> str:
    """The suffix of an image file's format, by its content; raises `ImageError` if it is not a supported one."""
    return _format_of(content)[0]


def _format_of(content: bytes) -> tuple[str, str, str]:
    found = (one for beginning, one in LOADERS.items() if re.match(beginning, content, re.DOTALL))
    if (one := next(found, None)) is None:
        raise ImageError(f"it cannot be read as an image of {', '.join(SUFFIXES)}")
    return one


def _load(content: bytes, max_megapixels: int) -> pyvips.Image:
    """The image in a file, upright, and in grey or sRGB; raises `ImageError` if it is of another kind."""
    _, loader, fail_on = _format_of(content)
    image = getattr(pyvips.Image, loader)(content, fail_on=fail_on)
    if loader == "tiffload_buffer":
        _check_tiff(content)
    if image.width * image.height > max_megapixels * 1e6:
        size = f"{image.width}x{image.height} pixels"
        raise ImageError(f"it has {size}, but at most {max_megapixels} megapixels are read (see --max-megapixels)")
    if loader == "pngload_buffer" and b"acTL" in content[: content.find(b"IDAT")]:
        raise ImageError("it is animated, but an image must be of one frame")
    image = image.autorot()
    if image.interpretation == "cmyk":
        image = image.icc_transform("srgb", embedded=True, depth=16 if image.format == "ushort" else 8)
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if image.interpretation not in COLOURS or image.format not in ("uchar", "ushort") or pages > 1:
        raise ImageError(
            f"an image must be of one page in grey or colour, of 8 or 16 bits, but this one is of {pages} pages, "
            f"{image.interpretation}, {image.format}"
        )
    if image.bands > 4:
        raise ImageError(f"an image must have at most 4 channels, alpha included, but this one has {image.bands}")
    return image


def _tiff_directory(content: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The entries of a TIFF file's first image."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if content.startswith(BIG_TIFF) else 8])
    file = io.BytesIO(content)
    file.seek(directory.next)
    with warnings.catch_warnings(action="ignore"):
        directory.load(file)
    return directory


def _check_tiff(content: bytes) -> None:
    """Raise `ImageError` for a TIFF file whose end is missing, or that shows a preview, as camera raw files do."""
    if content.startswith(BIG_ENDIAN_BIG_TIFF):
        return
    try:
        directory = _tiff_directory(content)
        ends = [
            begin + length
            for where, lengths in OFFSETS.items()
            for begin, length in zip(directory.get(where, ()), directory.get(lengths, ()), strict=False)
        ]
        is_preview = bool(directory.get(REDUCED, 0) & 1)
    except (ValueError, TypeError, LookupError, struct.error, OSError, SyntaxError) as error:
        raise ImageError(f"its TIFF entries cannot be read: {error}") from error
    if max(ends, default=0) > len(content):
        raise ImageError("its end is missing")
    if is_preview:
        raise ImageError("its first image is a preview: if it is a camera raw file, develop it first")


def _note_left_out(image: pyvips.Image, content: bytes, suffix: str, notes: list[str]) -> None:
    """Note metadata that the format cannot hold, or that libvips does not write."""
    suffix = suffix.lower()
    if image.get_typeof("iptc-data") and suffix not in JPEG:
        notes.append(f"its IPTC entries are left out of a {suffix} file")
    if image.get_typeof(XMP) and suffix in JPEG and len(image.get(XMP)) > LARGEST_XMP:
        notes.append("its XMP entries are left out, since JPEG files hold 64 KB of them")
    if image.get_typeof("icc-profile-data") and suffix == ".webp" and image.bands < 3:
        notes.append("its colour profile is left out, since .webp files hold none of grey images")
    chunks = content[: content.find(b"IDAT")] if content.startswith(b"\x89PNG") else b""
    where = chunks.find(b"gAMA")
    if where > 0 and not any(other in chunks for other in (b"sRGB", b"iCCP")):
        gamma = int.from_bytes(chunks[where + 4 : where + 8])
        if abs(gamma - GAMMA) > GAMMA / 50:
            notes.append(f"its gamma, {gamma / 100_000:g}, is left out: other programs may show it lighter or darker")


def _check_kept(image: pyvips.Image, suffix: str, notes: list[str]) -> None:
    """Raise `ImageError` if a format cannot hold what the image shows; note depth that it cannot hold."""
    suffix = suffix.lower()
    if (most := LARGEST_SIDE.get(suffix, math.inf)) < max(image.width, image.height):
        size = f"{image.width}x{image.height} pixels"
        raise ImageError(f"it has {size}, but {suffix} files have at most {most} a side: write a .png or .tif file")
    if suffix in JPEG and image.hasalpha() and image[image.bands - 1].min() < _white(image):
        raise ImageError("it has transparent areas, which JPEG cannot hold: write a .png, .tif or .webp file")
    if suffix in LOSSY and image.format == "ushort":
        notes.append(f"its 16 bits become 8, since {suffix} files hold no more")


def _as_file(image: pyvips.Image, suffix: str, exif: PIL.Image.Exif | None) -> bytes:
    """The content of a file of the format of `suffix`, with the EXIF entries."""
    lossy = suffix.lower() in LOSSY
    if lossy and image.format == "ushort":
        image = image.colourspace("b-w" if image.interpretation == "grey16" else "srgb")
    if suffix.lower() in JPEG and image.hasalpha():
        image = image.extract_band(0, n=image.bands - 1)
    image = image.copy()
    for name in image.get_fields():
        # A thumbnail, for example, shows the noisy picture.
        if name.startswith(("exif-", "jpeg-thumbnail")) or (name == "iptc-data" and suffix.lower() not in JPEG):
            image.remove(name)
    if image.get_typeof(XMP):
        image.set_type(pyvips.GValue.blob_type, XMP, UPRIGHT.sub(rb"\g<1>1", bytes(image.get(XMP))))
    if exif is not None and not suffix.lower().startswith(".tif"):
        image.set_type(pyvips.GValue.blob_type, "exif-data", exif.tobytes())
    content: bytes = image.write_to_buffer(suffix, **({"Q": QUALITY} if lossy else {}))
    return content if exif is None or not suffix.lower().startswith(".tif") else _tiff_with(exif, content)


def _exif_of(image: pyvips.Image, content: bytes, notes: list[str]) -> PIL.Image.Exif | None:
    """The EXIF entries that still hold of the denoised image; libvips does not read those of TIFF files."""
    exif = PIL.Image.Exif()
    try:
        if image.get_typeof("exif-data"):
            exif.load(bytes(image.get("exif-data")))
        elif image.get("vips-loader").startswith("tiff"):
            if content.startswith(BIG_ENDIAN_BIG_TIFF):
                raise ValueError("the file is a big-endian BigTIFF")
            if content.startswith(BIG_TIFF):
                # `load` reads a shorter header.
                exif = PIL.Image.open(io.BytesIO(content), formats=["TIFF"]).getexif()
            else:
                exif.load(content)
        # Read now: these are read from the file only when asked for.
        below = {tag: _as_read(exif.get_ifd(tag)) for tag in (EXIF, GPS) if tag in exif}
        if INTEROPERABILITY in below.get(EXIF, {}):
            below[EXIF][INTEROPERABILITY] = _as_read(exif.get_ifd(INTEROPERABILITY))
        kept = PIL.Image.Exif()
        kept.update(_as_read(exif) | below)
        kept.tobytes()
    except Exception as error:  # noqa: BLE001  (Pillow raises anything on damaged entries, which are no reason to stop)
        notes.append(f"its EXIF entries cannot be kept and are left out: {error}")
        return None
    return kept if len(kept) else None


class _Text(str):
    """Text of an EXIF entry, written as it was read: Pillow reads Latin-1, and writes ASCII."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:  # noqa: ARG002
        return super().encode("latin-1")


def _as_read(directory: Mapping[int, Any]) -> dict[int, Any]:
    """The entries of an EXIF directory that describe the picture."""
    values = {tag: directory[tag] for tag in directory if tag not in STRUCTURE}
    return {tag: _Text(value) if isinstance(value, str) else value for tag, value in values.items()}


def _tiff_with(exif: PIL.Image.Exif, content: bytes) -> bytes:
    """A TIFF file that libvips has written, with the EXIF entries, which it does not write."""
    directory = _tiff_directory(content)
    header, first, offsets = content[:4], 8, 273
    # Its own entries too: those that were not read yet would not be written.
    for tag, value in {**directory, **exif}.items():
        directory[tag] = value
    # Pillow moves the pixels' offsets behind the directory, which goes first.
    directory[offsets] = tuple(offset - first for offset in directory[offsets])
    return b"".join([header, first.to_bytes(4, sys.byteorder), directory.tobytes(first), memoryview(content)[first:]])


def _note_noise_left(noisy: pyvips.Image, denoised: pyvips.Image, notes: list[str]) -> None:
    """Note if there was strong noise in the middle of an image, and most of it still is."""
    before, after = (_noise_in(image) for image in (noisy, denoised))
    if before > NOISY and after > LEFT * before:
        notes.append(
            f"strong noise is left (standard deviation about {255 * after:.0f} of 255, {255 * before:.0f} before): "
            "this denoiser does not know its kind"
        )


def _noise_in(image: pyvips.Image, side: int = 1024) -> float:
    """Standard deviation of the noise in the middle of an image, as a share of white.

    From the median of the finest diagonal wavelet coefficients (Donoho and Johnstone, 1994), of Haar's wavelet.
    """
    width, height = min(side, image.width), min(side, image.height)
    middle = image.crop((image.width - width) // 2, (image.height - height) // 2, width, height)
    pixels = np.asarray(middle.numpy(), dtype=np.float32).reshape(height, width, -1)[
        : height // 2 * 2, : width // 2 * 2
    ]
    grey = pixels[..., : 3 if pixels.shape[2] > 2 else 1].mean(axis=2) / _white(image)
    diagonal = np.abs(grey[::2, ::2] - grey[1::2, ::2] - grey[::2, 1::2] + grey[1::2, 1::2]) / 2
    # In a saturated sky, noise is clipped away.
    inside = diagonal[(grey[::2, ::2] > 0) & (grey[::2, ::2] < 1)]
    return float(np.median(inside)) / 0.6745 if len(inside) else 0.0


def _white(image: pyvips.Image) -> int:
    return 65535 if image.format == "ushort" else 255


def _log_notes(name: str, notes: Sequence[str]) -> None:
    for note in notes:
        logger.warning("%s: %s", name, note)


@dataclass
class _Task:
    """Denoising files of one folder into another."""

    denoiser: Denoiser
    source: Folder
    target: Folder
    max_megapixels: int
    device: str | None = None
    """Device to move the denoiser to; None: it stays where it is."""

    def __post_init__(self) -> None:
        if self.device is not None:
            self.denoiser.to(self.device)

    def run(self, name: str, new_name: str, error_map: str | None = None) -> tuple[str, ...]:
        """Denoise one file; returns what is to be said about the result."""
        error = None
        if error_map is not None:
            error_folder, error_name = split_file(error_map)
            error = self.denoiser.error_bounds(), Path(error_name).suffix
        try:
            content = self.source.read(name)
        except OSError as problem:
            raise ImageError(f"it cannot be read: {problem}") from problem
        try:
            result = denoise_content(self.denoiser, content, Path(new_name).suffix, self.max_megapixels, error)
        except OSError as problem:
            # Very large images are unpacked into temporary files.
            raise ImageError(f"it cannot be denoised: {problem}") from problem
        try:
            self.target.write(new_name, result.content)
            if error is not None:
                error_folder.write(error_name, result.error_map)
        except OSError as problem:
            text = f"its result cannot be written: {problem}"
            # Nor can those of all others.
            raise (StorageError if problem.errno in DISK_FULL else ImageError)(text) from problem
        return result.notes

    def try_run(self, name: str) -> tuple[str, str, tuple[str, ...]]:
        """Denoise one file into one of the same name: the name, the problem or an empty string, and `run`'s notes."""
        try:
            return name, "", self.run(name, name)
        except ImageError as error:
            return name, str(error), ()


def _run_on_ray(task: _Task, names: list[str], device: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """`_Task.try_run` in Ray actors, one per GPU, or else per core; yields as files are done.

    Local folders are read and written on this machine, since others need not have them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from raygan.train.cluster import start_ray

    start_ray()
    available, where = ray.cluster_resources(), {}
    if (task.source.is_local or task.target.is_local) and len(ray.nodes()) > 1:
        here = ray.get_runtime_context().get_node_id()
        available = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
        where = {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}
    gpus = int(available.get("GPU", 0)) if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise ImageError("Ray has no GPU here: give --device cpu or auto")
    # A cluster's head may offer no cores.
    cores = int(available.get("CPU", 0))
    options = {"num_cpus": min(1, cores), "num_gpus": 1 if gpus else 0, "max_restarts": -1}
    options["max_task_retries"] = RETRIES
    actor = ray.remote(**options, **where)(_Task)
    arguments = (ray.put(task.denoiser), task.source, task.target, task.max_megapixels, "cuda" if gpus else "cpu")
    yield from _distributed([actor.remote(*arguments) for _ in range(min(gpus or max(1, cores), len(names)))], names)


def _distributed(free: list[Any], names: list[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """`_Task.try_run` of each name by actors that are free; Ray's ActorPool gives up those whose process died."""
    import ray

    left, running = names[::-1], dict[ray.ObjectRef, tuple[Any, str]]()
    while left or running:
        while free and left:
            one, name = free.pop(), left.pop()
            running[one.try_run.remote(name)] = one, name
        [done], _ = ray.wait(list(running))
        one, name = running.pop(done)
        free.append(one)
        try:
            yield ray.get(done)
        except ray.exceptions.RayActorError as error:
            lines = str(error).splitlines()
            if error.actor_init_failed:
                raise ImageError(f"the denoiser cannot be set up on Ray: {lines[-1]}") from error
            yield name, f"the process that denoised it died, {1 + RETRIES} times: {lines[0]}", ()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
