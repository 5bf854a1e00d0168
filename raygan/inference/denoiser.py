"""A trained denoiser for arrays of any size, depth and number of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raygan.config.run import PRECISIONS, Precision
from raygan.config.service import MOST_STRENGTH
from raygan.errors import InputError
from raygan.inference.error import ERROR_FILE, ErrorBounds, read_bounds
from raygan.models.generators import ResidualUNetNetwork
from raygan.storage import Folder
from raygan.train.denoisers import load_generator
from raygan.train.step import autocast
from raygan.weights import DEFAULT, denoiser_folder

OVERLAP = 64
"""Minimum overlap of neighboring tiles in pixels: about the radius of a generator's receptive field."""
TILE = 512
"""Default side of a tile in pixels."""

Region = Callable[[slice, slice], NDArray[Any]]
"""Returns rows and columns of an image, (H, W, channels)."""


class ImageError(InputError):
    """An image that cannot be denoised."""


class Options(TypedDict, total=False):
    """How a `Denoiser` computes; see its constructor."""

    device: str
    tile: int
    precision: Precision
    self_ensemble: bool
    strength: float


class AnySize(nn.Module):
    """A generator for images of any size: reflection padding to a multiple of its stride, cropping, clamping."""

    def __init__(self, generator: nn.Module, stride: int) -> None:
        super().__init__()
        self.generator = generator
        self.stride = stride

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoised images, float32, (B, 3, H, W), in [0, 1], of noisy ones of the same shape."""
        height, width = noisy.shape[-2:]
        rows = _reflected(height, self.stride, noisy.device)
        columns = _reflected(width, self.stride, noisy.device)
        denoised: Tensor = self.generator(noisy.index_select(2, rows).index_select(3, columns))
        # Not by slices: the exporter would record whether these are contiguous, which depends on the size.
        inside = denoised.index_select(2, torch.arange(height, device=noisy.device))
        return inside.index_select(3, torch.arange(width, device=noisy.device)).clamp(0, 1)


def denoise(generator: nn.Module, noisy: Tensor, stride: int) -> Tensor:
    """Denoised images, float32, (B, 3, H, W), in [0, 1], of noisy ones of any height and width.

    `generator` must be in evaluation mode and on the images' device; `stride` is that of its configuration.
    """
    with torch.inference_mode():
        denoised: Tensor = AnySize(generator, stride)(noisy)
        return denoised


def denoise_in_tiles(
    generator: nn.Module, noisy: Tensor, stride: int, device: torch.device, tile: int = 1024
) -> Tensor:
    """`denoise` of one image on the CPU, (1, 3, H, W), by a generator on `device`, with the memory of one tile."""

    def denoised(rows: slice, columns: slice) -> Tensor:
        part = noisy[:, :, rows, columns].contiguous(memory_format=torch.channels_last)
        return denoise(generator, part.to(device), stride)[0].cpu()

    sides = _Tiles(stride, tile)
    return torch.cat(list(sides.bands(denoised, *noisy.shape[-2:])), dim=1)[None]


class SelfEnsemble(nn.Module):
    """The mean of a generator's results for all eight flips and turns of an image (Timofte et al., 2016)."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoised images of noisy ones, both as the generator's."""
        total = torch.zeros_like(noisy)
        for dimensions in ((), (2,), (3,), (2, 3)):
            flipped = noisy.flip(dimensions)
            total += self.generator(flipped).flip(dimensions)
            total += self.generator(flipped.transpose(2, 3)).transpose(2, 3).flip(dimensions)
        return total / 8


class _Tiles:
    """Overlapping tiles of an image, which are blended linearly."""

    def __init__(self, stride: int, tile: int) -> None:
        # Multiples of the stride, so that every tile is on the same grid as the whole image.
        self.overlap = -(-OVERLAP // stride) * stride
        self.side = tile // stride * stride
        if self.side < 2 * self.overlap:
            raise ImageError(f"tiles must be at least {2 * self.overlap} pixels wide for this denoiser, not {tile}")

    def bands(
        self, denoised: Callable[[slice, slice], Tensor], height: int, width: int, planes: int = 3
    ) -> Iterator[Tensor]:
        """The denoised image in bands of rows from top to bottom, (planes, rows, W), on the CPU.

        `denoised` returns a tile, (planes, rows, columns). The memory use is that of one tile and one band.
        """
        step = self.side - self.overlap
        carried: Tensor | None = None
        for top in range(0, max(1, height - self.overlap), step):
            rows = slice(top, min(top + self.side, height))
            band = torch.zeros(planes, rows.stop - top, width)
            for left in range(0, max(1, width - self.overlap), step):
                columns = slice(left, min(left + self.side, width))
                band[:, :, columns] += self._weights(columns, width) * denoised(rows, columns)
            band *= self._weights(rows, height)[:, None]
            if carried is not None:
                band[:, : self.overlap] += carried
            done = step if rows.stop < height else rows.stop - top
            carried = band[:, done:]
            yield band[:, :done]

    def _weights(self, part: slice, size: int) -> Tensor:
        """Blending weights of a tile's rows or columns: those of neighboring tiles add up to 1."""
        weights = torch.ones(part.stop - part.start)
        rising = (torch.arange(self.overlap) + 0.5) / self.overlap
        if part.start > 0:
            weights[: self.overlap] = rising
        if part.stop < size:
            weights[-self.overlap :] = rising.flip(0)
        return weights


