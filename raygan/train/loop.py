"""The training loop of one worker. Nothing here needs Ray."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from raygan.config.run import AdamConfig, Config, TrainingConfig
from raygan.data.crops import CropSource, ValidationCrops, clean_in_batch, pairs_in_batch, to_unit_range
from raygan.errors import InputError
from raygan.models.blocks import normalize_over_workers
from raygan.models.cost import operations_per_pixel
from raygan.noise import add_noise, sample_noise
from raygan.seeds import derived_seed, torch_generator
from raygan.storage import Folder
from raygan.train.checkpoint import Best, CheckpointError, Saved, load_checkpoint, save_checkpoint
from raygan.train.denoisers import starting_weights
from raygan.train.logging import RunLog, before_and_after
from raygan.train.step import METRICS, PIXEL_METRICS, Gan, autocast, pixel_step, train_step
from raygan.train.validation import validate

CHECK_EVERY = 20
"""Steps between checks that the losses are finite: a check makes the CPU wait for the device."""
DECAY_SHARE = 0.2
"""Share of the steps in which the schedule wsd decays."""
BEST = ("val_psnr", "val_ssim", "operations_per_pixel")
"""Metrics of the best epoch so far that every epoch repeats, as `best_…`."""

logger = logging.getLogger(__name__)


class DivergedError(InputError):
    """A loss became NaN or infinite: other learning rates or weights are needed."""


@dataclass(frozen=True)
class Worker:
    """Which worker this is, of how many, and its device."""

    rank: int = 0
    workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, values: Tensor) -> Tensor:
        """The values, added up in place over all workers."""
        if self.workers > 1:
            distributed.all_reduce(values)
        return values

    def distribute(self, network: nn.Module) -> nn.Module:
        """The network, averaging gradients over the workers."""
        if self.workers == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)


@dataclass(frozen=True)
class RunRecord:
    """Where a run keeps its checkpoints and records."""

    folder: Folder
    """The study's folder."""
    run: str
    """The run's name."""
    values: Mapping[str, object] = field(default_factory=dict)
    """What TensorBoard shows as the run's hyperparameters."""

    @property
    def checkpoints(self) -> Folder:
        """The folder of the run's checkpoints."""
        return self.folder.child(f"checkpoints/{self.run}")


@dataclass(frozen=True)
class Epoch:
    """An epoch that was trained, now or by an earlier start of the run."""

    metrics: dict[str, Any]
    """Numbers by name, the same on every worker."""
    restored: bool
    """Whether it was trained by an earlier start."""


def train(
    config: Config,
    crops: CropSource,
    val_crops: ValidationCrops,
    content_weights: dict[str, Tensor],
    *,
    worker: Worker | None = None,
    record: RunRecord | None = None,
) -> Iterator[Epoch]:
    """Train to the configured number of epochs; yields each epoch once its checkpoint is saved.

    `content_weights` come from `config.loss.content.read_weights`. With a `record`, the run resumes from its newest
    checkpoint, after yielding the epochs before. With several workers, torch's default process group must be
    initialized. On one CPU worker the same configuration gives the same result to the last bit, resumed or not.
    Raises `DivergedError` if a loss is not finite, and `CheckpointError`.
    """
    worker = worker or Worker()
    if worker.device.type == "cpu":
        torch.set_num_threads(config.hardware.cpus_per_worker)
    saved = load_checkpoint(record.checkpoints, config) if record is not None else None
    _require_same_epoch(saved, worker)
    trainer = _Trainer(config, crops, val_crops, content_weights, worker, saved)
    # A second copy of all weights, which nobody needs while the run goes on.
    del saved
    for metrics in trainer.history:
        yield Epoch(metrics, restored=True)
    log = None
    if record is not None and worker.rank == 0:
        log = RunLog(record.folder, record.run, record.values, trainer.done)
    with contextlib.closing(log) if log is not None else contextlib.nullcontext():
        for epoch in range(trainer.done + 1, config.training.epochs + 1):
            metrics = trainer.run_epoch(epoch, log)
            if log is not None and record is not None:
                with _recording():
                    log.add_epoch(metrics, before_and_after(trainer.denoiser, val_crops, config, worker.device))
                trainer.save(record.checkpoints, metrics)
            yield Epoch(metrics, restored=False)


