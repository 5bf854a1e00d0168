"""Image files, decoded. Imports little, since every process that Ray reads photos with starts with it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raygan.study.storage import Folder


def decode_photo(folder: Folder, name: str, smallest: int) -> tuple[Image.Image, str]:
    """The photo, and why it cannot be used if it cannot.

    Not yet an array, since copying all pixels out of Pillow takes a tenth of decoding them, and a crop needs few.
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


def decode_batch(batch: dict[str, NDArray[Any]], folder: Folder, smallest: int, pixels: bool) -> dict[str, Any]:
    """Rows of `name` with `problem` and `pixels` added; of the pixels only the first unless they are wanted."""
    decoded = np.empty(len(batch["name"]), dtype=object)
    problems = []
    for row, name in enumerate(batch["name"].tolist()):
        photo, problem = decode_photo(folder, name, smallest)
        decoded[row] = np.asarray(photo if pixels else photo.crop((0, 0, 1, 1)))
        problems.append(problem)
    return {**batch, "pixels": decoded, "problem": problems}
