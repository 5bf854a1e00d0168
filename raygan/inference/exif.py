"""EXIF entries of image files, and the directories of TIFF files that hold them."""

from __future__ import annotations

import io
import struct
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import PIL.Image
import pyvips
from PIL import TiffImagePlugin

from raygan.inference.denoiser import ImageError

# Pillow only copies entries, of images whose size has been checked.
PIL.Image.MAX_IMAGE_PIXELS = None
EXIF, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005
"""Tags of the directories below the first one, the last of them below EXIF's: it tells Adobe RGB."""
IPTC = 33723
"""TIFF's tag of press captions."""
STRUCTURE = frozenset(
    {*range(254, 270), *range(273, 305), *range(317, 348), 512, 513, 514, 529, 530, 532, 700, IPTC, 34675}
)
"""TIFF's tags about pixels, and those that libvips carries over itself: everything else describes the picture."""
BIG_TIFF, BIG_ENDIAN_BIG_TIFF = b"II+\0", b"MM\0+"
"""How TIFF files with offsets of 64 bits begin; Pillow does not read the entries of the second kind."""
REDUCED, OFFSETS = 254, {273: 279, 324: 325}
"""TIFF's tags: of a smaller version of another image, and where strips or tiles begin, with those of their lengths."""


def exif_of(image: pyvips.Image, content: bytes, notes: list[str]) -> PIL.Image.Exif | None:
    """The EXIF entries of a file's image that still hold when it is denoised: not those about pixels.

    libvips does not read those of TIFF files. None if there are none, or if they cannot be kept, which is noted.
    """
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


def tiff_with(exif: PIL.Image.Exif, content: bytes) -> bytes:
    """The content of a TIFF file that libvips has written, with the EXIF entries, which it does not write."""
    directory = _tiff_directory(content)
    # libvips writes a BigTIFF file where offsets would not fit into 32 bits.
    header, first, size = (content[:8], 16, 8) if content.startswith(BIG_TIFF) else (content[:4], 8, 4)
    offsets = 273
    # Its own entries too: those that were not read yet would not be written.
    for tag, value in {**directory, **exif}.items():
        directory[tag] = value
    # Pillow moves the pixels' offsets behind the directory, which goes first.
    directory[offsets] = tuple(offset - first for offset in directory[offsets])
    begin = first.to_bytes(size, sys.byteorder)
    return b"".join([header, begin, directory.tobytes(first), memoryview(content)[first:]])


def check_tiff(content: bytes) -> None:
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


def _tiff_directory(content: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The entries of a TIFF file's first image."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if content.startswith(BIG_TIFF) else 8])
    file = io.BytesIO(content)
    file.seek(directory.next)
    with warnings.catch_warnings(action="ignore"):
        directory.load(file)
    return directory
