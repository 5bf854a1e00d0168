"""The generator's content losses and the adversarial loss."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from raygan.config.run import LossConfig
from raygan.errors import InputError


class WeightsError(InputError):
    """A file of weights is missing, damaged or of another layout."""


class ContentLoss(Protocol):
    """Distance between clean and denoised images, (B, 3, H, W) in [0, 1], as a scalar."""

    def __call__(self, clean: Tensor, denoised: Tensor) -> Tensor:
        """The distance, averaged over the batch."""
        ...


class Vgg19(nn.Module):
    """The first four convolutions of an ImageNet VGG19.

    Takes weights of either convention, and prepares images as those weights expect (see `read_vgg19_weights`).
    """

    LAYERS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in weights.items():
            self.register_buffer(name, tensor)

    def features_by_layer(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each layer's name and its features after the ReLU, of images (B, 3, H, W) in [0, 1].

        (B, 64, H, W) for conv1_1 and conv1_2, (B, 128, H / 2, W / 2) for conv2_1 and conv2_2.
        """
        features = functional.conv2d(images, self.get_buffer("colour_matrix"))
        features = (features - self.get_buffer("mean")) / self.get_buffer("deviation")
        for name in self.LAYERS:
            if name == "conv2_1":
                features = functional.max_pool2d(features, 2)
            weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
            features = torch.relu(functional.conv2d(features, weight, bias, padding=1))
            yield name, features


class Vgg19ContentLoss(Vgg19):
    """Mean squared distance between VGG19 features after conv2_2 and its ReLU (paper, one step)."""

    def __init__(self, weights: dict[str, Tensor], feature_scale: str) -> None:
        super().__init__(weights)
        self.feature_scale = feature_scale

    def forward(self, clean: Tensor, denoised: Tensor) -> Tensor:
        """The content loss, a scalar; no gradient reaches `clean`."""
        with torch.no_grad():
            clean_features = self.features(clean)
        distance = functional.mse_loss(self.features(denoised), clean_features)
        if self.feature_scale == "relative":
            return distance / clean_features.square().mean()
        return 0.006 * distance if self.feature_scale == "source" else distance

    def features(self, images: Tensor) -> Tensor:
        """conv2_2's features, (B, 128, H / 2, W / 2), of images (B, 3, H, W) in [0, 1]."""
        # Layer by layer, so that none is kept longer than the next needs it.
        for _, features in self.features_by_layer(images):
            last = features
        return last.float()


def read_vgg19_weights(path: Path) -> dict[str, Tensor]:
    """The first four convolutions of an ImageNet VGG19 and the image preparation that they expect.

    `path` is a NumPy archive in Keras's convention (keys `conv1_1.weight`, …; images times 255, BGR, minus
    ImageNet's mean) or torchvision's `vgg19-*.pth` (keys `features.0.weight`, …; RGB, mean and deviation).
    Raises `WeightsError` where the file is missing, damaged or of neither layout.
    """
    if not path.is_file():
        raise WeightsError(f"VGG19 weights {str(path)!r} is not a file; give Keras's .npz or torchvision's .pth")
    stored = _stored_tensors(path)
    if path.suffix == ".npz":
        names = {layer: layer for layer in Vgg19.LAYERS}
        preparation = {
            "colour_matrix": 255 * torch.eye(3).flip(0),
            "mean": torch.tensor([103.939, 116.779, 123.68]),
            "deviation": torch.ones(3),
        }
    else:
        names = dict(zip(Vgg19.LAYERS, ("features.0", "features.2", "features.5", "features.7"), strict=True))
        preparation = {
            "colour_matrix": torch.eye(3),
            "mean": torch.tensor([0.485, 0.456, 0.406]),
            "deviation": torch.tensor([0.229, 0.224, 0.225]),
        }
    weights = {
        "colour_matrix": preparation["colour_matrix"].reshape(3, 3, 1, 1),
        "mean": preparation["mean"].reshape(1, 3, 1, 1),
        "deviation": preparation["deviation"].reshape(1, 3, 1, 1),
    }
    for layer, (outputs, inputs) in zip(Vgg19.LAYERS, [(64, 3), (64, 64), (128, 64), (128, 128)], strict=True):
        for part, shape in (("weight", (outputs, inputs, 3, 3)), ("bias", (outputs,))):
            tensor = stored.get(f"{names[layer]}.{part}")
            if tensor is None or tuple(tensor.shape) != shape:
                found = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
                raise WeightsError(f"{path}: {names[layer]}.{part} must have shape {shape}, but is {found}")
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
    return stored


def build_content_loss(config: LossConfig, vgg19_weights: dict[str, Tensor] | None) -> ContentLoss:
    """The configured content loss; `vgg19_weights` comes from `read_vgg19_weights` and serves VGG19 only."""
    if config.content == "mse":
        return _pixel_content_loss
    if vgg19_weights is None:
        raise ValueError("loss/content is vgg19, but no VGG19 weights were read")
    return Vgg19ContentLoss(vgg19_weights, config.feature_scale)


def _pixel_content_loss(clean: Tensor, denoised: Tensor) -> Tensor:
    return functional.mse_loss(denoised, clean)


def pixel_loss(clean: Tensor, denoised: Tensor) -> Tensor:
    """Mean absolute difference of the pixels, as a scalar."""
    return functional.l1_loss(denoised, clean)


def adversarial_loss(scores: Tensor, *, clean: bool) -> Tensor:
    """Binary cross-entropy of a discriminator's logits against "clean" (1) or "denoised" (0), as a scalar."""
    return functional.binary_cross_entropy_with_logits(scores, torch.full_like(scores, float(clean)))
