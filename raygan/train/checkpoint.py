"""Checkpoints: complete, written under another name and then renamed, verified by checksum when read.

A checkpoint is a folder of `denoiser/`, the best epoch so far, to use (`generator.safetensors`, `config.json`, which
says how to build it, `metrics.json`, how good it is), of `training.pt`, all that resuming needs, `config.json` and
`metrics.json` of the epoch itself, and `checksums.json` (SHA-256).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from raygan.config.run import Config
from raygan.errors import InputError
from raygan.models.generator import build_generator
from raygan.config.section import flat_values
from raygan.study.storage import Folder
from raygan.weights import SHIPPED

DENOISER_FILES = ("generator.safetensors", "config.json", "metrics.json")
"""The files of a denoiser."""


class CheckpointError(RuntimeError):
    """A checkpoint is incomplete or damaged."""


class DenoiserError(InputError):
    """There is no denoiser in a folder."""


@dataclass(frozen=True)
class Best:
    """A run's best epoch so far."""

    weights: dict[str, Tensor]
    """The generator's, on the CPU."""
    metrics: dict[str, float]
    """The epoch's."""

    @classmethod
    def of(cls, generator: nn.Module, metrics: Mapping[str, float]) -> Best:
        """An epoch as it is now; later training does not change it."""
        weights = {
            name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in generator.state_dict().items()
        }
        return cls(weights, dict(metrics))


@dataclass(frozen=True)
class Saved:
    """What resuming takes from a checkpoint."""

    epoch: int
    """Epochs done."""
    best: Best
    training: dict[str, Any]
    """The state dicts, as they were saved."""


def save_checkpoint(
    folder: Path, config: Config, metrics: Mapping[str, float], best: Best, training: Mapping[str, Any]
) -> None:
    """Write a checkpoint to `folder`, which appears only once it is complete; `training` holds state dicts."""
    partial = folder.with_name(folder.name + ".partial")
    (partial / "denoiser").mkdir(parents=True)
    safetensors.torch.save_file(best.weights, partial / "denoiser" / "generator.safetensors")
    for place, numbers in ((partial / "denoiser", best.metrics), (partial, metrics)):
        (place / "config.json").write_text(json.dumps(config.to_json(), indent=2) + "\n")
        (place / "metrics.json").write_text(json.dumps(dict(numbers), indent=2) + "\n")
    torch.save(dict(training), partial / "training.pt")
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    checksums = {path.relative_to(partial).as_posix(): _sha256(path) for path in files}
    (partial / "checksums.json").write_text(json.dumps(checksums, indent=2) + "\n")
    partial.rename(folder)


def verify_checkpoint(folder: Path) -> None:
    """Raise `CheckpointError` unless every file of the checkpoint is there and has its checksum."""
    try:
        checksums = json.loads((folder / "checksums.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is no complete checkpoint: checksums.json cannot be read: {error}") from error
    for name, expected in checksums.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder} lacks {name}")
        if _sha256(path) != expected:
            raise CheckpointError(f"checkpoint {folder} is damaged: {name} does not have its recorded checksum")


def load_checkpoint(folder: Path, config: Config, device: torch.device, varying: Collection[str] = ()) -> Saved:
    """Verify a checkpoint and read it; `varying` are paths at which its configuration may differ from `config`.

    Raises `CheckpointError` where the checkpoint is damaged or belongs to another configuration.
    """
    verify_checkpoint(folder)
    saved, wanted = flat_values(Config.from_json(json.loads((folder / "config.json").read_text()))), flat_values(config)
    # The machines may differ between a run's starts, and what they hold in memory.
    differing = [
        path
        for path in wanted
        if saved[path] != wanted[path] and path not in varying and not path.startswith(("hardware/", "data/cache"))
    ]
    if differing:
        raise CheckpointError(
            f"checkpoint {folder} belongs to another configuration, which differs in {', '.join(differing)}; start "
            "under another name"
        )
    best = Best(
        safetensors.torch.load_file(folder / "denoiser" / "generator.safetensors"),
        json.loads((folder / "denoiser" / "metrics.json").read_text()),
    )
    training = torch.load(folder / "training.pt", map_location=device, weights_only=True)
    return Saved(json.loads((folder / "metrics.json").read_text())["epoch"], best, training)


def load_denoiser(folder: Folder) -> tuple[nn.Module, Config]:
    """The generator in a folder of `DENOISER_FILES`, on the CPU in evaluation mode, and its configuration.

    Raises `DenoiserError` where there is none.
    """
    missing = [name for name in DENOISER_FILES[:2] if not folder.exists(name)]
    if missing:
        raise DenoiserError(
            f"there is no denoiser in {folder} (no {' and no '.join(missing)}): give a folder such as STUDY/best"
        )
    config = Config.from_json(json.loads(folder.read("config.json")))
    generator = build_generator(config.generator)
    generator.load_state_dict(safetensors.torch.load(folder.read("generator.safetensors")))
    return generator.eval(), config


def starting_weights(config: Config) -> dict[str, Tensor] | None:
    """The generator's weights that training starts from, if not from fresh ones (see `TrainingConfig.start_from`).

    Raises `DenoiserError` where there is no denoiser, or it is of another generator.
    """
    start_from = config.training.start_from
    if start_from is None:
        return None
    generator, trained = load_denoiser(Folder(SHIPPED if start_from == "shipped" else start_from))
    ours, theirs = (flat_values(one.generator) for one in (config, trained))
    if differing := [f"generator/{path}" for path in ours if ours[path] != theirs[path]]:
        raise DenoiserError(
            f"training cannot start from {start_from} (training/start_from), whose generator is another: it differs in "
            f"{', '.join(differing)}"
        )
    return generator.state_dict()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
