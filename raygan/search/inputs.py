"""What a study is given, checked and told apart before anything is spent: photos and weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raygan.config.run import Config, LossConfig
from raygan.data.download import ASSETS, cache_folder, fetch
from raygan.data.photos import TrainingPhotos, find_photos
from raygan.losses import read_vgg19_weights
from raygan.config.section import with_values
from raygan.study.storage import Folder
from raygan.train.driver import Vgg19Weights

logger = logging.getLogger(__name__)


def with_absolute_start(config: Config) -> Config:
    """The configuration, with the whole path of what it starts from: each trial runs in a folder of its own."""
    start_from = config.training.start_from
    if start_from is None or start_from == "shipped":
        return config
    return with_values(config, {"training/start_from": Folder(start_from).location})


def check_sources(sources: list[str]) -> None:
    """Find photos before any work is done: those to evaluate on are needed last."""
    folders = [find_photos(source)[0].location + "/" for source in sources]
    if len(folders) == 2 and (folders[0].startswith(folders[1]) or folders[1].startswith(folders[0])):
        logger.warning("evaluation on %s may see training photos, from %s: its scores would flatter", *folders[::-1])


def content_losses(losses: Iterable[LossConfig]) -> tuple[Vgg19Weights, str]:
    """The VGG19 weights that a study's content losses need, by `loss/vgg19_weights`, and the losses in words."""
    weights: Vgg19Weights = {}
    words = {}
    for loss in losses:
        if loss.content == "mse":
            words["mse"] = "mean squared error of the pixels (loss/content=mse; no VGG19 weights are used)"
        elif loss.vgg19_weights not in weights:
            named = loss.vgg19_weights
            file = fetch(ASSETS["vgg19"], cache_folder()) if named is None else Path(named)
            weights[named] = read_vgg19_weights(file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            words[str(file)] = (
                f"mean squared error of VGG19's conv2_2 features, loss/feature_scale={loss.feature_scale}, "
                f"weights {file} (SHA-256 {digest}…)"
            )
    return weights, "; or ".join(words.values())


def fingerprint(photos: TrainingPhotos) -> dict[str, Any]:
    """What tells one choice of photos from another."""
    names = json.dumps([photos.train.names, photos.validation.names])
    return {
        "train": len(photos.train),
        "validation": len(photos.validation),
        "names_sha256": hashlib.sha256(names.encode()).hexdigest(),
    }
