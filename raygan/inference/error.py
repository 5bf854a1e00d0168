"""Bounds on the error that a denoiser leaves in each pixel, calibrated as in split conformal prediction.

Pixels are grouped by three features that need no clean image: the level of the noise removed around them, how evenly it
is spread, and the texture of the denoised image. In each group, the bound is the conformal quantile of the errors in
photos that the denoiser was not trained on (Mondrian conformal prediction, Vovk et al., 2003). Bounds are interpolated
between the groups, and then scaled so that 90 % of the calibration's pixels are within them again. The pixels of
a photo are not exchangeable with those of others, so coverage on new photos is measured, not guaranteed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from raygan.config.run import Config
from raygan.errors import InputError
from raygan.noise import Gaussian, add_noise, sample_noise
from raygan.seeds import derived_seed, torch_generator
from raygan.storage import Folder, reading
from raygan.train.denoisers import load_generator

ERROR_FILE = "error.json"
"""File of the bounds in a denoiser's folder."""
COVERAGE = 0.9
"""Share of the pixels whose error is within the bound."""
NOISE_WINDOW, TEXTURE_WINDOW = 31, 5
"""Sides in pixels of the squares that the features are averaged over."""
GROUPS = (24, 8, 12)
"""Groups by each feature, of equally many pixels."""
SMALLEST_GROUP = 50
"""Pixels that a group needs for a bound of its own; smaller ones take the nearest group's."""
SIDE, DRAWS, PIXELS = 128, 12, 3000
"""Calibration: side of a crop, crops of each photo, and pixels of each that are used."""
LARGEST = 2.0
"""Up to this factor half of the crops are enlarged: a camera's photo is softer than one that was reduced in size."""
WEAK = Gaussian(low=0, high=0.005)
"""Noise down to none, which the denoiser may not have been trained on."""


class CalibrationError(InputError):
    """Photos cannot be calibrated on."""


@dataclass(frozen=True)
class ErrorBounds:
    """A denoiser's table of bounds: at a point of the grid that the features' values span, each increasing."""

    levels: list[float]
    spreads: list[float]
    textures: list[float]
    bounds: list[list[list[float]]]

    def of(self, noisy: Tensor, denoised: Tensor) -> Tensor:
        """Bounds, (B, 1, H, W), on the largest error of the channels of denoised images, (B, 3, H, W), in [0, 1]."""
        return self.at(_features(noisy, denoised))

    def at(self, features: Sequence[Tensor]) -> Tensor:
        """Bounds for level, spread and texture, each (B, 1, H, W).

        They are linear between the grid's points, and constant beyond them.
        """
        level, spread, texture = map(_position, features, (self.levels, self.spreads, self.textures))
        # The table's last dimension comes first in the grid.
        grid = torch.stack([texture, spread, level], dim=-1)
        table = torch.tensor(self.bounds, device=level.device).expand(len(level), 1, -1, -1, -1)
        return functional.grid_sample(table, grid, padding_mode="border", align_corners=True)[:, :, 0]

    def write(self, folder: Folder) -> None:
        """Write the table into a denoiser's folder."""
        folder.write(ERROR_FILE, json.dumps(asdict(self)) + "\n")


def read_bounds(folder: Folder) -> ErrorBounds | None:
    """The table in a denoiser's folder; None if there is none. Raises `DamagedError`."""
    try:
        content = folder.read(ERROR_FILE)
    except (FileNotFoundError, NotADirectoryError):
        # The latter where the denoiser is another project's file.
        return None
    with reading(folder, ERROR_FILE, "restore it from a copy, or calibrate the denoiser again"):
        found = ErrorBounds(**json.loads(content))
        sizes = tuple(map(len, (found.levels, found.spreads, found.textures)))
        for holds, problem in (
            (np.shape(found.bounds) == sizes, f"bounds of shape {np.shape(found.bounds)}, not {sizes}"),
            (min(sizes) > 1, "a feature has fewer than two values"),
            (np.min(found.bounds) > 0, "a bound is not above 0"),
        ):
            if not holds:
                raise ValueError(problem)
        return found


