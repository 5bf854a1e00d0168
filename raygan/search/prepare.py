"""Turns what the user asked for into what will run, once, before anything is spent."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor

from raygan.config.kinds import ContentLoss
from raygan.config.run import Config, DataConfig
from raygan.config.section import ConfigError, flat_values, with_values
from raygan.data.pairs import with_pairs
from raygan.data.photos import StoredPhotos, fingerprint, training_photos
from raygan.data.sources import PhotoFolder, Samples
from raygan.errors import InputError
from raygan.models.architectures import is_model_file, read_network
from raygan.search.experiment import Experiment
from raygan.search.limits import check_first_points
from raygan.search.preflight import check_disk, check_machines, check_photos, wait_for_room
from raygan.search.space import distribution_of
from raygan.search.warm_start import WarmStart, warm_start
from raygan.storage import Folder
from raygan.train.cluster import photo_memory, resolved_device, share_photos, trials_at_once
from raygan.train.denoisers import starting_weights
from raygan.train.driver import Job
from raygan.weights import NAMES, denoiser_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What an experiment needs besides photos and a cluster."""

    content_weights: dict[str, dict[str, Tensor]]
    """Pretrained weights by `ContentLoss.weights_source`."""
    content_loss: str
    """The content losses in words."""
    starting_weights: dict[str, str]
    """SHA-256 of the weights that training starts from, by the name of the configuration; empty: random ones."""
    known: WarmStart


@dataclass(frozen=True)
class Prepared:
    """What will run."""

    config: Config
    """The experiment's, with device, cache, best epoch's metric and paths resolved."""
    job: Job
    photos: dict[str, Any]
    """What distinguishes one choice of photos from another."""
    evaluation_photos: dict[str, Any]
    """The same of those to evaluate on."""
    concurrent: int
    """Trials at once."""

    @property
    def resolved(self) -> dict[str, Any]:
        """What was resolved, by configuration path, for the records."""
        values = flat_values(self.config)
        return {
            path: values[path] for path in ("hardware/device", "training/precision", "data/cache", "training/best_by")
        }


def with_starting_network(experiment: Experiment) -> Experiment:
    """The experiment with the network of another project's file as generator, if its training starts from one.

    Raises `ModelFileError`, and `ConfigError` if trials with that network are not valid.
    """
    start = experiment.config.training.start_from
    if start is None or not is_model_file(start):
        return experiment
    config = with_values(experiment.config, {"generator": read_network(start)[0]})
    starting = dataclasses.replace(experiment, config=config)
    starting.check()
    return starting


def read_inputs(experiment: Experiment, *, resumed: bool = False) -> Inputs:
    """Read what the experiment needs, and check it; needs no Ray.

    Raises the error of whichever input cannot be used. A study that is `resumed` has taken over what its warm start
    gave, whose folder need not be there any more.
    """
    check_first_points(experiment)
    configs = list(experiment.configs().values())
    digests = _digests_of_starting_weights(experiment)
    for config in configs:
        for source in (config.data.photos, config.data.evaluate_on):
            if isinstance(source, PhotoFolder):
                source.find()
        if config.data.pairs is not None:
            config.data.pairs.find()
    contents = dict.fromkeys(content for config in configs for content in _contents(experiment, config))
    sources = {content.weights_source: content for content in contents}
    weights = {source: content.read_weights() for source, content in sources.items() if source is not None}
    words = "; or ".join(dict.fromkeys(content.describe() for content in contents))
    try:
        known = warm_start(experiment.settings, experiment.sampled_space, experiment.config)
    except (InputError, OSError):
        if not resumed:
            raise
        known = WarmStart([], [], "")
    return Inputs(weights, words, digests, known)


