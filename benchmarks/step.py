"""A training step: RayGAN's against a plain PyTorch script of the same networks: `python benchmarks/step.py`.

The paper's v1 at its full size, with VGG19's content loss (random weights of its shapes cost the same). The plain
script is in float32, with a DataLoader, and updates the generator, then the discriminator, as BasicSR does. The limit
is what a large matrix product in bfloat16 reaches here.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timing import fastest, machine, show
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from raygan.config.run import Config, Precision
from raygan.config.section import with_values
from raygan.data.crops import CachedCrops, validation_crops
from raygan.data.photos import Photos
from raygan.data.samples import dead_leaves
from raygan.losses import Vgg19Distance
from raygan.noise import add_noise
from raygan.presets import PAPER_V1, quick
from raygan.seeds import torch_generator
from raygan.train.loop import Worker, train

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS = 40 if DEVICE.type == "cuda" else 3
SEEDS = 3
"""Of the trainings that compare precisions."""
CORES = os.cpu_count() or 1


def vgg19_weights() -> dict[str, Tensor]:
    """Random weights of VGG19's shapes."""
    shapes = {"conv1_1": (64, 3), "conv1_2": (64, 64), "conv2_1": (128, 64), "conv2_2": (128, 128)}
    weights = {f"{name}_weight": 0.05 * torch.randn(*shape, 3, 3) for name, shape in shapes.items()}
    weights |= {f"{name}_bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    preparation = {"colour_matrix": torch.eye(3)[..., None, None], "mean": torch.zeros(1, 3, 1, 1)}
    return weights | preparation | {"deviation": torch.ones(1, 3, 1, 1)}


class PlainGan:
    """The usual script."""

    def __init__(self, config: Config, weights: dict[str, Tensor]) -> None:
        self.loss = config.loss
        self.generator = config.generator.build().to(DEVICE)
        self.discriminator = config.discriminator.build(config.data.crop_size).to(DEVICE)
        self.content_loss = Vgg19Distance(weights, "paper").to(DEVICE)
        rates = config.optimizers
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=rates.generator.learning_rate)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=rates.discriminator.learning_rate
        )

    def step(self, clean: Tensor) -> None:
        """Update both networks."""
        clean = clean.to(DEVICE)
        noisy = (clean + 0.2 * torch.randn_like(clean)).clamp(0, 1)
        self.discriminator.requires_grad_(False)
        self.generator_optimizer.zero_grad()
        denoised = self.generator(noisy)
        scores = self.discriminator(denoised)
        adversarial = functional.binary_cross_entropy_with_logits(scores, torch.ones_like(scores))
        loss = self.loss.content_weight * self.content_loss(clean, denoised)
        (loss + self.loss.adversarial_weight * adversarial).backward()
        self.generator_optimizer.step()
        self.discriminator.requires_grad_(True)
        self.discriminator_optimizer.zero_grad()
        for image, is_clean in ((clean, 1.0), (denoised.detach(), 0.0)):
            scores = self.discriminator(image)
            functional.binary_cross_entropy_with_logits(scores, torch.full_like(scores, is_clean)).backward()
        self.discriminator_optimizer.step()
        loss.item()


def plain_seconds(config: Config, photos: Photos, weights: dict[str, Tensor]) -> tuple[float, float]:
    """Seconds per step of the plain script, and its floating-point operations, which are RayGAN's too."""
    gan, batch_size, size = PlainGan(config, weights), config.training.batch_size, config.data.crop_size
    with FlopCounterMode(display=False) as counter:
        gan.step(torch.rand(batch_size, 3, size, size))
    crops = CachedCrops(photos, config.data, with_values(config, {"training/steps_per_epoch": STEPS}).training)
    clean = torch.cat(list(crops.batches(1))).float() / 255
    started = time.perf_counter()
    for (batch,) in DataLoader(TensorDataset(clean), batch_size=batch_size, shuffle=True):
        gan.step(batch)
    return (time.perf_counter() - started) / STEPS, float(counter.get_total_flops())


