"""The loop that each training worker runs. Nothing here needs Ray: who calls it says where reports go."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raygan.config.run import AdamConfig, Config
from raygan.data.crops import CropSource, to_unit_range
from raygan.noise.noise import LEVELS, add_noise, sample_noise
from raygan.errors import InputError
from raygan.losses import build_content_loss
from raygan.models.blocks import normalise_over_workers
from raygan.models.discriminator import build_discriminator
from raygan.models.generator import build_generator
from raygan.seeds import derived_seed, torch_generator
from raygan.study.storage import Folder
from raygan.train.checkpoint import Best, load_checkpoint, save_checkpoint, starting_weights
from raygan.train.lr_schedule import lr_factor
from raygan.train.pictures import before_and_after, first_crop_png
from raygan.train.step import METRICS, PIXEL_METRICS, Players, pixel_step, train_step
from raygan.train.step_log import StepLog
from raygan.train.tensorboard import TensorBoardLog
from raygan.train.validation import validate

CHECK_EVERY = 20
"""Steps between looks at whether the losses are still finite: a look makes the CPU wait for the device."""


class DivergedError(InputError):
    """A loss became NaN or infinite: other learning rates or weights are needed."""


class Report(Protocol):
    """Takes an epoch's metrics, the same on every worker, and rank 0's checkpoint folder, which it must copy."""

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Called once an epoch by every worker."""
        ...


class Resumable(Protocol):
    """What has a state to save: a network or an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take over a saved state."""
        ...


@dataclass(frozen=True)
class Place:
    """Which worker this is, of how many, and what it computes on."""

    rank: int = 0
    workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class RunLog:
    """Where a run's own records go: its TensorBoard events, and its steps."""

    run: str
    """The run's name."""
    folder: str
    """The study's folder."""
    values: Mapping[str, object]
    """What TensorBoard shows as the run's hyperparameters."""


def train(
    config: Config,
    crops: CropSource,
    val_crops: Tensor,
    vgg19_weights: dict[str, Tensor] | None,
    report: Report,
    *,
    place: Place | None = None,
    resume_from: Path | None = None,
    varying: Collection[str] = (),
    run_log: RunLog | None = None,
) -> None:
    """Train to the configured number of epochs, reporting after each, from a checkpoint or from the start.

    `val_crops` are uint8, (N, 3, S, S); `vgg19_weights` come from `raygan.losses.read_vgg19_weights`. With
    several workers torch's default process group must be initialised. `varying` are the paths whose values may differ
    from the checkpoint's, as population-based training changes them on the way. On one CPU worker the same
    configuration gives the same result to the last bit, resumed or not. Raises `DivergedError` when a loss is not
    finite and `CheckpointError` when `resume_from` cannot serve.
    """
    place = place or Place()
    if place.device.type == "cpu":
        torch.set_num_threads(config.hardware.cpus_per_worker)
    torch.manual_seed(derived_seed("initial weights", config.training.seed))
    generator = build_generator(config.generator).to(place.device).to(memory_format=torch.channels_last)
    if resume_from is None and (weights := starting_weights(config)) is not None:
        generator.load_state_dict(weights)
    players = _build_players(config, generator, vgg19_weights, place)
    average = _moving_average(generator, config.training.average_decay)
    denoiser = average.module if average else generator
    states: dict[str, Resumable] = {
        "generator": generator,
        "discriminator": players.frozen_discriminator,
        "generator_optimizer": players.generator_optimizer,
        "discriminator_optimizer": players.discriminator_optimizer,
    }
    if average is not None:
        states["average"] = average
    done, best = 0, None
    if resume_from is not None:
        saved = load_checkpoint(resume_from, config, place.device, varying)
        done, best = saved.epoch, saved.best
        for name, owner in states.items():
            owner.load_state_dict(saved.training[name])
    with contextlib.ExitStack() as logs:
        board = steps = None
        if run_log is not None and place.rank == 0:
            study = Folder(run_log.folder)
            board = TensorBoardLog(study.child(f"tensorboard/{run_log.run}"), run_log.values, done + 1)
            logs.callback(board.close)
            steps = StepLog(study, run_log.run, done)
        for epoch in range(done + 1, config.training.epochs + 1):
            started = time.perf_counter()
            step_metrics: list[dict[str, Tensor]] = []
            try:
                _train_epoch(config, players, average, crops, epoch, place, step_metrics)
            except DivergedError:
                # The steps that led to it are worth seeing. All workers come here, or none.
                _log_steps(steps, epoch, *_over_workers(step_metrics, place))
                raise
            names, values = _over_workers(step_metrics, place)
            _log_steps(steps, epoch, names, values)
            metrics = dict(zip(names, values.mean(dim=0).tolist(), strict=True))
            trained = time.perf_counter()
            metrics |= _validation_metrics(config, denoiser, val_crops, place)
            now = time.perf_counter()
            if math.isnan(metrics["val_psnr"]):
                raise DivergedError(f"training diverged in epoch {epoch}: val_psnr is {metrics['val_psnr']}")
            metrics = {
                "epoch": epoch,
                **metrics,
                "generator_learning_rate": players.generator_optimizer.param_groups[0]["lr"],
                "discriminator_learning_rate": players.discriminator_optimizer.param_groups[0]["lr"],
                "train_seconds": trained - started,
                "val_seconds": now - trained,
                "seconds": now - started,
            }
            measure = config.training.best_by
            if best is None or metrics[measure] > best.metrics[measure]:
                best = Best.of(denoiser, metrics)
            metrics["best_epoch"] = best.metrics["epoch"]
            metrics |= {f"best_{name}": best.metrics[name] for name in ("val_psnr", "val_ssim", "val_milliseconds")}
            if board is not None:
                board.scalars(metrics, epoch)
                pictures = before_and_after(denoiser, val_crops, config, place.device)
                board.images(pictures, epoch)
                board.flush()
                if run_log is not None and best.metrics["epoch"] == epoch:
                    png = first_crop_png(pictures, config.data.crop_size)
                    Folder(run_log.folder).write(f"pictures/{run_log.run}.png", png)
            if place.rank == 0:
                with tempfile.TemporaryDirectory() as scratch:
                    folder = Path(scratch) / "checkpoint"
                    training = {name: owner.state_dict() for name, owner in states.items()}
                    save_checkpoint(folder, config, metrics, best, training)
                    report(metrics, folder)
            else:
                report(metrics, None)


