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
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from raygan.config.kinds import Generator
from raygan.config.run import Config
from raygan.errors import InputError
from raygan.study.storage import Folder
from raygan.weights import denoiser_folder

DENOISER_FILES = ("generator.safetensors", "config.json", "metrics.json")
"""The files of a denoiser."""
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
        weights = {
            name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in generator.state_dict().items()
        }
        return cls(weights, dict(metrics))


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
    for epoch in _epochs(run)[:-KEPT]:
        run.child(f"epoch-{epoch:04d}").clear()


def load_checkpoint(run: Folder, config: Config, device: torch.device) -> Saved | None:
    """The newest checkpoint in a run's folder that is complete and undamaged; None if there is none.

    Raises `CheckpointError` if it belongs to another configuration.
    """
    for epoch in reversed(_epochs(run)):
        folder = run.child(f"epoch-{epoch:04d}")
        try:
            files = _verified(folder)
        except (OSError, ValueError) as error:
            logger.warning("cannot resume from %s, trying the one before: %s", folder, error)
            continue
        _require_same(json.loads(files["config.json"]), config, folder)
        best = Best(
            safetensors.torch.load(files["denoiser/generator.safetensors"]), json.loads(files["denoiser/metrics.json"])
        )
        training = torch.load(io.BytesIO(files["training.pt"]), map_location=device, weights_only=True)
        return Saved(json.loads(files["metrics.json"]), best, training)
    return None


def keep_denoiser(run: Folder) -> None:
    """Reduce an ended run's folder to `denoiser/`, that of its newest undamaged checkpoint, if there is one."""
    folders = [run.child(f"epoch-{epoch:04d}") for epoch in _epochs(run)]
    for folder in reversed(folders):
        if run.exists("denoiser/metrics.json"):
            break
        try:
            files = _verified(folder)
        except (OSError, ValueError):
            continue
        for name in DENOISER_FILES:
            run.write(f"denoiser/{name}", files[f"denoiser/{name}"])
    if run.exists("denoiser/metrics.json"):
        for folder in folders:
            folder.clear()


def load_generator(folder: Folder) -> tuple[nn.Module, Config]:
    """The generator in a folder of `DENOISER_FILES`, on the CPU in evaluation mode, and its configuration.

    Raises `DenoiserError` if there is none, and `ConfigError` if its configuration cannot be read.
    """
    if not folder.exists("config.json"):
        raise DenoiserError(f"there is no denoiser in {folder} (no config.json): give a folder such as STUDY/best")
    config = Config.from_json(json.loads(folder.read("config.json")))
    return load_weights(folder, config.generator), config


def load_weights(folder: Folder, generator: Generator) -> nn.Module:
    """The given generator with the weights in a folder of `DENOISER_FILES`, on the CPU in evaluation mode.

    Raises `DenoiserError` if they are missing or belong to another generator.
    """
    if not folder.exists("generator.safetensors"):
        raise DenoiserError(
            f"there is no denoiser in {folder} (no generator.safetensors): give a folder such as STUDY/best"
        )
    network = generator.build()
    try:
        network.load_state_dict(safetensors.torch.load(folder.read("generator.safetensors")))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise DenoiserError(f"the weights in {folder} are not those of {generator}: {error}") from error
    return network.eval()


def starting_weights(config: Config) -> dict[str, Tensor] | None:
    """The generator's weights that training starts from (`training/start_from`); None: random ones.

    Raises `DenoiserError` if there is no denoiser, or it has another generator.
    """
    start_from = config.training.start_from
    if start_from is None:
        return None
    folder = Folder(denoiser_folder(start_from))
    network, trained = load_generator(folder)
    if trained.generator != config.generator:
        raise DenoiserError(
            f"training cannot start from {start_from} (training/start_from), whose generator differs: "
            f"{trained.generator}, but this configuration has {config.generator}"
        )
    return network.state_dict()


def _epochs(run: Folder) -> list[int]:
    """The epochs of which a folder exists, in order."""
    found = (re.match(r"epoch-(\d+)/", name) for name in run.files())
    return sorted({int(match[1]) for match in found if match})


def _verified(folder: Folder) -> dict[str, bytes]:
    """The files of a checkpoint; raises `OSError` or `ValueError` if it is incomplete or damaged."""
    checksums = json.loads(folder.read("checksums.json"))
    files = {name: folder.read(name) for name in checksums}
    damaged = [name for name, content in files.items() if _sha256(content) != checksums[name]]
    if damaged:
        raise ValueError(f"{', '.join(damaged)} does not match its checksum")
    return files


def _require_same(saved: Mapping[str, Any], config: Config, folder: Folder) -> None:
    theirs, ours = _flat(saved), _flat(config.to_json())
    differing = [
        path
        for path in dict.fromkeys([*ours, *theirs])
        # The machines may differ between a run's starts, and what they hold in memory.
        if theirs.get(path) != ours.get(path) and not path.startswith(("hardware/", "data/cache"))
    ]
    if differing:
        raise CheckpointError(
            f"checkpoint {folder} belongs to another configuration, which differs in {', '.join(differing)}; start "
            "under another name"
        )


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested JSON values by path."""
    if isinstance(values, Mapping):
        inner = ((str(name), value) for name, value in values.items())
    elif isinstance(values, list):
        inner = ((str(index), value) for index, value in enumerate(values))
    else:
        return {path: values}
    return {
        leaf: one for name, value in inner for leaf, one in _flat(value, f"{path}/{name}" if path else name).items()
    }


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(values), indent=2) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
