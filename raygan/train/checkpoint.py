"""Checkpoints of a run, and the denoisers that runs leave.

A run's folder holds its newest checkpoints, `epoch-0001/` and on: `denoiser/`, the best epoch so far, for use
(`generator.safetensors`, `config.json`, which says how to build it, `metrics.json`, how good it is), `training.pt`, the
state that resuming needs, `config.json` and `metrics.json` of the epoch itself, and `checksums.json` (SHA-256), written
last: a checkpoint without it is incomplete. Of an ended run only `denoiser/` is kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from raygan.config.kinds import Generator
from raygan.config.run import Config
from raygan.config.section import differing_values, with_values
from raygan.errors import InputError
from raygan.models.architectures import is_model_file, read_network
from raygan.presets import PAPER_V1
from raygan.storage import Folder, reading
from raygan.weights import HERE, NAMES, denoiser_folder

DENOISER_FILES = ("generator.safetensors", "config.json", "metrics.json")
"""The files of a denoiser."""
CHECKPOINT_FILES = {*(f"denoiser/{name}" for name in DENOISER_FILES), "training.pt", "config.json", "metrics.json"}
"""The files of a checkpoint, without their checksums."""
KEPT = 2
"""How many of a run's newest checkpoints are kept, so that one is left if the newest is damaged."""

logger = logging.getLogger(__name__)


class CheckpointError(InputError):
    """A checkpoint is damaged, or belongs to another configuration."""


class DenoiserError(InputError):
    """There is no denoiser in a folder, or it cannot be used."""


@dataclass(frozen=True)
class Best:
    """A run's best epoch so far."""

    weights: dict[str, Tensor]
    """The generator's, on the CPU."""
    metrics: dict[str, Any]
    """The epoch's."""

    @classmethod
    def of(cls, generator: nn.Module, metrics: Mapping[str, Any]) -> Best:
        """An epoch as it is now; later training does not change it."""
        weights = generator.state_dict()
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}
        return cls(copies, dict(metrics))


@dataclass(frozen=True)
class Saved:
    """What resuming takes from a checkpoint."""

    metrics: dict[str, Any]
    """The epoch's."""
    best: Best
    training: dict[str, Any]
    """The state dicts, as they were saved."""

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return int(self.metrics["epoch"])


def save_checkpoint(
    run: Folder, config: Config, metrics: Mapping[str, Any], best: Best, training: Mapping[str, Any]
) -> None:
    """Write a checkpoint of the epoch `metrics["epoch"]` into a run's folder, and remove all but the newest ones.

    `training` holds state dicts.
    """
    state = io.BytesIO()
    torch.save(dict(training), state)
    about = _json(config.to_json())
    files = {
        "denoiser/generator.safetensors": safetensors.torch.save(best.weights),
        "denoiser/config.json": about,
        "denoiser/metrics.json": _json(best.metrics),
        "training.pt": state.getvalue(),
        "config.json": about,
        "metrics.json": _json(metrics),
    }
    folder = run.child(f"epoch-{metrics['epoch']:04d}")
    for name, content in files.items():
        folder.write(name, content)
    folder.write("checksums.json", _json({name: _sha256(content) for name, content in files.items()}))
    found = _checkpoints(run)
    # Those of later epochs are damaged: this start resumed from one before them, or from none.
    kept = [epoch for epoch in found if epoch <= metrics["epoch"]][-KEPT:]
    for epoch in found.keys() - kept:
        found[epoch].clear()


def load_checkpoint(run: Folder, config: Config) -> Saved | None:
    """The newest checkpoint in a run's folder that is complete and undamaged, on the CPU; None if there is none.

    Raises `CheckpointError` if it belongs to another configuration, and `OSError` if a bucket does not answer.
    """
    found = next(_undamaged(run), None)
    if found is None:
        return None
    folder, files = found
    # As JSON: a worker may be unable to import the classes that a search file defines.
    differing = differing_values(json.loads(files["config.json"]), json.loads(_json(config.to_json())))
    # The machines may differ between a run's starts, and what they hold in memory and compute in.
    if "training/precision" in differing:
        logger.warning("checkpoint %s was trained in another precision than %s", folder, config.training.precision)
    may_differ = ("hardware/", "data/cache", "training/precision")
    if differing := [path for path in differing if not path.startswith(may_differ)]:
        raise CheckpointError(
            f"checkpoint {folder} belongs to another configuration, which differs in {', '.join(differing)}; start "
            "under another name"
        )
    weights = safetensors.torch.load(files["denoiser/generator.safetensors"])
    best = Best(weights, json.loads(files["denoiser/metrics.json"]))
    training = torch.load(io.BytesIO(files["training.pt"]), map_location="cpu", weights_only=True)
    return Saved(json.loads(files["metrics.json"]), best, training)


def keep_denoiser(run: Folder) -> None:
    """Reduce an ended run's folder to `denoiser/`, that of its newest undamaged checkpoint, if there is one."""
    if not run.exists("denoiser/metrics.json"):
        _, files = next(_undamaged(run), (run, {}))
        for name in DENOISER_FILES if files else ():
            run.write(f"denoiser/{name}", files[f"denoiser/{name}"])
    if run.exists("denoiser/metrics.json"):
        for folder in _checkpoints(run).values():
            folder.clear()


def keep_newest(run: Folder) -> None:
    """Remove all but the newest whole checkpoint of a run that waits: others would mostly be disk space.

    Workers may have been stopped while they wrote one of a later epoch.
    """
    whole = [folder for folder in _checkpoints(run).values() if folder.exists("checksums.json")]
    for older in whole[:-1]:
        older.clear()


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


def _checkpoints(run: Folder) -> dict[int, Folder]:
    """The folders of a run's checkpoints by epoch, complete or not, the oldest first."""
    names = {name.partition("/")[0] for name in run.files() if re.match(r"epoch-\d+/", name)}
    epochs = {int(name.removeprefix("epoch-")): name for name in names}
    return {epoch: run.child(epochs[epoch]) for epoch in sorted(epochs)}


def _undamaged(run: Folder) -> Iterator[tuple[Folder, dict[str, bytes]]]:
    """The complete and undamaged checkpoints of a run and their files, the newest first.

    Raises `OSError` if a bucket does not answer: nothing is known of its checkpoints then.
    """
    for folder in reversed(_checkpoints(run).values()):
        try:
            checksums = json.loads(folder.read("checksums.json"))
            if set(checksums) != CHECKPOINT_FILES:
                raise ValueError("checksums.json is of other files")
            files = {name: folder.read(name) for name in checksums}
            if damaged := [name for name, content in files.items() if _sha256(content) != checksums[name]]:
                raise ValueError(f"{', '.join(damaged)} does not match its checksum")
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and not run.is_local:
                raise
            logger.warning("cannot use checkpoint %s, trying the one before: %s", folder, error)
        else:
            yield folder, files


def _json(values: Mapping[str, Any]) -> bytes:
    # NaN, of losses that were not computed, is no JSON.
    finite = {name: None if isinstance(one, float) and not math.isfinite(one) else one for name, one in values.items()}
    return (json.dumps(finite, indent=2) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