def _build_players(
    config: Config, generator: nn.Module, vgg19_weights: dict[str, Tensor] | None, place: Place
) -> Players:
    discriminator = build_discriminator(config.discriminator, config.data.crop_size)
    discriminator.to(place.device).to(memory_format=torch.channels_last)
    content_loss = build_content_loss(config.loss, vgg19_weights)
    if isinstance(content_loss, nn.Module):
        content_loss.to(place.device)
    if config.training.batch_statistics == "all":
        for network in (generator, discriminator):
            normalise_over_workers(network, place.workers)
    return Players(
        generator=_distributed(generator, place),
        discriminator=_distributed(discriminator, place),
        frozen_discriminator=discriminator,
        generator_optimizer=_adam(generator, config.optimizers.generator),
        discriminator_optimizer=_adam(discriminator, config.optimizers.discriminator),
        content_loss=content_loss,
        content_weight=config.loss.content_weight,
        adversarial_weight=config.loss.adversarial_weight,
        pixel_weight=config.loss.pixel_weight,
        max_gradient_norm=config.training.max_gradient_norm,
        precision=config.training.precision,
        frozen_statistics=config.discriminator.frozen_statistics,
    )


def _adam(network: nn.Module, config: AdamConfig) -> torch.optim.Optimizer:
    betas = (config.beta1, config.beta2)
    # Fused, since the loop over the weights that torch has for a default takes three times as long on the CPU.
    return torch.optim.Adam(network.parameters(), config.learning_rate, betas, config.epsilon, fused=True)


def _set_adam(optimizer: torch.optim.Optimizer, config: AdamConfig, factor: float) -> None:
    # All of it, since what a checkpoint holds may be of other values.
    for group in optimizer.param_groups:
        group |= {"lr": factor * config.learning_rate, "betas": (config.beta1, config.beta2), "eps": config.epsilon}


def _moving_average(generator: nn.Module, decay: float) -> AveragedModel | None:
    """The generator's, of its weights and of batch norm's moving statistics."""
    if not decay:
        return None
    mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(generator, multi_avg_fn=mean, use_buffers=True)


def _distributed(network: nn.Module, place: Place) -> nn.Module:
    """The network, averaging gradients over the workers."""
    if place.workers == 1:
        return network
    devices = [place.device] if place.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)


