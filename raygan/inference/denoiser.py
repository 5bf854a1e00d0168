"""A trained denoiser for arrays: of any size, depth and number of channels, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raygan.config.run import PRECISIONS, Precision
from raygan.data.crops import to_unit_range
from raygan.inference.tiles import denoise
from raygan.errors import InputError
from raygan.study.storage import Folder
from raygan.train.checkpoint import load_denoiser
from raygan.train.step import autocast
from raygan.weights import SHIPPED

OVERLAP = 64
"""Pixels that neighbouring tiles share, at least: about as far as a generator looks."""
TILE = 512
"""Side of a tile in pixels where nothing else is asked for."""

Region = Callable[[slice, slice], NDArray[Any]]
"""Gives rows and columns of an image, (H, W, channels)."""


class ImageError(InputError):
    """An image that cannot be denoised."""


class Denoiser:
    """A trained generator, for images of any size, of 8 or 16 bits or real numbers, in grey or colour, with alpha."""

    def __init__(
        self,
        folder: str | Folder = SHIPPED,
        device: str = "auto",
        tile: int = TILE,
        precision: Precision = "float32",
    ) -> None:
        """Load a denoiser's folder, such as STUDY/best; `tile` bounds the memory that the network takes.

        "bfloat16" is faster where the processor computes in it; by it, the shipped denoiser loses 0.002 dB of Gaussian
        noise and speckle, and 0.05 dB of salt and pepper (`docs/denoiser.md`).

        Raises `DenoiserError` where there is no denoiser, and `ImageError` where tiles would be too small to overlap,
        the device is not there, or there is no such precision.
        """
        generator, self.config = load_denoiser(folder if isinstance(folder, Folder) else Folder(folder))
        if precision not in PRECISIONS:
            raise ImageError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if device == "cuda" and not torch.cuda.is_available():
            raise ImageError("this machine has no GPU that torch can use: give another device than cuda")
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.generator = generator.to(self.device).to(memory_format=torch.channels_last)
        self.precision = precision
        stride = self.config.generator.stride
        # Of whole strides, so that every tile sees the same grid as the whole image would.
        self.overlap = -(-OVERLAP // stride) * stride
        self.tile = tile // stride * stride
        if self.tile < 2 * self.overlap:
            raise ImageError(f"tiles must be at least {2 * self.overlap} pixels wide for this denoiser, not {tile}")

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """The denoised image, of the same shape and type.

        `image` is (H, W), or (H, W, C) of 1 (grey), 2 (grey, alpha), 3 (colour) or 4 (colour, alpha) channels, of
        uint8, uint16, or real numbers in [0, 1]. Alpha is kept as it is. Raises `ImageError` for others.
        """
        layered = image[..., None] if image.ndim == 2 else image
        if layered.ndim != 3 or layered.shape[2] not in (1, 2, 3, 4):
            raise ImageError(f"an image must be (H, W) or (H, W, 1 to 4 channels), but this one is {image.shape}")
        height, width = layered.shape[:2]
        bands = self.bands(lambda rows, columns: layered[rows, columns], height, width)
        return np.concatenate(list(bands)).reshape(image.shape)

    def bands(self, region: Region, height: int, width: int) -> Iterator[NDArray[Any]]:
        """The denoised image from the top on, in bands of rows, (rows, W, channels).

        Tiles overlap, and are blended linearly where they do. Besides a tile's, this takes the memory of one band.
        """
        step = self.tile - self.overlap
        carried: Tensor | None = None
        for top in range(0, max(1, height - self.overlap), step):
            rows = slice(top, min(top + self.tile, height))
            parts = []
            band = torch.zeros(3, rows.stop - top, width)
            for left in range(0, max(1, width - self.overlap), step):
                columns = slice(left, min(left + self.tile, width))
                pixels = region(rows, columns)
                parts.append(pixels[:, : step if columns.stop < width else None])
                weights = self._weights(columns, width)
                with autocast(self.device, self.precision):
                    denoised = denoise(self.generator, _as_noisy(pixels, self.device))
                band[:, :, columns] += weights * denoised[0].cpu()
            band *= self._weights(rows, height)[:, None]
            if carried is not None:
                band[:, : self.overlap] += carried
            done = step if rows.stop < height else rows.stop - top
            carried = band[:, done:]
            yield _as_pixels(band[:, :done], np.concatenate(parts, axis=1)[:done])

    def _weights(self, part: slice, size: int) -> Tensor:
        """Of a tile's rows or columns: those of neighbouring tiles add up to 1."""
        weights = torch.ones(part.stop - part.start)
        rising = (torch.arange(self.overlap) + 0.5) / self.overlap
        if part.start > 0:
            weights[: self.overlap] = rising
        if part.stop < size:
            weights[-self.overlap :] = rising.flip(0)
        return weights


def _as_noisy(pixels: NDArray[Any], device: torch.device) -> Tensor:
    """Pixels (H, W, C) as a generator takes them, float32 (1, 3, H, W) in [0, 1], without alpha."""
    colour = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
    planes = np.ascontiguousarray(colour.transpose(2, 0, 1))
    if planes.dtype == np.uint8:
        noisy = to_unit_range(torch.from_numpy(planes), device)
    else:
        noisy = torch.from_numpy(planes.astype(np.float32) / np.float32(_full_scale(planes.dtype))).to(device)
    return noisy.expand(3, -1, -1)[None].contiguous(memory_format=torch.channels_last)


def _as_pixels(denoised: Tensor, pixels: NDArray[Any]) -> NDArray[Any]:
    """A denoised band, (3, H, W), in the form of its noisy `pixels`, (H, W, C), whose alpha is taken over."""
    channels, scale = pixels.shape[2], _full_scale(pixels.dtype)
    colour = denoised.permute(1, 2, 0).numpy()
    if channels < 3:
        colour = colour.mean(axis=2, keepdims=True)
    values = np.rint(colour * scale) if scale > 1 else colour
    alpha = pixels[..., -1:] if channels in (2, 4) else pixels[..., :0]
    return np.concatenate([values.astype(pixels.dtype), alpha], axis=2)


def _full_scale(kind: np.dtype[Any]) -> int:
    """The value that means 1."""
    if kind in (np.uint8, np.uint16):
        return int(np.iinfo(kind).max)
    if kind.kind == "f":
        return 1
    raise ImageError(f"an image must be of uint8, uint16 or real numbers, but this one is of {kind}")
