"""Classical filters from scikit-image and SciPy: what a network must beat.

Each takes a noisy image and nothing else, as a blind denoiser does: where a filter needs the noise's strength, it is
estimated from the image (Donoho and Johnstone, 1994).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage import restoration
from torch import Tensor

from raygan.errors import InputError


class FilterError(InputError):
    """A filter that is not there."""


Filter = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Denoises an image, (H, W, 3), in [0, 1]."""


def median(noisy: NDArray[np.float32]) -> NDArray[np.float32]:
    """The median of each value's 3x3 neighbourhood in its channel."""
    filtered: NDArray[np.float32] = ndimage.median_filter(noisy, size=(3, 3, 1), mode="reflect")
    return filtered


def bilateral(noisy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tomasi and Manduchi's bilateral filter (1998), which averages what is near and alike."""
    filtered: NDArray[np.float32] = restoration.denoise_bilateral(
        noisy, sigma_color=1.5 * _deviation(noisy), sigma_spatial=1.5, mode="reflect", channel_axis=-1
    )
    return filtered


def nonlocal_means(noisy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Buades' non-local means (2005), which averages patches that are alike."""
    deviation = _deviation(noisy)
    filtered: NDArray[np.float32] = restoration.denoise_nl_means(
        noisy, h=0.8 * deviation, sigma=deviation, patch_size=5, patch_distance=6, fast_mode=True, channel_axis=-1
    )
    return filtered


def total_variation(noisy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Chambolle's total variation (2004): the nearest image with little of it."""
    filtered: NDArray[np.float32] = restoration.denoise_tv_chambolle(  # type: ignore[no-untyped-call]
        noisy, weight=_deviation(noisy), channel_axis=-1
    )
    return filtered


def wavelet(noisy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Wavelet coefficients shrunk by BayesShrink (Chang et al., 2000)."""
    filtered: NDArray[np.float32] = restoration.denoise_wavelet(
        noisy, convert2ycbcr=True, rescale_sigma=True, channel_axis=-1
    )
    return filtered


def bm3d(noisy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dabov's BM3D (2007), in colour; needs the package `bm3d`, whose licence is for non-commercial use."""
    import bm3d as package

    filtered: NDArray[np.float32] = package.bm3d_rgb(noisy, _deviation(noisy))
    return filtered


FILTERS: dict[str, Filter] = {
    "median": median,
    "bilateral": bilateral,
    "nonlocal_means": nonlocal_means,
    "total_variation": total_variation,
    "wavelet": wavelet,
}
if importlib.util.find_spec("bm3d"):
    FILTERS["bm3d"] = bm3d


def filters_named(names: Sequence[str]) -> tuple[str, ...]:
    """The names, or all there are for "all"; raises `FilterError` for one that is not there."""
    unknown = [name for name in names if name not in (*FILTERS, "all")]
    if unknown:
        raise FilterError(f"there is no filter {', '.join(unknown)}; there are {', '.join(FILTERS)}")
    return tuple(FILTERS) if "all" in names else tuple(names)


def filtered(name: str, noisy: Tensor) -> Tensor:
    """A filter's result for an image, float32 (1, 3, H, W), in [0, 1], as it is."""
    image = FILTERS[name](noisy[0].permute(1, 2, 0).numpy())
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))[None]


def _deviation(noisy: NDArray[np.float32]) -> float:
    """The noise's estimated strength; never 0, by which filters would divide."""
    estimated = restoration.estimate_sigma(noisy, channel_axis=-1, average_sigmas=True)  # type: ignore[no-untyped-call]
    return max(float(estimated), 1e-3)
