"""Checkpoints: complete, written under another name and then renamed, verified by checksum when read.

A checkpoint is a folder of `generator.safetensors` (the denoiser), `config.json` (how to build and train it),
`metrics.json` (how good it is), `training.pt` (what resuming needs besides) and `checksums.json` (SHA-256).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from raygan.config import Config
from raygan.models.generator import build_generator
from raygan.storage import Folder

DENOISER_FILES = ("generator.safetensors", "config.json", "metrics.json")
"""The files that using a checkpoint, rather than resuming from it, needs."""


class CheckpointError(RuntimeError):
    """A checkpoint is incomplete or damaged."""


@dataclass
class Progress:
    """How far a run has come."""

    epoch: int = 0
    """Epochs done."""
    best_epoch: int = 0
    best_val_psnr: float = float("-inf")
    """dB; the highest of all epochs done."""


def save_checkpoint(
    folder: Path,
    config: Config,
    metrics: Mapping[str, float],
    progress: Progress,
    generator: nn.Module,
    training: Mapping[str, Any],
) -> None:
    """Write a checkpoint to `folder`, which appears only once it is complete.

    `training` holds the state dicts that resuming needs besides the generator's weights.
    """
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
    safetensors.torch.save_file(weights, partial / "generator.safetensors")
    (partial / "config.json").write_text(json.dumps(config.to_json(), indent=2) + "\n")
    (partial / "metrics.json").write_text(json.dumps(dict(metrics), indent=2) + "\n")
    torch.save({"progress": vars(progress), **training}, partial / "training.pt")
    checksums = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
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


def load_checkpoint(
    folder: Path, config: Config, generator: nn.Module, device: torch.device
) -> tuple[Progress, dict[str, Any]]:
    """Verify a checkpoint, load the generator's weights, and return the progress and `training` as it was saved.

    Raises `CheckpointError` where the checkpoint is damaged or belongs to another configuration.
    """
    verify_checkpoint(folder)
    saved = Config.from_json(json.loads((folder / "config.json").read_text()))
    # Hardware may differ between a run's starts.
    if dataclasses.replace(saved, hardware=config.hardware) != config:
        raise CheckpointError(f"checkpoint {folder} belongs to another configuration; start under another name")
    generator.load_state_dict(safetensors.torch.load_file(folder / "generator.safetensors", device=str(device)))
    training = torch.load(folder / "training.pt", map_location=device, weights_only=True)
    return Progress(**training.pop("progress")), training


def load_denoiser(folder: Folder) -> tuple[nn.Module, Config]:
    """A checkpoint's generator, on the CPU in evaluation mode, and its configuration."""
    config = Config.from_json(json.loads(folder.read("config.json")))
    generator = build_generator(config.generator)
    generator.load_state_dict(safetensors.torch.load(folder.read("generator.safetensors")))
    return generator.eval(), config


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
