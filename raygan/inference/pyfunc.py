"""A denoiser as an MLflow model: `mlflow.pyfunc.load_model` calls `_load_pyfunc` of the module that a model names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raygan.inference.denoiser import Denoiser


class ImageModel:
    """Denoises arrays of images."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def predict(self, images: NDArray[Any], params: dict[str, Any] | None = None) -> NDArray[Any]:  # noqa: ARG002
        """The denoised images, of the same shape and type.

        `images` is uint8, (H, W, 3) or (B, H, W, 3), or whatever else a `Denoiser` takes, with or without a batch's
        dimension in front. Raises `ImageError` for other arrays.
        """
        return np.stack([self.denoiser(image) for image in images]) if images.ndim == 4 else self.denoiser(images)


def _load_pyfunc(folder: str) -> ImageModel:
    return ImageModel(Denoiser.from_pretrained(folder))