def _digests_of_starting_weights(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of the weights that training starts from, by arm; of a search, by ""."""
    digests = {}
    for name, config in experiment.configs().items():
        folder = config.training.start_from
        if folder != experiment.config.training.start_from and _is_relative(folder):
            # Each trial runs in a folder of its own.
            raise ConfigError(f"arm {name}: training/start_from={folder} must be an absolute path")
        if (start := starting_weights(config)) is not None:
            # A search's own name is its study's, which may be resumed under another.
            digests["" if experiment.has_winner else name] = hashlib.sha256(safetensors.torch.save(start)).hexdigest()
    return digests


def prepare(experiment: Experiment, inputs: Inputs, folder: Folder, wait: float) -> Prepared:
    """Resolve the configuration, and read the photos into the running cluster.

    `wait` is how many seconds an autoscaler has to make room for one trial. Raises the error of whichever check fails.
    """
    settings = experiment.settings
    config = resolved(experiment.config, settings.objectives[0])
    concurrent = min(wait_for_room(config, experiment.concurrent, wait), max(1, settings.trials))
    check_machines(folder)
    # These may be downloaded, gigabytes perhaps: not for a search that does not fit.
    _check_sources(config.data)
    # Arms may differ in it.
    crop_size = max(one.data.crop_size for one in experiment.configs().values())
    readable = dataclasses.replace(config.data, crop_size=crop_size)
    photos = with_pairs(training_photos(readable, photo_memory()), readable)
    check_photos(photos)
    streamed = isinstance(photos.train, StoredPhotos)
    config = with_values(config, {"data/cache": "stream" if streamed else "memory"})
    if streamed and (fit := trials_at_once(config)) < concurrent:
        # More machines may be coming, and trials of one worker wait for them without holding anything.
        concurrent = fit if experiment.concurrent is None or config.hardware.workers > 1 else concurrent
    print(
        f"Photos: {len(photos.train)} to train, {len(photos.validation)} to validate, from {config.data.photos.key}, "
        f"{'streamed' if streamed else 'in memory'}; evaluation on {config.data.evaluate_on.key}"
    )
    if photos.validation_pairs is not None and config.data.pairs is not None:
        train = 0 if photos.train_pairs is None else len(photos.train_pairs)
        counts = f"{train} to train, {len(photos.validation_pairs)} to validate"
        print(f"Pairs: {counts}, from {config.data.pairs.key}; val_psnr and val_ssim are those of the pairs")
    check_disk(folder, config, settings, concurrent)
    identity = {"train": len(photos.train), "validation": len(photos.validation), "sha256": photos.sha256}
    job = Job(folder, share_photos(photos), inputs.content_weights)
    return Prepared(config, job, identity, fingerprint(*config.data.evaluate_on.find()), concurrent)


def resolved(config: Config, objective: str) -> Config:
    """The configuration with device, best epoch's metric and paths settled, for trials with that first objective."""
    training = config.training
    values: dict[str, object] = {}
    if training.best_by is None:
        values["training/best_by"] = objective if objective in ("val_psnr", "val_ssim") else "val_psnr"
    if training.start_from is not None and training.start_from not in NAMES:
        # Each trial runs in a folder of its own.
        values["training/start_from"] = Folder(denoiser_folder(str(training.start_from))).location
    return resolved_device(with_values(config, values))


def _is_relative(folder: str | None) -> bool:
    """Whether a denoiser's folder is given by a relative path."""
    return folder is not None and folder not in NAMES and Path(folder).exists() and not Path(folder).is_absolute()


def _contents(experiment: Experiment, config: Config) -> list[ContentLoss]:
    """The content losses that trials may have."""
    searched = experiment.sampled_space.get("loss/content")
    distribution = distribution_of(searched) if searched is not None else None
    if not isinstance(distribution, CategoricalDistribution):
        return [config.loss.content]
    return [with_values(config, {"loss/content": choice}).loss.content for choice in distribution.choices]


def _check_sources(data: DataConfig) -> None:
    """Find photos before any work is done: those to evaluate on are needed last."""
    photos, evaluate_on = data.photos.find()[0], data.evaluate_on.find()[0]
    # Samples train on generated images.
    if not isinstance(data.photos, Samples):
        if not isinstance(data.evaluate_on, Samples) and _overlap(photos, evaluate_on):
            logger.warning(
                "evaluation on %s may see training photos, from %s: its scores would flatter", evaluate_on, photos
            )
        if data.pairs is not None and _overlap(photos, pairs := data.pairs.find()[0]):
            logger.warning("photos from %s may be held-out pairs, from %s: validation would flatter", photos, pairs)


def _overlap(one: Folder, other: Folder) -> bool:
    prefixes = [f"{folder.location}/" for folder in (one, other)]
    return prefixes[0].startswith(prefixes[1]) or prefixes[1].startswith(prefixes[0])
