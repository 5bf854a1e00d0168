"""Networks of other projects, built by spandrel: NAFNet and SCUNet with settings of their own, and those in files."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from raygan.config.kinds import Generator
from raygan.config.section import Count, require
from raygan.errors import InputError

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
"""What the names of files with networks end with."""


class ModelFileError(InputError):
    """A file that holds no network for denoising, or a network that cannot be built."""


@dataclass(frozen=True, kw_only=True)
class NAFNet(Generator):
    """NAFNet (Chen et al., 2022): a U-Net without activation functions; the default settings are those for SIDD.

    Its channel attention averages over the whole input, so that tiles differ slightly from the whole image.
    """

    width: Count = 32
    """Channels at full resolution; each halving of the resolution doubles them."""
    middle_blocks: Count = 12
    """Blocks at the lowest resolution."""
    encoder_blocks: tuple[int, ...] = (2, 2, 4, 8)
    """Blocks of the encoder at each resolution, from the full one down."""
    decoder_blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of the decoder at each resolution, from the lowest one up."""

    def _check(self) -> None:
        encoder, decoder = self.encoder_blocks, self.decoder_blocks
        rule = "as many encoder_blocks as decoder_blocks, 1 to 6"
        require(rule, len(encoder) == len(decoder) in range(1, 7), encoder_blocks=encoder, decoder_blocks=decoder)
        require("blocks >= 1", min(*encoder, *decoder) >= 1, encoder_blocks=encoder, decoder_blocks=decoder)

    @property
    def stride(self) -> int:
        """See `Generator.stride`."""
        return 1 << len(self.encoder_blocks)

    def build(self) -> nn.Module:
        """See `Generator.build`. Raises `ModelFileError` without spandrel."""
        settings = {
            "width": self.width,
            "middle_blk_num": self.middle_blocks,
            "enc_blk_nums": list(self.encoder_blocks),
            "dec_blk_nums": list(self.decoder_blocks),
        }
        return _built("NAFNet.NAFNet", settings)


@dataclass(frozen=True, kw_only=True)
class SCUNet(Generator):
    """SCUNet (Zhang et al., 2023): a U-Net of residual convolutions beside Swin transformer blocks.

    Its windows see far, so that tiles differ slightly from the whole image.
    """

    width: Annotated[int, (">=", 64), ("<=", 1024)] = 64
    """Channels at full resolution, a multiple of 64; each halving of the resolution doubles them."""
    blocks: Count = 4
    """Blocks at each resolution, in the encoder and again in the decoder."""

    def _check(self) -> None:
        require("width a multiple of 64", self.width % 64 == 0, width=self.width)

    @property
    def stride(self) -> int:
        """See `Generator.stride`: windows of 8 x 8 pixels at an eighth of the resolution."""
        return 64

    def build(self) -> nn.Module:
        """See `Generator.build`. Raises `ModelFileError` without spandrel."""
        return _built("SCUNet.SCUNet", {"dim": self.width, "config": [self.blocks] * 7})


@dataclass(frozen=True, kw_only=True)
class SpandrelNetwork(Generator):
    """Any other network that spandrel recognizes, such as DRUNet, with the settings found in a file.

    Networks that are given the noise's strength get the one that spandrel assumes.
    """

    architecture: str
    """Name of the network in `spandrel.architectures`, such as DRUNet.DRUNet."""
    settings: str
    """Its arguments, as JSON."""
    multiple_of: Count = 1
    """What the height and width of its input must be multiples of."""

    def _check(self) -> None:
        rule = "architecture of the form PACKAGE.CLASS"
        require(rule, bool(re.fullmatch(r"\w+\.\w+", self.architecture)), architecture=self.architecture)

    @property
    def stride(self) -> int:
        """See `Generator.stride`."""
        return self.multiple_of

    def build(self) -> nn.Module:
        """See `Generator.build`. Raises `ModelFileError` without spandrel."""
        network = _built(self.architecture, json.loads(self.settings))
        # Detected again, since spandrel has the way to call a network only together with its weights.
        return _Called(_on_default_device(lambda: _spandrel().MAIN_REGISTRY.load(network.state_dict())))


