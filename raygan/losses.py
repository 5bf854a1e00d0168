"""Content losses, the pixel loss and the adversarial loss."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from raygan.config.kinds import ContentLoss
from raygan.data.download import VGG19, cache_folder, fetch
from raygan.errors import InputError

LAYERS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")
"""VGG19's first convolutions."""


class WeightsError(InputError):
    """A file of weights is missing, damaged or of another layout."""


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError(ContentLoss):
    """Mean squared error of the pixels (the paper's first system)."""

    def build(self, weights: dict[str, Tensor]) -> nn.Module:  # noqa: ARG002
        """See `ContentLoss.build`."""
        return nn.MSELoss()

    def describe(self) -> str:
        """See `ContentLoss.describe`."""
        return "mean squared error of the pixels (no VGG19 weights are used)"


@dataclass(frozen=True, kw_only=True)
class Vgg19Features(ContentLoss):
    """Mean squared distance between VGG19 features after conv2_2 and its ReLU (paper, one step)."""

    weights: str | None = None
    """File of VGG19 weights, in Keras's (.npz) or torchvision's (.pth) layout. None: torchvision's, downloaded."""
    scale: Literal["paper", "source", "relative"] = "paper"
    """Unit of the loss. "paper": the mean squared feature distance as it is. "source": times 0.006, as in the code the
    paper took it from. "relative": divided by the mean squared clean feature, so that a weight means the same for
    Keras's weights (features near 100) and torchvision's (near 1)."""

    @property
    def weights_source(self) -> str:
        """See `ContentLoss.weights_source`."""
        return self.weights or "torchvision"

    def file(self) -> Path:
        """The file of weights, downloaded if need be; raises `DownloadError`."""
        return Path(self.weights) if self.weights else fetch(VGG19, cache_folder())

    def read_weights(self) -> dict[str, Tensor]:
        """See `ContentLoss.read_weights`; raises `WeightsError`."""
        return read_vgg19_weights(self.file())

    def build(self, weights: dict[str, Tensor]) -> nn.Module:
        """See `ContentLoss.build`."""
        return Vgg19Distance(weights, self.scale)

    def describe(self) -> str:
        """See `ContentLoss.describe`."""
        digest = hashlib.sha256(self.file().read_bytes()).hexdigest()
        return (
            f"mean squared error of VGG19's conv2_2 features, loss/content/scale={self.scale}, "
            f"weights {self.file().name} (SHA-256 {digest})"
        )


class Vgg19Distance(nn.Module):
    """The loss of `Vgg19Features`."""

    def __init__(self, weights: dict[str, Tensor], scale: str) -> None:
        super().__init__()
        self.scale = scale
        for name, tensor in weights.items():
            self.register_buffer(name, tensor)

    def features(self, images: Tensor) -> Tensor:
        """conv2_2's features after the ReLU, (B, 128, H / 2, W / 2), of images (B, 3, H, W) in [0, 1]."""
        features: Tensor = functional.conv2d(images, self.get_buffer("colour_matrix"))
        features = (features - self.get_buffer("mean")) / self.get_buffer("deviation")
        for name in LAYERS:
            if name == "conv2_1":
                features = functional.max_pool2d(features, 2)
            weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
            features = torch.relu(functional.conv2d(features, weight, bias, padding=1))
        return features.float()

    def forward(self, clean: Tensor, denoised: Tensor) -> Tensor:
        """The content loss, a scalar; no gradient reaches `clean`."""
        with torch.no_grad():
            clean_features: Tensor = self.features(clean)
        distance: Tensor = functional.mse_loss(self.features(denoised), clean_features)
        if self.scale == "relative":
            return distance / clean_features.square().mean()
        return 0.006 * distance if self.scale == "source" else distance


def read_vgg19_weights(path: Path) -> dict[str, Tensor]:
    """The first four convolutions of an ImageNet VGG19 and the image preparation that they expect.

    `path` is a NumPy archive in Keras's convention (keys `conv1_1.weight`, …; images times 255, BGR, minus
    ImageNet's mean) or torchvision's `vgg19-*.pth` (keys `features.0.weight`, …; RGB, mean and deviation).
    Raises `WeightsError` if the file is missing, damaged or of neither layout.
    """
    if not path.is_file():
        raise WeightsError(f"VGG19 weights {str(path)!r} is not a file; give Keras's .npz or torchvision's .pth")
    stored = _stored_tensors(path)
    if path.suffix == ".npz":
        names, colours = LAYERS, 255 * torch.eye(3).flip(0)
        mean, deviation = [103.939, 116.779, 123.68], [1.0, 1.0, 1.0]
    else:
        names, colours = ("features.0", "features.2", "features.5", "features.7"), torch.eye(3)
        mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    shape = (1, 3, 1, 1)
    weights = {"mean": torch.tensor(mean).reshape(shape), "deviation": torch.tensor(deviation).reshape(shape)}
    weights["colour_matrix"] = colours.reshape(3, 3, 1, 1)
    channels = (3, 64, 64, 128, 128)
    for layer, name, inputs, outputs in zip(LAYERS, names, channels[:-1], channels[1:], strict=True):
        for part, expected in (("weight", (outputs, inputs, 3, 3)), ("bias", (outputs,))):
            tensor = stored.get(f"{name}.{part}")
            if tensor is None or tuple(tensor.shape) != expected:
                found = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
                raise WeightsError(f"{path}: {name}.{part} must have shape {expected}, but is {found}")
            weights[f"{layer}_{part}"] = tensor.float().contiguous()
    return weights


def _stored_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".npz":
            with np.load(path) as archive:
                return {name: torch.from_numpy(archive[name]) for name in archive.files}
        stored: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise WeightsError(f"VGG19 weights {path} cannot be read: {error}") from error
    if not isinstance(stored, dict):
        raise WeightsError(f"VGG19 weights {path} must be a dictionary of tensors, but hold a {type(stored).__name__}")
    return stored


def pixel_loss(clean: Tensor, denoised: Tensor) -> Tensor:
    """Mean absolute error of the pixels, a scalar."""
    return functional.l1_loss(denoised, clean)


def adversarial_loss(scores: Tensor, *, clean: bool) -> Tensor:
    """Binary cross-entropy of a discriminator's logits against "clean" (1) or "denoised" (0), a scalar."""
    return functional.binary_cross_entropy_with_logits(scores, torch.full_like(scores, float(clean)))