def _train_epoch(
    config: Config,
    players: Players,
    average: AveragedModel | None,
    crops: CropSource,
    epoch: int,
    place: Place,
    step_metrics: list[dict[str, Tensor]],
) -> None:
    """One pass; appends this worker's losses and accuracies, step by step, to `step_metrics`."""
    seed, batch_size = config.training.seed, config.training.batch_size
    players.generator.train()
    players.discriminator.train()
    # Layers that draw random numbers use torch's global generator: tie it to the epoch, as all else is.
    torch.manual_seed(derived_seed("layers", seed, epoch, place.rank))
    pixel_epochs = config.training.pixel_epochs
    alone = pixel_epochs is None or epoch <= pixel_epochs
    run_step, watched = (pixel_step, PIXEL_METRICS) if alone else (train_step, METRICS)
    for step, pixels in enumerate(crops.batches(epoch)):
        clean = to_unit_range(pixels, place.device)
        # Drawn for the whole batch, of which this worker has some rows: the number of workers changes no noise.
        rows = range(place.rank * len(clean), (place.rank + 1) * len(clean))
        key = (seed, epoch, step)
        kinds, intensities = sample_noise(config.noise, batch_size, torch_generator("noise kinds", *key))
        streams = [torch_generator("noise", *key, row, device=place.device) for row in rows]
        mine = slice(rows.start, rows.stop)
        noisy = add_noise(clean, kinds[mine], intensities[mine], streams)
        factor = lr_factor(config.training, (epoch - 1) * crops.steps + step, config.training.epochs * crops.steps)
        _set_adam(players.generator_optimizer, config.optimizers.generator, factor)
        _set_adam(players.discriminator_optimizer, config.optimizers.discriminator, factor)
        step_metrics.append(run_step(players, _channels_last(clean), _channels_last(noisy)))
        if average is not None:
            average.update_parameters(players.generator)
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == crops.steps:
            _require_finite(step_metrics[-CHECK_EVERY:], watched, epoch, step, place)
    networks = (players.generator, players.discriminator, *([] if average is None else [average.module]))
    _average_moving_statistics(networks, place)


def _log_steps(steps: StepLog | None, epoch: int, names: list[str], values: Tensor) -> None:
    if steps is not None:
        steps.add_epoch(epoch, names, values)


def _over_workers(step_metrics: list[dict[str, Tensor]], place: Place) -> tuple[list[str], Tensor]:
    """The metrics' names, and their means over the workers: float64, (steps, metrics), on the CPU."""
    means = torch.stack([torch.stack(list(metrics.values())) for metrics in step_metrics]).double() / place.workers
    if place.workers > 1:
        distributed.all_reduce(means)
    return list(step_metrics[0]), means.cpu()


def _channels_last(images: Tensor) -> Tensor:
    """The same images in the memory layout that convolutions are fastest in."""
    return images.contiguous(memory_format=torch.channels_last)


def _average_moving_statistics(networks: Iterable[nn.Module], place: Place) -> None:
    """Give all workers the mean of the moving statistics, which each has gathered on its own crops."""
    if place.workers == 1:
        return
    for network in networks:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= place.workers


def _require_finite(
    step_metrics: list[dict[str, Tensor]], watched: Collection[str], epoch: int, step: int, place: Place
) -> None:
    # Of all workers: one that stopped alone would leave the others waiting.
    names, values = _over_workers(step_metrics, place)
    broken = [
        f"{name} is {value}"
        for name, value in zip(names, values.sum(dim=0).tolist(), strict=True)
        if name in watched and not math.isfinite(value)
    ]
    if broken:
        raise DivergedError(f"training diverged in epoch {epoch}, by step {step + 1}: {', '.join(broken)}")


def _validation_metrics(config: Config, generator: nn.Module, val_crops: Tensor, place: Place) -> dict[str, float]:
    """Means over all crops of what `validate` adds up, and `val_psnr` and `val_ssim` over all kinds and levels."""
    rows = range(place.rank, len(val_crops), place.workers)
    sums = validate(generator, val_crops, config, place.device, rows)
    totals = _summed_over_workers(torch.stack(list(sums.values())), place)
    means = {f"val_{name}": total / len(val_crops) for name, total in zip(sums, totals, strict=True)}
    tasks = [f"{kind}_{level}" for kind in config.noise.kinds for level in LEVELS]
    overall = {
        f"val_{measure}": sum(means[f"val_{measure}_{task}"] for task in tasks) / len(tasks)
        for measure in ("psnr", "ssim")
    }
    return overall | means


def _summed_over_workers(values: Tensor, place: Place) -> list[float]:
    if place.workers > 1:
        distributed.all_reduce(values)
    summed: list[float] = values.tolist()
    return summed
