"""Turns what the user asked for, an earlier search included, into what will run, once, before anything is spent."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from torch import Tensor

from raygan.config.kinds import ContentLoss
from raygan.config.run import Config, DataConfig
from raygan.config.section import ConfigError, flat_values, with_values
from raygan.data.pairs import with_pairs
from raygan.data.photos import StoredPhotos, fingerprint, training_photos
from raygan.data.sources import PhotoFolder, Samples
from raygan.models.architectures import is_model_file, read_network
from raygan.search.algorithms import check_first_points
from raygan.search.experiment import Experiment, TrialSettings
from raygan.search.preflight import check_disk, check_machines, check_photos, wait_for_room
from raygan.search.space import Space, distribution_of, holds, space_to_json
from raygan.study.ledger import StudyError
from raygan.study.reader import StudyFiles
from raygan.study.storage import Folder
from raygan.train.checkpoint import starting_weights
from raygan.train.cluster import photo_memory, resolved_device, share_photos, trials_at_once
from raygan.train.driver import Job
from raygan.weights import NAMES, denoiser_folder

FIRST = 3
"""How many of the earlier study's best points are tried first."""
IRRELEVANT = ("hardware/", "data/cache", "data/evaluate_on", "training/epochs", "training/seed")
"""Prefixes of the paths in which the studies may differ all the same."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmStart:
    """What a search takes over."""

    points: list[dict[str, Any]]
    """The best points that lie in its space, best first."""
    trials: list[FrozenTrial]
    """The earlier trials for Optuna; empty if their scores do not compare."""
    summary: str
    """The same in a sentence."""


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
    except StudyError:
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


def warm_start(settings: TrialSettings, space: Space, config: Config) -> WarmStart:
    """What the earlier search in the folder or prefix `settings.warm_start` found.

    Its best points, by the first objective, are taken over as far as they lie in the space; its trials, with their
    scores at each epoch, if it searched the same space for the same objectives with an otherwise equal configuration.
    Raises `StudyError` if there is no search, or nothing to take over.
    """
    location, objectives = settings.warm_start, settings.objectives
    if location is None:
        return WarmStart([], [], "")
    earlier = StudyFiles(Folder(location))
    if "space" not in earlier.record:
        raise StudyError(f"--warm-start {location} is not a search: give the folder of one")
    known = earlier.optuna_study(objectives[:1])
    trials = sorted(known.trials, key=lambda trial: trial.value or 0.0, reverse=known.direction.name == "MAXIMIZE")
    points = list[dict[str, Any]]()
    for trial in trials:
        lies = all(path in space and holds(distribution_of(space[path]), value) for path, value in trial.params.items())
        # Repeats have the values of their original.
        if lies and trial.params not in points:
            points.append(trial.params)
    points = points[:FIRST]
    if not points:
        raise StudyError(
            f"--warm-start {location} has no successful trial whose values lie in the search space: widen it, or leave "
            "--warm-start out"
        )
    summary = f"Warm start from {location}: its {len(points)} best points first"
    ours, theirs = (_with_absolute_folders(flat_values(one)) for one in (config, earlier.config))
    differing = {
        "the search space": earlier.record["space"] != space_to_json(space),
        "the objectives": earlier.objectives != list(objectives),
        # Their epochs are not those of this study.
        "equal_compute": settings.equal_compute or earlier.record.get("equal_compute", False),
    } | {
        path: ours.get(path) != theirs.get(path)
        for path in ours | theirs
        if path not in space and not path.startswith(IRRELEVANT)
    }
    if any(differing.values()):
        names = ", ".join(name for name, differs in differing.items() if differs)
        return WarmStart(points, [], f"{summary}; its scores are left out, since it differs in {names}")
    epochs = settings.trial_epochs if len(objectives) == 1 else None
    same = [_as_known(trial, epochs) for trial in earlier.optuna_study(objectives).trials]
    return WarmStart(points, same, f"{summary}, and its {len(same)} trials known to the search algorithm")


def _with_absolute_folders(values: dict[str, Any]) -> dict[str, Any]:
    """The values with each folder of photos as an absolute path or address."""
    for path in ("data/photos", "data/evaluate_on", "data/pairs"):
        if (location := values.pop(f"{path}/location", None)) is not None:
            values[path] = Folder(location).location
    return values


def _as_known(trial: FrozenTrial, epochs: int | None) -> FrozenTrial:
    """A trial without its name, with its scores up to `epochs`: complete if it got there, otherwise pruned.

    None: as it ended, as Optuna keeps those of several objectives.
    """
    if epochs is None:
        return create_trial(
            state=trial.state, values=trial.values, params=trial.params, distributions=trial.distributions
        )
    scores = {epoch: score for epoch, score in trial.intermediate_values.items() if epoch <= epochs}
    return create_trial(
        state=TrialState.COMPLETE if epochs in scores else TrialState.PRUNED,
        value=scores.get(epochs),
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=scores,
    )