def calibrate(folder: Folder, photos: Sequence[NDArray[np.uint8]], seed: int = 0) -> ErrorBounds:
    """Calibrate the denoiser in a folder on clean photos, (H, W, 3), on which it was not trained.

    Crops of them, half of them enlarged, get the noises that the denoiser was trained on, and a sixth weak Gaussian
    noise or none. Raises `DenoiserError`, and `CalibrationError` without photos, and for photos smaller than the crops.
    """
    generator, config = load_generator(folder)
    stride = config.generator.stride
    side = max(SIDE // stride, 1) * stride
    if not photos or min(min(photo.shape[:2]) for photo in photos) < side:
        raise CalibrationError(f"calibration needs photos, all of {side}x{side} pixels or more")
    samples = [_samples(generator, config, photo, (seed, index), side) for index, photo in enumerate(photos)]
    *features, errors = torch.cat(samples, dim=1)
    bounds = _grouped([values.numpy() for values in features], errors.numpy())
    ratios = errors / bounds.at([values[None, None, None] for values in features]).flatten()
    scaled = conformal_quantile(ratios.numpy()) * np.array(bounds.bounds)
    # Rounded up, for a short file.
    return replace(bounds, bounds=(np.ceil(scaled * 1e5) / 1e5).tolist())


def conformal_quantile(values: NDArray[np.float32]) -> float:
    """What the next value does not exceed with a probability of at least `COVERAGE`, if they are exchangeable."""
    rank = math.ceil((len(values) + 1) * COVERAGE)
    return float(np.partition(values, rank - 1)[rank - 1])


def _features(noisy: Tensor, denoised: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Level of the removed noise, its spread, and texture, (B, 1, H, W), of images (B, 3, H, W)."""
    removed = (noisy - denoised).abs()
    mean = _averaged(removed.mean(dim=1, keepdim=True), NOISE_WINDOW)
    # Few and large changes (salt and pepper) have a lower one than many and small changes of the same mean.
    level = _averaged(removed.sqrt().mean(dim=1, keepdim=True), NOISE_WINDOW).square()
    grey = denoised.mean(dim=1, keepdim=True)
    padded = functional.pad(grey, (0, 1, 0, 1), mode="replicate")
    slope = (padded[..., :-1, 1:] - grey).abs() + (padded[..., 1:, :-1] - grey).abs()
    return level, level / (mean + 1e-6), _averaged(slope, TEXTURE_WINDOW)


def _averaged(values: Tensor, side: int) -> Tensor:
    """Means over squares, at the image's edges over the pixels inside."""
    return functional.avg_pool2d(values, side, stride=1, padding=side // 2, count_include_pad=False)


def _position(values: Tensor, points: Sequence[float]) -> Tensor:
    """Where values lie among increasing points, the first of which is at -1, and the last at 1."""
    known = torch.tensor(points, device=values.device)
    after = torch.searchsorted(known, values.contiguous()).clamp(1, len(points) - 1)
    lower, upper = known[after - 1], known[after]
    return 2 * (after - 1 + (values - lower) / (upper - lower)) / (len(points) - 1) - 1


def _samples(generator: nn.Module, config: Config, photo: NDArray[np.uint8], key: tuple[int, int], side: int) -> Tensor:
    """Features and error, (4, pixels), of random pixels of noisy crops."""
    random = np.random.default_rng(derived_seed("calibration", *key))
    trained_on, intensities = sample_noise(config, DRAWS, torch_generator("calibration noises", *key))
    noises = [*trained_on[:-2], WEAK, None]
    intensities[-2:] = [float(random.uniform(WEAK.low, WEAK.high)), 0.0]
    found = []
    for draw, (noise, intensity) in enumerate(zip(noises, intensities, strict=True)):
        part = round(side / max(1, random.uniform(0, LARGEST)))
        top, left = (random.integers(size - part + 1) for size in photo.shape[:2])
        pixels = torch.tensor(photo[top : top + part, left : left + part]).permute(2, 0, 1)[None].float() / 255
        clean = functional.interpolate(pixels, (side, side), mode="bicubic").clamp(0, 1)
        noisy = add_noise(clean, [noise], [intensity], [torch_generator("calibration noise", *key, draw)])
        with torch.inference_mode():
            denoised = generator(noisy).clamp(0, 1)
        error = (denoised - clean).abs().amax(dim=1, keepdim=True)
        chosen = torch.from_numpy(random.choice(side**2, PIXELS, replace=False))
        found.append(torch.cat([*_features(noisy, denoised), error]).flatten(1)[:, chosen])
    return torch.cat(found, dim=1)


def _grouped(features: Sequence[NDArray[np.float32]], errors: NDArray[np.float32]) -> ErrorBounds:
    """A table at the medians of each feature's groups, with the conformal quantiles of the errors."""
    points, groups = [], []
    for values, count in zip(features, GROUPS, strict=True):
        limits = np.quantile(values, np.linspace(0, 1, count + 1)[1:-1])
        # Fewer groups, where many values are the same.
        found, group = np.unique(np.searchsorted(limits, values), return_inverse=True)
        points.append([float(np.median(values[group == one])) for one in range(len(found))])
        groups.append(group)
    sizes = tuple(map(len, points))
    if min(sizes) < 2:
        raise CalibrationError("calibration needs a denoiser that changes noisy photos, and photos that are not plain")
    group = np.ravel_multi_index(groups, sizes)
    order = np.argsort(group, kind="stable")
    parts = np.split(errors[order], np.searchsorted(group[order], np.arange(1, np.prod(sizes))))
    bounds = np.array([conformal_quantile(part) if len(part) >= SMALLEST_GROUP else np.nan for part in parts])
    bounds = bounds.reshape(sizes)
    from scipy.ndimage import distance_transform_edt  # a fifth of a second, which denoising does not need

    nearest = distance_transform_edt(np.isnan(bounds), return_distances=False, return_indices=True)
    levels, spreads, textures = points
    # Where nothing is wrong, as in plain white, a bound of 0 could not be scaled.
    return ErrorBounds(levels, spreads, textures, np.maximum(bounds[tuple(nearest)], 1e-5).tolist())
