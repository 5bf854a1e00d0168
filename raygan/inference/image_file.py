"""Denoising the content of an image file. Bit depth, alpha, colour profile and other metadata are kept."""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import pyvips
from numpy.typing import NDArray

from raygan.config.run import MAX_MEGAPIXELS
from raygan.data.sources import SUFFIXES
from raygan.inference.denoiser import Denoiser, ImageError
from raygan.inference.error import ErrorBounds
from raygan.inference.exif import check_tiff, exif_of, tiff_with

# It raises what it logs.
logging.getLogger("pyvips").setLevel(logging.CRITICAL)
IN_MEMORY = 512 * 2**20
"""Bytes of a denoised image up to which it is held in memory."""
QUALITY = 95
"""Quality of lossy formats."""
COLOURS = ("b-w", "grey16", "srgb", "rgb16")
"""libvips's names of the supported colour spaces."""
LOADERS = {
    rb"\xff\xd8\xff": (".jpg", "jpegload_buffer", "truncated"),
    rb"\x89PNG\r\n\x1a\n": (".png", "pngload_buffer", "truncated"),
    rb"RIFF....WEBP": (".webp", "webpload_buffer", "truncated"),
    # libtiff also warns of odd metadata; of missing bytes see `check_tiff`.
    rb"II[*+]\0|MM\0[*+]": (".tif", "tiffload_buffer", "error"),
}
"""By how a file begins: its suffix, libvips's loader, which has others, some of which start programs, and what that
must fail on."""
JPEG = (".jpg", ".jpeg")
LOSSY = (*JPEG, ".webp")
LARGEST_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
"""Most pixels of a side in formats that have a limit."""
XMP, LARGEST_XMP = "xmp-data", 65_502
"""libvips's name of the XMP packet, and its most bytes in a JPEG file."""
BEHIND = re.compile(rb"hdrgm:Version|HDRGainMap|iso:ts:21496|:MotionPhoto")
"""What phones write into JPEG files that hold an HDR gain map or a video behind the picture."""
GAMMA = 45_455
"""The value of a PNG file's gAMA chunk that is near sRGB's curve."""
UPRIGHT = re.compile(rb"""(<tiff:Orientation>|tiff:Orientation=["'])[2-8]""")
"""An orientation in an XMP packet, which no longer holds."""
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
        exif = exif_of(image, content, notes)
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
        check_tiff(content)
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


def _note_left_out(image: pyvips.Image, content: bytes, suffix: str, notes: list[str]) -> None:
    """Note metadata that the format cannot hold, or that libvips does not write."""
    suffix = suffix.lower()
    if image.get_typeof("iptc-data") and suffix not in JPEG:
        notes.append(f"its IPTC entries are left out of a {suffix} file")
    if image.get_typeof(XMP) and suffix in JPEG and len(image.get(XMP)) > LARGEST_XMP:
        notes.append("its XMP entries are left out, since JPEG files hold 64 KB of them")
    if image.get_typeof("icc-profile-data") and suffix == ".webp" and image.bands < 3:
        notes.append("its colour profile is left out, since .webp files hold none of grey images")
    if content.startswith(b"\xff\xd8\xff") and BEHIND.search(content):
        notes.append("what is behind the picture, an HDR gain map or a video, is left out")
    chunks = content[: content.find(b"IDAT")] if content.startswith(b"\x89PNG") else b""
    where = chunks.find(b"gAMA")
    if where > 0 and not any(other in chunks for other in (b"sRGB", b"iCCP")):
        gamma = int.from_bytes(chunks[where + 4 : where + 8])
        if abs(gamma - GAMMA) > GAMMA / 50:
            notes.append(f"its gamma, {gamma / 100_000:g}, is left out: other programs may show it lighter or darker")


def _large_array(shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """An uninitialized array, in a temporary file if it is very large: it may not fit into memory."""
    if math.prod(shape) * kind.itemsize <= IN_MEMORY:
        return np.empty(shape, kind)
    with tempfile.TemporaryFile() as file:
        # On a full disk, a process that writes to a mapped file is killed.
        os.posix_fallocate(file.fileno(), 0, math.prod(shape) * kind.itemsize)
        return np.memmap(file, kind, "w+", shape=shape)


def _as_image(pixels: NDArray[Any], interpretation: str) -> pyvips.Image:
    """The image of an array, (H, W, channels), which it does not copy."""
    height, width, channels = pixels.shape
    kind = "ushort" if pixels.dtype == np.uint16 else "uchar"
    image = pyvips.Image.new_from_memory(pixels.data, width, height, channels, kind)
    return image.copy(interpretation=interpretation)


def _as_file(image: pyvips.Image, suffix: str, exif: PIL.Image.Exif | None) -> bytes:
    """The content of a file of the format of `suffix`, with the EXIF entries."""
    lossy = suffix.lower() in LOSSY
    if lossy and image.format == "ushort":
        # Rounded, which libvips's conversion does not do.
        space = "b-w" if image.interpretation == "grey16" else "srgb"
        image = (image / 257).rint().cast("uchar").copy(interpretation=space)
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
    return content if exif is None or not suffix.lower().startswith(".tif") else tiff_with(exif, content)


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
