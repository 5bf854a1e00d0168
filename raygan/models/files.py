"""Networks in other projects' files, read by spandrel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raygan.config.kinds import Generator
from raygan.errors import InputError

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
"""What the names of such files end with."""


class ModelFileError(InputError):
    """A file that holds no network for denoising."""


@dataclass(frozen=True, kw_only=True)
class ModelFile(Generator):
    """A trained network of another project: DRUNet, SCUNet, NAFNet, SwinIR and others that spandrel recognizes.

    Networks that are given the noise's strength get the one that spandrel assumes.
    """

    file: str
    """The file, on a local disk."""

    def build(self) -> nn.Module:
        """The network with the file's weights, for images of any size, one at a time; for inference alone.

        Raises `ModelFileError`.
        """
        try:
            import spandrel
        except ImportError as error:
            raise ModelFileError(f"{self.file} is read by spandrel: pip install 'raygan[spandrel]'") from error
        try:
            # It reads pickles with weights alone.
            model = spandrel.ModelLoader("cpu").load_from_file(self.file)
        except Exception as error:
            reason = str(error) or "it recognizes none"
            raise ModelFileError(
                f"spandrel cannot read a network from {self.file}: {reason}; of a denoiser of RayGAN, give the folder"
            ) from error
        about = f"{self.file} holds {model.architecture.name}"
        if not isinstance(model, spandrel.ImageModelDescriptor) or model.scale != 1:
            raise ModelFileError(f"{about}, which does not map an image to one of the same size")
        if (model.input_channels, model.output_channels) != (3, 3):
            raise ModelFileError(f"{about} for images of {model.input_channels} channels: give one for colour (3)")
        return _ModelFileNetwork(model)


class _ModelFileNetwork(nn.Module):
    """A network that spandrel has read."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.descriptor = descriptor
        # Moved to a device with this module.
        self.model: nn.Module = descriptor.model

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoised images, in [0, 1], of noisy ones of the same shape, (B, 3, H, W)."""
        return torch.cat([self.descriptor(image[None]) for image in noisy])
