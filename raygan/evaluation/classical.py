"""Classical filters from scikit-image and SciPy: the baselines of a network.

Each takes a noisy image and nothing else, like a blind denoiser: filters that need the noise's standard deviation
estimate it from the image (Donoho and Johnstone, 1994).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from skimage import restoration
from torch import Tensor

from raygan.errors import InputError

Image = NDArray[np.float32]
"""(H, W, 3), in [0, 1]."""


class FilterError(InputError):
    """A filter does not exist."""


def median(noisy: Image) -> Image:
    """Median of the 3x3 neighborhood, per channel; the border is mirrored."""
    # From sorted columns (Paeth, 1990), which neighboring windows share: a quarter of the time of SciPy's filter.
    padded = np.pad(noisy, ((1, 1), (1, 1), (0, 0)), mode="symmetric")
    low, middle, high = _sorted(padded[:-2], padded[1:-1], padded[2:])
    _, _, highest_low = _sorted(low[:, :-2], low[:, 1:-1], low[:, 2:])
    _, median_middle, _ = _sorted(middle[:, :-2], middle[:, 1:-1], middle[:, 2:])
    lowest_high, _, _ = _sorted(high[:, :-2], high[:, 1:-1], high[:, 2:])
    return _sorted(highest_low, median_middle, lowest_high)[1]


AT_ONCE = 2**18
"""How many windows are read at once."""


def decision_median(noisy: Image) -> Image:
    """Decision-based median filter (Srinivasan and Ebenezer, 2007), per channel: for salt and pepper alone.

    Only values of exactly 0 and 1 change: to the median of their neighbors that are neither, in the smallest of the
    windows 3x3, 5x5 and 7x7 that has one.
    """
    denoised = noisy.copy()
    extreme = (noisy == 0) | (noisy == 1)
    positions = np.argwhere(extreme)
    for reach in (1, 2, 3):
        padded = np.pad(np.where(extreme, np.nan, noisy), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
        side = 2 * reach + 1
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))
        left = [positions[:0]]
        # All windows of a white image at once would take 49 times its memory.
        for first in range(0, len(positions), AT_ONCE):
            some = positions[first : first + AT_ONCE]
            neighbors = windows[tuple(some.T)].reshape(len(some), side**2)
            found = ~np.isnan(neighbors).all(axis=1)
            denoised[tuple(some[found].T)] = np.nanmedian(neighbors[found], axis=1)
            left.append(some[~found])
        positions = np.concatenate(left)
    return denoised


def bilateral(noisy: Image) -> Image:
    """Bilateral filter (Tomasi and Manduchi, 1998): averages pixels that are near and similar."""
    widths = {"sigma_color": 1.5 * _deviation(noisy), "sigma_spatial": 1.5}
    return np.asarray(restoration.denoise_bilateral(noisy, mode="reflect", channel_axis=-1, **widths))


def nonlocal_means(noisy: Image) -> Image:
    """Non-local means (Buades et al., 2005): averages similar patches."""
    deviation = _deviation(noisy)
    patches = {"patch_size": 5, "patch_distance": 6, "fast_mode": True, "channel_axis": -1}
    return np.asarray(restoration.denoise_nl_means(noisy, h=0.8 * deviation, sigma=deviation, **patches))


def total_variation(noisy: Image) -> Image:
    """Total-variation denoising (Chambolle, 2004)."""
    options = {"weight": _deviation(noisy), "channel_axis": -1}
    return np.asarray(restoration.denoise_tv_chambolle(noisy, **options))  # type: ignore[no-untyped-call]


def wavelet(noisy: Image) -> Image:
    """Wavelet shrinkage by BayesShrink (Chang et al., 2000)."""
    return np.asarray(restoration.denoise_wavelet(noisy, convert2ycbcr=True, rescale_sigma=True, channel_axis=-1))


def bm3d(noisy: Image) -> Image:
    """Color BM3D (Dabov et al., 2007); needs the package `bm3d`, whose license is for non-commercial use."""
    import bm3d as package

    return np.asarray(package.bm3d_rgb(noisy, _deviation(noisy)))


FILTERS: dict[str, Callable[[Image], Image]] = {
    one.__name__: one for one in (median, decision_median, bilateral, nonlocal_means, total_variation, wavelet)
}
"""By name."""
if importlib.util.find_spec("bm3d"):
    FILTERS["bm3d"] = bm3d


AVERAGING = ("nonlocal_means", "bm3d")
"""Filters that assume unbiased noise, for `undo_clipping`: their results are means of noisy values."""


def filters_named(names: Sequence[str]) -> tuple[str, ...]:
    """The names, or those of all filters for "all"; raises `FilterError` for an unknown name."""
    unknown = [name for name in names if name not in (*FILTERS, "all")]
    if bm3d.__name__ in unknown:
        raise FilterError("bm3d needs a package: pip install bm3d (its license is for non-commercial use)")
    if unknown:
        raise FilterError(f"there is no filter {', '.join(unknown)}; there are {', '.join(FILTERS)}")
    return tuple(FILTERS) if "all" in names else tuple(names)


def filtered(name: str, noisy: Tensor) -> Tensor:
    """A filter's result for an image, float32, (1, 3, H, W), in [0, 1]."""
    image = FILTERS[name](noisy[0].permute(1, 2, 0).numpy())
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))[None]


def undo_clipping(averaged: Tensor, deviation: float) -> Tensor:
    """Remove the bias that clipping to [0, 1] gives to means of values with Gaussian noise; same shape, in [0, 1].

    `averaged` estimates m(x) = E[clip(x + n, 0, 1)] with n from N(0, deviation²), which lies above a dark x and below a
    bright one. Returns x, by linear interpolation in a table of m; means outside [m(0), m(1)] become 0 or 1.
    """
    if deviation == 0:
        return averaged
    clean = np.linspace(0, 1, 1025)
    below, above = -clean / deviation, (1 - clean) / deviation
    inside = stats.norm.cdf(above) - stats.norm.cdf(below)
    slope = stats.norm.pdf(below) - stats.norm.pdf(above)
    means = clean * inside + deviation * slope + stats.norm.sf(above)
    found = np.interp(averaged.numpy(), means, clean)
    return torch.from_numpy(found.astype(np.float32))


def _sorted(first: Image, second: Image, third: Image) -> tuple[Image, Image, Image]:
    """The lowest, the middle and the highest of three values, at each pixel."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    return np.minimum(low, third), np.maximum(low, np.minimum(high, third)), np.maximum(high, third)


def _deviation(noisy: Image) -> float:
    """Estimated standard deviation of the noise; never 0, by which filters would divide."""
    estimated = restoration.estimate_sigma(noisy, channel_axis=-1, average_sigmas=True)  # type: ignore[no-untyped-call]
    return max(float(estimated), 1e-3)
