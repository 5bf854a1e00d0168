"""Checkpoints of a run.

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
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from raygan.config.run import Config
from raygan.config.section import differing_values
from raygan.errors import InputError
from raygan.storage import Folder
from raygan.train.denoisers import DENOISER_FILES

CHECKPOINT_FILES = {*(f"denoiser/{name}" for name in DENOISER_FILES), "training.pt", "config.json", "metrics.json"}
"""The files of a checkpoint, without their checksums."""
KEPT = 2
"""How many of a run's newest checkpoints are kept, so that one is left if the newest is damaged."""

logger = logging.getLogger(__name__)


class CheckpointError(InputError):
    """A checkpoint is damaged, or belongs to another configuration."""


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