class _Called(nn.Module):
    """A network that spandrel has read, called as spandrel calls it, with gradients and without clamping."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.model: nn.Module = descriptor.model.requires_grad_()
        # Calling the descriptor itself switches gradients off.
        self.call: Callable[[nn.Module, Tensor], Tensor] = descriptor._call_fn

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoised images, about in [0, 1], of noisy ones of the same shape, (B, 3, H, W)."""
        return torch.cat([self.call(self.model, image[None]) for image in noisy])


def is_model_file(location: str) -> bool:
    """Whether a location's name is that of a file with a network, not of a denoiser's folder."""
    return location.lower().endswith(SUFFIXES)


def read_network(file: str) -> tuple[Generator, nn.Module]:
    """The network in another project's file, with its weights, in evaluation mode, and the generator that builds it.

    Raises `ModelFileError`.
    """
    spandrel = _spandrel()
    try:
        # It reads pickles with weights alone.
        model = spandrel.ModelLoader("cpu").load_from_file(file)
    except Exception as error:
        reason = str(error) or "it recognizes none"
        raise ModelFileError(
            f"spandrel cannot read a network from {file}: {reason}; of a denoiser of RayGAN, give the folder"
        ) from error
    about = f"{file} holds {model.architecture.name}"
    if not isinstance(model, spandrel.ImageModelDescriptor) or model.scale != 1 or model.size_requirements.square:
        raise ModelFileError(f"{about}, which does not map an image of any shape to one of the same size")
    if (model.input_channels, model.output_channels) != (3, 3):
        raise ModelFileError(f"{about} for images of {model.input_channels} channels: give one for colour (3)")
    generator = _generator_of(model)
    network = generator.build()
    inner = network.model if isinstance(network, _Called) else network
    inner.load_state_dict(model.model.state_dict())
    return generator, network.eval()


def _generator_of(model: Any) -> Generator:
    """The generator that builds a network that spandrel has read."""
    settings, sizes = model.model.hyperparameters, model.size_requirements
    name = f"{type(model.architecture).__module__.rpartition('.')[2]}.{type(model.model).__name__}"
    if name == "NAFNet.NAFNet":
        return NAFNet(
            width=settings["width"],
            middle_blocks=settings["middle_blk_num"],
            encoder_blocks=tuple(settings["enc_blk_nums"]),
            decoder_blocks=tuple(settings["dec_blk_nums"]),
        )
    if name == "SCUNet.SCUNet" and len(set(settings["config"])) == 1:
        return SCUNet(width=settings["dim"], blocks=settings["config"][0])
    multiple = math.ceil(max(1, sizes.minimum) / sizes.multiple_of) * sizes.multiple_of
    return SpandrelNetwork(architecture=name, settings=json.dumps(settings), multiple_of=multiple)


def _built(architecture: str, settings: dict[str, Any]) -> nn.Module:
    """A network of spandrel's, by its name there, with initial weights."""
    _spandrel()
    package, _, name = architecture.partition(".")
    try:
        network = getattr(importlib.import_module(f"spandrel.architectures.{package}"), name)
        # The name may come from a file of somebody else.
        if not (isinstance(network, type) and issubclass(network, nn.Module)):
            raise TypeError("it is no network")
        built: nn.Module = _on_default_device(lambda: network(**settings))
    except (ImportError, AttributeError, TypeError) as error:
        raise ModelFileError(
            f"the installed spandrel cannot build {architecture} with {settings}: {error}; install the version that "
            "it was trained with"
        ) from error
    return built


def _on_default_device(build: Callable[[], Any]) -> Any:
    """What a function builds, also where the default device is meta and the function reads values of tensors."""
    try:
        return build()
    except RuntimeError:
        if (device := torch.get_default_device()).type != "meta":
            raise
        with torch.device("cpu"):
            built = build()
        if isinstance(built, nn.Module):
            return built.to(device)
        built.model.to(device)
        return built


def _spandrel() -> Any:
    try:
        return importlib.import_module("spandrel")
    except ImportError as error:
        raise ModelFileError(
            "networks of other projects are built by spandrel: pip install 'raygan[spandrel]'"
        ) from error
