"""The training loop of one worker. Nothing here needs Ray."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raygan.config.kinds import LEVELS
from raygan.config.run import AdamConfig, Config
from raygan.data.crops import CropSource, to_unit_range
from raygan.errors import InputError
from raygan.models.blocks import normalize_over_workers
from raygan.models.cost import operations_per_pixel
from raygan.noise import add_noise, sample_noise
from raygan.seeds import derived_seed, torch_generator
from raygan.study.storage import Folder
from raygan.train.checkpoint import Best, CheckpointError, Saved, load_checkpoint, save_checkpoint, starting_weights
from raygan.train.logging import RunLog, before_and_after
from raygan.train.lr_schedule import lr_factor
from raygan.train.step import METRICS, PIXEL_METRICS, Gan, pixel_step, train_step
from raygan.train.validation import validate

CHECK_EVERY = 20
"""Steps between checks that the losses are finite: a check makes the CPU wait for the device."""
BEST = ("val_psnr", "val_ssim", "operations_per_pixel")
"""Metrics of the best epoch so far that every epoch repeats, as `best_…`."""


class DivergedError(InputError):
    """A loss became NaN or infinite: other learning rates or weights are needed."""


@dataclass(frozen=True)
class Worker:
    """Which worker this is, of how many, and its device."""

    rank: int = 0
    workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


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
    val_crops: Tensor,
    content_weights: dict[str, Tensor],
    *,
    worker: Worker | None = None,
    record: RunRecord | None = None,
) -> Iterator[Epoch]:
    """Train to the configured number of epochs; yields each epoch once its checkpoint is saved.

    `val_crops` are uint8, (N, 3, S, S); `content_weights` come from `config.loss.content.read_weights`. With a
    `record`, the run resumes from its newest checkpoint, after yielding the epochs before. With several workers,
    torch's default process group must be initialized. On one CPU worker the same configuration gives the same result to
    the last bit, resumed or not. Raises `DivergedError` if a loss is not finite, and `CheckpointError`.
    """
    worker = worker or Worker()
    if worker.device.type == "cpu":
        torch.set_num_threads(config.hardware.cpus_per_worker)
    saved = load_checkpoint(record.checkpoints, config, worker.device) if record is not None else None
    _require_same_epoch(saved, worker)
    trainer = _Trainer(config, crops, val_crops, content_weights, worker, saved)
    for metrics in trainer.history:
        yield Epoch(metrics, restored=True)
    with contextlib.ExitStack() as stack:
        log = None
        if record is not None and worker.rank == 0:
            log = RunLog(record.folder, record.run, record.values, trainer.done)
            stack.callback(log.close)
        for epoch in range(trainer.done + 1, config.training.epochs + 1):
            metrics = trainer.run_epoch(epoch, log)
            if log is not None and record is not None:
                log.add_epoch(metrics, before_and_after(trainer.denoiser, val_crops, config, worker.device))
                trainer.save(record.checkpoints, metrics)
            yield Epoch(metrics, restored=False)


class _Trainer:
    """The state of a run on one worker."""

    def __init__(
        self,
        config: Config,
        crops: CropSource,
        val_crops: Tensor,
        content_weights: dict[str, Tensor],
        worker: Worker,
        saved: Saved | None,
    ) -> None:
        self.config, self.crops, self.val_crops, self.worker = config, crops, val_crops, worker
        self.operations = operations_per_pixel(config.generator)
        torch.manual_seed(derived_seed("initial weights", config.training.seed))
        generator = config.generator.build().to(worker.device).to(memory_format=torch.channels_last)
        if saved is None and (weights := starting_weights(config)) is not None:
            generator.load_state_dict(weights)
        self.gan = _build_gan(config, generator, content_weights, worker)
        self.average = _moving_average(generator, config.training.average_decay)
        self.denoiser = self.average.module if self.average else generator
        """The network that is validated and kept."""
        self.states: dict[str, Any] = {
            "generator": generator,
            "discriminator": self.gan.frozen_discriminator,
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
        diverged = None
        try:
            self._train(epoch, step_metrics)
        except DivergedError as error:
            # Of all workers, or of none: the steps that led to it are worth seeing.
            diverged = error
        names, values = _over_workers(step_metrics, self.worker)
        if log is not None:
            log.add_steps(epoch, names, values)
        if diverged is not None:
            raise diverged
        trained = time.perf_counter()
        means = dict(zip(names, values.mean(dim=0).tolist(), strict=True))
        validation = self._validation_metrics()
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

    def _train(self, epoch: int, step_metrics: list[dict[str, Tensor]]) -> None:
        """Train one epoch; appends this worker's losses and accuracies, step by step, to `step_metrics`."""
        training, steps = self.config.training, self.crops.steps
        self.gan.generator.train()
        self.gan.discriminator.train()
        # Layers that draw random numbers use torch's global generator: tie it to the epoch, as everything else is.
        torch.manual_seed(derived_seed("layers", training.seed, epoch, self.worker.rank))
        alone = training.pixel_epochs is None or epoch <= training.pixel_epochs
        run_step, watched = (pixel_step, PIXEL_METRICS) if alone else (train_step, METRICS)
        for step, pixels in enumerate(self.crops.batches(epoch)):
            clean, noisy = self._noisy_batch(epoch, step, pixels)
            factor = lr_factor(training, (epoch - 1) * steps + step, training.epochs * steps)
            _set_adam(self.gan.generator_optimizer, self.config.optimizers.generator, factor)
            _set_adam(self.gan.discriminator_optimizer, self.config.optimizers.discriminator, factor)
            step_metrics.append(run_step(self.gan, _channels_last(clean), _channels_last(noisy)))
            if self.average is not None:
                self.average.update_parameters(self.gan.generator)
            if (step + 1) % CHECK_EVERY == 0 or step + 1 == steps:
                names, values = _over_workers(step_metrics[-CHECK_EVERY:], self.worker)
                _require_finite(names, values, watched, f"in epoch {epoch}, by step {step + 1}")
        averaged = [] if self.average is None else [self.average.module]
        _average_moving_statistics((self.gan.generator, self.gan.discriminator, *averaged), self.worker)

    def _noisy_batch(self, epoch: int, step: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """A batch of crops, uint8, as clean and noisy images on the device."""
        training, rank = self.config.training, self.worker.rank
        clean = to_unit_range(pixels, self.worker.device)
        # Drawn for the whole batch, of which this worker has some rows: the number of workers changes no noise.
        rows = slice(rank * len(clean), (rank + 1) * len(clean))
        key = (training.seed, epoch, step)
        noises, intensities = sample_noise(
            self.config.noises, self.config.sampling, training.batch_size, torch_generator("noise kinds", *key)
        )
        streams = [
            torch_generator("noise", *key, row, device=self.worker.device) for row in range(rows.start, rows.stop)
        ]
        return clean, add_noise(clean, noises[rows], intensities[rows], streams)

    def _validation_metrics(self) -> dict[str, float]:
        """Means over all crops of what `validate` adds up, and `val_psnr`, `val_ssim` over all noises and levels."""
        count = len(self.val_crops)
        rows = range(self.worker.rank, count, self.worker.workers)
        sums = validate(self.denoiser, self.val_crops, self.config, self.worker.device, rows)
        totals = torch.stack(list(sums.values()))
        if self.worker.workers > 1:
            distributed.all_reduce(totals)
        means = {f"val_{name}": total / count for name, total in zip(sums, totals.tolist(), strict=True)}
        tasks = [f"{noise.key}_{level}" for noise in self.config.noises for level in LEVELS]
        overall = {
            f"val_{measure}": sum(means[f"val_{measure}_{task}"] for task in tasks) / len(tasks)
            for measure in ("psnr", "ssim")
        }
        return overall | means


def _build_gan(config: Config, generator: nn.Module, content_weights: dict[str, Tensor], worker: Worker) -> Gan:
    discriminator = config.discriminator.build(config.data.crop_size)
    discriminator.to(worker.device).to(memory_format=torch.channels_last)
    if config.training.batch_statistics == "all":
        for network in (generator, discriminator):
            normalize_over_workers(network, worker.workers)
    return Gan(
        generator=_distributed(generator, worker),
        discriminator=_distributed(discriminator, worker),
        frozen_discriminator=discriminator,
        generator_optimizer=_adam(generator, config.optimizers.generator),
        discriminator_optimizer=_adam(discriminator, config.optimizers.discriminator),
        content_loss=config.loss.content.build(content_weights).to(worker.device),
        config=config,
    )


def _adam(network: nn.Module, config: AdamConfig) -> torch.optim.Optimizer:
    betas = (config.beta1, config.beta2)
    # Fused, since torch's default loop over the weights takes three times as long on the CPU.
    return torch.optim.Adam(network.parameters(), config.learning_rate, betas, config.epsilon, fused=True)


def _set_adam(optimizer: torch.optim.Optimizer, config: AdamConfig, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = factor * config.learning_rate


def _moving_average(generator: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential moving average of the generator's weights and moving statistics."""
    if not decay:
        return None
    mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(generator, multi_avg_fn=mean, use_buffers=True)


def _distributed(network: nn.Module, worker: Worker) -> nn.Module:
    """The network, averaging gradients over the workers."""
    if worker.workers == 1:
        return network
    devices = [worker.device] if worker.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)


def _require_same_epoch(saved: Saved | None, worker: Worker) -> None:
    """Raise `CheckpointError` unless all workers resume from the same epoch."""
    if worker.workers == 1:
        return
    epoch = saved.epoch if saved is not None else 0
    epochs = torch.tensor([epoch, -epoch], device=worker.device)
    distributed.all_reduce(epochs, distributed.ReduceOp.MAX)
    if epochs[0] != -epochs[1]:
        raise CheckpointError(f"workers read checkpoints of different epochs, {-epochs[1]} to {epochs[0]}")


def _over_workers(step_metrics: list[dict[str, Tensor]], worker: Worker) -> tuple[list[str], Tensor]:
    """The metrics' names, and their means over the workers: float64, (steps, metrics), on the CPU."""
    means = torch.stack([torch.stack(list(metrics.values())) for metrics in step_metrics]).double() / worker.workers
    if worker.workers > 1:
        distributed.all_reduce(means)
    return list(step_metrics[0]), means.cpu()


def _channels_last(images: Tensor) -> Tensor:
    """The same images in the memory layout that convolutions are fastest in."""
    return images.contiguous(memory_format=torch.channels_last)


def _average_moving_statistics(networks: Iterable[nn.Module], worker: Worker) -> None:
    """Give all workers the mean of the moving statistics, which each has gathered on its own crops."""
    if worker.workers == 1:
        return
    for network in networks:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= worker.workers


def _require_finite(names: list[str], values: Tensor, watched: Iterable[str], when: str) -> None:
    """Raise `DivergedError` unless the watched metrics of some steps are finite; all workers pass the same values."""
    sums = dict(zip(names, values.sum(dim=0).tolist(), strict=True))
    broken = [f"{name} is {sums[name]}" for name in watched if not math.isfinite(sums[name])]
    if broken:
        raise DivergedError(f"training diverged {when}: {', '.join(broken)}")