class _Trainer:
    """The state of a run on one worker."""

    def __init__(
        self,
        config: Config,
        crops: CropSource,
        val_crops: ValidationCrops,
        content_weights: dict[str, Tensor],
        worker: Worker,
        saved: Saved | None,
    ) -> None:
        self.config, self.crops, self.val_crops, self.worker = config, crops, val_crops, worker
        self.operations = operations_per_pixel(config.generator)
        torch.manual_seed(derived_seed("initial weights", config.training.seed))
        generator = config.generator.build()
        if saved is None and (weights := starting_weights(config)) is not None:
            generator.load_state_dict(weights)
        discriminator = config.discriminator.build(config.data.crop_size)
        for network in (generator, discriminator):
            network.to(worker.device).to(memory_format=torch.channels_last)
            if config.training.batch_statistics == "all":
                normalize_over_workers(network, worker.workers)
        self.gan = Gan(
            generator=worker.distribute(generator),
            discriminator=worker.distribute(discriminator),
            frozen_discriminator=discriminator,
            generator_optimizer=_adam(generator, config.optimizers.generator),
            discriminator_optimizer=_adam(discriminator, config.optimizers.discriminator),
            content_loss=config.loss.content.build(content_weights).to(worker.device),
            config=config,
        )
        decay = config.training.average_decay
        mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(generator, multi_avg_fn=mean, use_buffers=True) if decay else None
        self.denoiser = self.average.module if self.average else generator
        """The network that is validated and kept."""
        self.states: dict[str, Any] = {
            "generator": generator,
            "discriminator": discriminator,
            "generator_optimizer": self.gan.generator_optimizer,
            "discriminator_optimizer": self.gan.discriminator_optimizer,
        }
        if self.average is not None:
            self.states["average"] = self.average
        self.done = 0
        self.best: Best | None = None
        self.history: list[dict[str, Any]] = []
        if saved is not None:
            self.done, self.best, self.history = saved.epoch, saved.best, saved.training["history"]
            for name, owner in self.states.items():
                owner.load_state_dict(saved.training[name])

    def run_epoch(self, epoch: int, log: RunLog | None) -> dict[str, Any]:
        """Train and validate one epoch; returns its metrics."""
        started = time.perf_counter()
        step_metrics: list[dict[str, Tensor]] = []
        broken = self._train(epoch, step_metrics)
        names, values = self._over_workers(step_metrics)
        if log is not None:
            # Of a run that diverged too: the steps that led to it are worth seeing.
            with _recording():
                log.add_steps(epoch, names, values)
        if broken:
            raise DivergedError(f"training diverged in epoch {epoch}, by step {len(step_metrics)}: {', '.join(broken)}")
        trained = time.perf_counter()
        means = dict(zip(names, values.mean(dim=0).tolist(), strict=True))
        count, rank = len(self.val_crops), self.worker.rank
        rows = range(rank, count, self.worker.workers)
        sums = validate(self.denoiser, self.val_crops, self.config, self.worker.device, rows)
        totals = self.worker.sum(torch.stack(list(sums.values()))).tolist()
        validation = {f"val_{name}": total / count for name, total in zip(sums, totals, strict=True)}
        now = time.perf_counter()
        if math.isnan(validation["val_psnr"]):
            raise DivergedError(f"training diverged in epoch {epoch}: val_psnr is nan")
        metrics: dict[str, Any] = {
            "epoch": epoch,
            **means,
            **validation,
            "operations_per_pixel": self.operations,
            "generator_learning_rate": self.gan.generator_optimizer.param_groups[0]["lr"],
            "discriminator_learning_rate": self.gan.discriminator_optimizer.param_groups[0]["lr"],
            "train_seconds": trained - started,
            "val_seconds": now - trained,
            "seconds": now - started,
        }
        measure = self.config.training.best_by or "val_psnr"
        if self.best is None or metrics[measure] > self.best.metrics[measure]:
            self.best = Best.of(self.denoiser, metrics)
        metrics["best_epoch"] = self.best.metrics["epoch"]
        return metrics | {f"best_{name}": self.best.metrics[name] for name in BEST}

    def save(self, checkpoints: Folder, metrics: dict[str, Any]) -> None:
        """Write a checkpoint of the epoch that `metrics` are of."""
        assert self.best is not None
        self.history = [*self.history, metrics]
        training = {name: owner.state_dict() for name, owner in self.states.items()} | {"history": self.history}
        save_checkpoint(checkpoints, self.config, metrics, self.best, training)

    def _train(self, epoch: int, step_metrics: list[dict[str, Tensor]]) -> list[str]:
        """Train one epoch; appends this worker's losses and accuracies, step by step, to `step_metrics`.

        Ends early if one of them, summed over steps and workers, is not finite; returns which, in words.
        """
        training, gan, steps = self.config.training, self.gan, self.crops.steps
        gan.generator.train()
        gan.discriminator.train()
        # Layers that draw random numbers use torch's global generator: tie it to the epoch, as everything else is.
        torch.manual_seed(derived_seed("layers", training.seed, epoch, self.worker.rank))
        alone = training.pixel_epochs is None or epoch <= training.pixel_epochs
        run_step, watched = (pixel_step, PIXEL_METRICS) if alone else (train_step, METRICS)
        last_noisy = deque[Tensor](maxlen=training.precise_bn_batches)
        for step, pixels in enumerate(self.crops.batches(epoch)):
            factor = lr_factor(training, (epoch - 1) * steps + step, training.epochs * steps)
            gan.generator_optimizer.param_groups[0]["lr"] = factor * self.config.optimizers.generator.learning_rate
            gan.discriminator_optimizer.param_groups[0]["lr"] = (
                factor * self.config.optimizers.discriminator.learning_rate
            )
            clean, noisy = self._noisy_batch(epoch, step, pixels)
            last_noisy.append(noisy)
            step_metrics.append(run_step(gan, clean, noisy))
            if self.average is not None:
                self.average.update_parameters(gan.generator)
            if (step + 1) % CHECK_EVERY == 0 or step + 1 == steps:
                names, values = self._over_workers(step_metrics[-CHECK_EVERY:])
                sums = dict(zip(names, values.sum(dim=0).tolist(), strict=True))
                if broken := [f"{name} is {sums[name]}" for name in watched if not math.isfinite(sums[name])]:
                    return broken
        if last_noisy:
            with autocast(self.worker.device, training.precision):
                update_bn(last_noisy, self.denoiser)
        # Each worker has gathered statistics on its own crops.
        for network in dict.fromkeys((self.states["generator"], gan.frozen_discriminator, self.denoiser)):
            for statistic in filter(torch.is_floating_point, network.buffers()):
                statistic.copy_(self.worker.sum(statistic) / self.worker.workers)
        return []

    def _over_workers(self, step_metrics: list[dict[str, Tensor]]) -> tuple[list[str], Tensor]:
        """The metrics' names, and their means over the workers: float64, (steps, metrics), on the CPU."""
        values = torch.stack([torch.stack(list(metrics.values())) for metrics in step_metrics]).double()
        return list(step_metrics[0]), self.worker.sum(values / self.worker.workers).cpu()

    def _noisy_batch(self, epoch: int, step: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """A batch of crops, uint8, as clean and noisy images on the device, in the layout that convolutions prefer."""
        training, device, share = self.config.training, self.worker.device, len(pixels)
        # Of pairs, the noisy photo follows the clean one.
        clean = to_unit_range(pixels[:, :3], device)
        # Drawn for the whole batch, of which this worker has some rows: the number of workers changes no noise.
        rows = slice(self.worker.rank * share, (self.worker.rank + 1) * share)
        key = (training.seed, epoch, step)
        kinds = torch_generator("noise kinds", *key)
        noises, intensities = sample_noise(self.config, training.batch_size, kinds)
        streams = [torch_generator("noise", *key, row, device=device) for row in range(rows.start, rows.stop)]
        has_pairs = pixels.shape[1] > 3
        of_pairs = pairs_in_batch(self.config.data, training.batch_size)[rows] if has_pairs else [False] * share
        stay_clean = clean_in_batch(self.config.clean_share, training, epoch, step)[rows]
        drawn = zip(of_pairs, stay_clean, noises[rows], strict=True)
        wanted = [None if is_pair or is_clean else noise for is_pair, is_clean, noise in drawn]
        noisy = add_noise(clean, wanted, intensities[rows], streams)
        if any(of_pairs):
            noisy[of_pairs] = to_unit_range(pixels[of_pairs, 3:], device)
        layout = torch.channels_last
        return clean.contiguous(memory_format=layout), noisy.contiguous(memory_format=layout)


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Warn of what a record for people cannot take: training goes on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (a recorder may fail in any way)
        logger.warning("cannot record an epoch: %s", error)


def lr_factor(training: TrainingConfig, step: int, steps: int) -> float:
    """Factor of the configured learning rates at a step, from 0, of `steps` in all.

    It depends on nothing else, so that a resumed run equals an uninterrupted one.
    """
    warmed_up = min(1.0, (step + 1) / (training.warm_up_steps + 1))
    match training.lr_schedule:
        case "constant":
            return warmed_up
        case "cosine":
            return warmed_up * (1 + math.cos(math.pi * step / steps)) / 2
        case "wsd":
            # Their decay, which was better than a linear one: 1 - sqrt.
            decayed = max(0.0, step / steps - (1 - DECAY_SHARE)) / DECAY_SHARE
            return warmed_up * (1 - math.sqrt(decayed))


def _adam(network: nn.Module, config: AdamConfig) -> torch.optim.Optimizer:
    betas = (config.beta1, config.beta2)
    # Fused, since torch's default loop over the weights takes three times as long on the CPU.
    return torch.optim.Adam(network.parameters(), config.learning_rate, betas, config.epsilon, fused=True)


def _require_same_epoch(saved: Saved | None, worker: Worker) -> None:
    """Raise `CheckpointError` unless all workers resume from the same epoch."""
    if worker.workers == 1:
        return
    epoch = saved.epoch if saved is not None else 0
    epochs = torch.tensor([epoch, -epoch], device=worker.device)
    distributed.all_reduce(epochs, distributed.ReduceOp.MAX)
    if epochs[0] != -epochs[1]:
        raise CheckpointError(f"workers read checkpoints of different epochs, {-epochs[1]} to {epochs[0]}")
