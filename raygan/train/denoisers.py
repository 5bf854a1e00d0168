"""Loads the denoisers that runs leave, and model files of other projects."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from raygan.config.kinds import Generator
from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.errors import InputError
from raygan.models.architectures import is_model_file, read_network
from raygan.presets import PAPER_V1
from raygan.storage import Folder, reading
from raygan.weights import HERE, NAMES, denoiser_folder

DENOISER_FILES = ("generator.safetensors", "config.json", "metrics.json")
"""The files of a denoiser."""


class DenoiserError(InputError):
    """There is no denoiser in a folder, or it cannot be used."""


def load_generator(folder: Folder) -> tuple[nn.Module, Config]:
    """The generator in a folder of `DENOISER_FILES`, on the CPU in evaluation mode, and its configuration.

    Or that in another project's file, with the paper's configuration otherwise. Raises `DenoiserError` if there is
    none, or version 0.1 wrote it, `ModelFileError`, and `ConfigError` if its configuration cannot be read.
    """
    if _is_file(folder):
        generator, network = read_network(folder.path)
        crop_size = math.lcm(PAPER_V1.data.crop_size, generator.stride)
        return network, with_values(PAPER_V1, {"data/crop_size": crop_size, "generator": generator})
    content = _read(folder, "config.json")
    with reading(folder, "config.json", "restore the denoiser's folder from a copy"):
        plain = json.loads(content)
        if "noise" in plain:
            raise DenoiserError(
                f"RayGAN 0.1 wrote the denoiser in {folder}, with other settings: use it with RayGAN 0.1, or train it "
                "again"
            )
        config = Config.from_json(plain)
    return load_weights(folder, config.generator), config


def load_weights(folder: Folder, generator: Generator) -> nn.Module:
    """The given generator with the weights in a folder of `DENOISER_FILES`, on the CPU in evaluation mode.

    Raises `DenoiserError` if they are missing, damaged, or belong to another generator, and `ModelFileError`.
    """
    if _is_file(folder):
        return read_network(folder.path)[1]
    content = _read(folder, "generator.safetensors")
    try:
        weights = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise DenoiserError(f"the weights in {folder} are damaged: {error}") from error
    # A folder from somebody else may ask for any size. Our own need no check, which takes two seconds of imports.
    if not folder.location.startswith(HERE):
        _require_shapes(folder, generator, weights)
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise DenoiserError(f"the weights in {folder} are NaN or infinite: {', '.join(broken[:5])}")
    network = generator.build()
    network.load_state_dict(weights)
    return network.eval()


def _require_shapes(folder: Folder, generator: Generator, weights: Mapping[str, Tensor]) -> None:
    """Raise `DenoiserError` unless the weights are those of a generator, before it takes memory."""
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in generator.build().state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if differing := [name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name)]:
        raise DenoiserError(f"the weights in {folder} are not those of {generator}: {', '.join(differing[:5])} differ")


def starting_weights(config: Config) -> dict[str, Tensor] | None:
    """The generator's weights that training starts from (`training/start_from`); None: random ones.

    Raises `DenoiserError` if there is no denoiser, or it has another generator.
    """
    start_from = config.training.start_from
    if start_from is None:
        return None
    network, trained = load_generator(Folder(denoiser_folder(start_from)))
    if trained.generator != config.generator:
        raise DenoiserError(
            f"training cannot start from {start_from} (training/start_from), whose generator differs: "
            f"{trained.generator}, but this configuration has {config.generator}"
        )
    return network.state_dict()


def _is_file(folder: Folder) -> bool:
    """Whether it is another project's file instead of a folder."""
    return is_model_file(folder.location) and Path(folder.path).is_file()


def _read(folder: Folder, name: str) -> bytes:
    try:
        return folder.read(name)
    except FileNotFoundError as error:
        known = f"give a folder such as STUDY/best, or one of {', '.join(NAMES)}"
        message = f"there is no denoiser in {folder} (no {name}): {known}"
        if is_model_file(folder.location):
            message = f"there is no file {folder}; or {known}"
        raise DenoiserError(message) from error
