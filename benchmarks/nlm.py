"""Other packages' non-local means, for images of (H, W, 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means

Pixels = NDArray[np.uint8]


def scikit_image(noisy: Pixels, deviation: float) -> Pixels:
    """scikit-image's, with the noise's standard deviation, of 255."""
    share = deviation / 255
    found = denoise_nl_means(
        noisy / np.float32(255), h=0.8 * share, sigma=share, patch_size=5, patch_distance=6, channel_axis=-1
    )
    return np.rint(255 * found.clip(0, 1)).astype(np.uint8)


def opencv(noisy: Pixels, strength: float) -> Pixels:
    """OpenCV's, of which the strength h is a share of the noise's standard deviation, of 255."""
    import cv2

    # It takes blue first.
    return np.asarray(
        cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(noisy[..., ::-1]), None, strength, strength, 7, 21)
    )[..., ::-1]