class Denoiser:
    """A trained generator for images of any size: 8 or 16 bits or floats, grey or colour, with or without alpha."""

    def __init__(
        self,
        generator: nn.Module,
        stride: int = 1,
        device: str = "auto",
        tile: int = TILE,
        precision: Precision = "auto",
        self_ensemble: bool = False,
        strength: float = 1.0,
    ) -> None:
        """A network in evaluation mode, with the contract of `Generator.build`; see `from_pretrained` for trained ones.

        Height and width of the network's inputs are multiples of `stride`. The side of a `tile`, in pixels, bounds the
        memory use. `self_ensemble` averages over all flips and turns of the image, which takes eight times as long.
        `strength`, 0 to 1.5, is how much of what the network takes for noise is removed.

        "bfloat16" is faster on processors that support it, where "auto" chooses it for residual U-Nets: what those
        that come with RayGAN lose is in `docs/explanation/denoiser.md`; other networks may lose more. "float32" gives
        the same result on all processors, but for rounding; on GPUs, PyTorch's convolutions round to TF32. The error
        map is always computed in float32.

        Raises `ImageError` if tiles are too small to overlap, the device is missing, the precision is unknown or the
        strength out of range.
        """
        self.folder: Folder | None = None
        """Where it was loaded from."""
        if precision not in PRECISIONS:
            raise ImageError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if not 0 <= strength <= MOST_STRENGTH:
            raise ImageError(f"strength must be from 0 to {MOST_STRENGTH}, but it is {strength}")
        if device == "cuda" and not torch.cuda.is_available():
            raise ImageError("this machine has no GPU that torch can use: choose another device than cuda")
        # Its layers at the highest resolution stay in float32: see `FullResolution`.
        tolerates_bfloat16 = isinstance(generator, ResidualUNetNetwork)
        self.precision: Precision = "float32" if precision == "auto" and not tolerates_bfloat16 else precision
        self.self_ensemble = self_ensemble
        self.strength = strength
        self.stride = stride
        self.tiles = _Tiles(self.stride, tile)
        network = SelfEnsemble(generator) if self_ensemble else generator
        self.generator = network.to(memory_format=torch.channels_last)
        self.to(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)

    @classmethod
    def from_pretrained(
        cls, name: str | Folder = DEFAULT, revision: str | None = None, **options: Unpack[Options]
    ) -> Self:
        """The denoiser of a name: one that comes with RayGAN, a folder or prefix such as STUDY/best, or OWNER/NAME.

        OWNER/NAME is a repository on the Hugging Face hub (pip install 'raygan[hub]'), of which `revision` is a branch,
        tag or commit; only its `generator.safetensors` and JSON files are fetched. Another project's file, such as
        drunet.pth, is a name too. `options` are those of the constructor.

        Raises `DenoiserError` if there is no denoiser, `HubError` if the hub does not give it, `ModelFileError`, and
        what the constructor raises.
        """
        if revision is not None:
            name = f"{name}@{revision}"
        folder = Folder(denoiser_folder(name)) if isinstance(name, str) else name
        generator, config = load_generator(folder)
        denoiser = cls(generator, config.generator.stride, **options)
        denoiser.folder = folder
        return denoiser

    def to(self, device: str) -> Self:
        """Move the network to another device."""
        self.device = torch.device(device)
        self.generator.to(self.device)
        return self

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """The denoised image, of the same shape and type.

        `image` is (H, W) or (H, W, C) with 1 (grey), 2 (grey, alpha), 3 (colour) or 4 (colour, alpha) channels, uint8,
        uint16 or floats in [0, 1]. Alpha is kept. Raises `ImageError` for other arrays.
        """
        return self._whole(image, None)[0]

    def with_error(self, image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """The denoised image, and a bound on its error, float32, (H, W), where 1 is the image's full scale.

        On average over images like those of the calibration, the largest error of a pixel's channels, before rounding
        to the image's type, is within the bound for 90 % of the pixels (see `raygan.inference.error`). Raises
        `ImageError` as a call does, and where `error_bounds` does.
        """
        return self._whole(image, self.error_bounds())

    def error_bounds(self) -> ErrorBounds:
        """The denoiser's calibrated bounds.

        Raises `ImageError` if it has none, or computes in another way than they were calibrated for.
        """
        if self.strength != 1 or self.self_ensemble:
            raise ImageError(
                "the error map is calibrated for strength 1 without self-ensemble: leave these options out"
            )
        bounds = read_bounds(self.folder) if self.folder is not None else None
        if bounds is None:
            raise ImageError(
                f"the denoiser in {self.folder or 'memory'} has no calibrated error bounds (no {ERROR_FILE}): "
                "calibrate it with raygan.inference.error.calibrate, or use synthetic, small or camera, which have them"
            )
        return bounds

    def _whole(self, image: NDArray[Any], bounds: ErrorBounds | None) -> tuple[NDArray[Any], NDArray[np.float32]]:
        layered = image[..., None] if image.ndim == 2 else image
        if layered.ndim != 3 or layered.shape[2] not in (1, 2, 3, 4):
            raise ImageError(f"an image must be (H, W) or (H, W, 1 to 4 channels), but this one is {image.shape}")
        height, width = layered.shape[:2]
        bands = self.bands(lambda rows, columns: layered[rows, columns], height, width, bounds)
        denoised, errors = zip(*bands, strict=True)
        return np.concatenate(denoised).reshape(image.shape), np.concatenate(errors)

    def bands(
        self, region: Region, height: int, width: int, bounds: ErrorBounds | None = None
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """The denoised image in bands of rows from top to bottom, (rows, W, channels), and bounds on its error.

        The latter are (rows, W), or empty without `bounds`. The memory use is that of one tile and one band.
        """

        def denoised(rows: slice, columns: slice) -> Tensor:
            noisy = _as_noisy(region(rows, columns), self.device)
            # Bounds are calibrated in float32.
            with autocast(self.device, self.precision if bounds is None else "float32"):
                result = denoise(self.generator, noisy, self.stride)
            if self.strength != 1:
                result = torch.lerp(noisy, result.float(), self.strength).clamp(0, 1)
            if bounds is not None:
                result = torch.cat([result, bounds.of(noisy, result)], dim=1)
            return result[0].cpu()

        top = 0
        for band in self.tiles.bands(denoised, height, width, 3 if bounds is None else 4):
            rows = slice(top, top + band.shape[1])
            yield _as_pixels(band[:3], region(rows, slice(0, width))), band[3:].flatten(0, 1).numpy()
            top = rows.stop


def _reflected(size: int, stride: int, device: torch.device) -> Tensor:
    """Indices 0, …, size - 1 and on to the next multiple of `stride`, reflected at both ends as often as needed."""
    positions = torch.arange((size + stride - 1) // stride * stride, device=device)
    # A tensor, since the ONNX exporter cannot translate the remainder by a symbolic size.
    period = torch.full((1,), max(1, 2 * (size - 1)), device=device)
    return (size - 1) - (positions % period - (size - 1)).abs()


def _as_noisy(pixels: NDArray[Any], device: torch.device) -> Tensor:
    """Pixels (H, W, C) as a generator's input, float32, (1, 3, H, W), in [0, 1], without alpha."""
    colour = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
    planes = torch.from_numpy(colour.transpose(2, 0, 1).astype(np.float32) / np.float32(_full_scale(pixels.dtype)))
    return planes.to(device).expand(3, -1, -1)[None].contiguous(memory_format=torch.channels_last)


def _as_pixels(denoised: Tensor, pixels: NDArray[Any]) -> NDArray[Any]:
    """A denoised band, (3, H, W), in the form of its noisy `pixels`, (H, W, C), with their alpha."""
    channels, scale = pixels.shape[2], _full_scale(pixels.dtype)
    colour = denoised.permute(1, 2, 0).numpy()
    if channels < 3:
        colour = colour.mean(axis=2, keepdims=True)
    values = np.rint(colour * scale) if scale > 1 else colour
    alpha = pixels[..., -1:] if channels in (2, 4) else pixels[..., :0]
    return np.concatenate([values.astype(pixels.dtype), alpha], axis=2)


def _full_scale(kind: np.dtype[Any]) -> int:
    """The value that stands for 1."""
    if kind in (np.uint8, np.uint16):
        return int(np.iinfo(kind).max)
    if kind.kind == "f":
        return 1
    raise ImageError(f"an image must be of uint8, uint16 or floats, but this one is of {kind}")