def epochs_of(config: Config, photos: Photos, weights: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The metrics of a training's epochs, without reports and checkpoints."""
    crops = CachedCrops(photos, config.data, config.training)
    val_crops = validation_crops(photos, config.data)
    return [epoch.metrics for epoch in train(config, crops, val_crops, weights, worker=Worker(device=DEVICE))]


def raygan_seconds(config: Config, photos: Photos, weights: dict[str, Tensor]) -> float:
    """Seconds per step of RayGAN's training, in the second epoch."""
    config = with_values(config, {"training/steps_per_epoch": STEPS, "training/epochs": 2, "data/val_crops": 1})
    return float(epochs_of(config, photos, weights)[-1]["train_seconds"]) / STEPS


def noise_seconds(config: Config) -> float:
    """Seconds that a batch's noise takes, the mean over the noises."""
    count, size = config.training.batch_size, config.data.crop_size
    clean = torch.rand(count, 3, size, size, device=DEVICE)
    streams = [torch_generator("benchmark", row, device=DEVICE) for row in range(count)]
    seconds = fastest(
        {
            noise.key: lambda noise=noise: (
                add_noise(clean, [noise] * count, [noise.mean] * count, streams)[0, 0].sum().item()
            )
            for noise in config.noises
        }
    )
    return sum(seconds.values()) / len(seconds)


def peak() -> float:
    """Floating-point operations per second of a large matrix product in bfloat16."""
    size = 8192 if DEVICE.type == "cuda" else 4096
    left, right = torch.randn(2, size, size, device=DEVICE, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        (left @ right).sum().item()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def numerics(photos: Photos) -> list[tuple[Precision, str]]:
    """Best val PSNR of short runs of small networks, in either precision: the mean and the range over the seeds."""
    values = {
        "training/epochs": 5,
        "training/average_decay": 0.98,
        "optimizers/generator/learning_rate": 0.001,
        "hardware/cpus_per_worker": CORES,
    }
    found = []
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        own = values | {"training/precision": precision}
        configs = [with_values(quick(PAPER_V1), own | {"training/seed": seed}) for seed in range(SEEDS)]
        scores = [epochs_of(config, photos, {})[-1]["best_val_psnr"] for config in configs]
        found.append((precision, f"{sum(scores) / SEEDS:.2f} ({min(scores):.2f} to {max(scores):.2f})"))
    return found


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(CORES)
    photos = Photos([str(index) for index in range(48)], [dead_leaves(288, 0, index) for index in range(48)])
    weights, limit = vgg19_weights(), peak()
    for batch_size in (8, 64) if DEVICE.type == "cuda" else (8,):
        config = with_values(PAPER_V1, {"training/batch_size": batch_size, "hardware/cpus_per_worker": CORES})
        fast = with_values(config, {"training/precision": "bfloat16"})
        plain, operations = plain_seconds(config, photos, weights)
        seconds = {
            "plain PyTorch, float32": plain,
            "RayGAN, float32": raygan_seconds(config, photos, weights),
            "RayGAN, bfloat16": raygan_seconds(fast, photos, weights),
        }
        target = "≥ 3" if DEVICE.type == "cuda" else "≥ 2"
        show(
            f"Step: v1 at batch {batch_size}, {operations / 1e9:.0f} GFLOP, the limit {limit / 1e9:.0f} GFLOP/s "
            f"({machine()})",
            ("", "seconds per step", "ratio", "target", "share of the limit", "seconds per epoch of 125"),
            [
                (name, one, plain / one, target if "bf" in name else "", operations / limit / one, 125 * one)
                for name, one in seconds.items()
            ],
        )
        share = noise_seconds(config) / seconds["RayGAN, bfloat16"]
        print(f"\nNoise takes {share:.2%} of a step in bfloat16 (target: at most 1 %).")
    show(f"Numerics: val PSNR after 300 steps of small networks, {SEEDS} seeds", ("precision", "dB"), numerics(photos))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(Path(scratch))
        main()
