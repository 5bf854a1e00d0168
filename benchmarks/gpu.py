"""A GPU's first five minutes: is everything right, and how fast: `python benchmarks/gpu.py`.

Results against those of the CPU; denoising; a training step and its share of what a large matrix product in bfloat16
reaches; an epoch with crops from memory; peak memory. Needs neither Ray nor Optuna, no photos and no weights beyond
those that come with RayGAN. `--device cpu --quick` runs the same with tiny sizes, to test this script.
Ends with 1 if results differ by more than rounding explains.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from timing import machine, show
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raygan.config.run import Config, Precision
from raygan.config.section import with_values
from raygan.data.crops import CachedCrops, validation_crops
from raygan.data.photos import Photos
from raygan.data.samples import dead_leaves
from raygan.inference.denoiser import Denoiser
from raygan.losses import MeanSquaredError
from raygan.metrics import psnr
from raygan.noise import Camera, Gaussian, add_noise
from raygan.presets import PAPER_V1, quick
from raygan.seeds import torch_generator
from raygan.train.loop import Worker, train
from raygan.train.step import Gan, train_step

COMPUTED: tuple[Precision, ...] = ("float32", "bfloat16")


MOST_DIFFERENCE = 1e-3
"""In [0, 1], between a denoiser's results in float32 here and on the CPU."""
MOST_DECIBELS = 0.5
"""Between the PSNR of photos with noise from this device's and from the CPU's random numbers."""


class Bench:
    """The measurements on one device."""

    def __init__(self, device: str, *, tiny: bool) -> None:
        self.kind = device
        self.device = torch.device(device)
        self.tiny = tiny
        self.denoisers = ("small",) if tiny else ("baseline", "small", "synthetic")
        self.config = with_values(PAPER_V1, {"loss/content": MeanSquaredError()})
        if tiny:
            values = {"generator/base_width": 4, "discriminator/base_width": 4, "training/batch_size": 2}
            self.config = with_values(quick(self.config), values)
        self.wrong: list[str] = []
        """What differs from the CPU."""

    def seconds(self, run: Callable[[], object], repeats: int = 20) -> float:
        """The median of repeated runs, after two that do not count."""
        taken = []
        for _ in range(3 if self.tiny else 2 + repeats):
            started = time.perf_counter()
            run()
            if self.kind == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken[2:])

    def peak_memory(self) -> float:
        """GB that tensors took at most since the last call; NaN on the CPU."""
        if self.kind != "cuda":
            return float("nan")
        taken = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return taken

    def correctness(self) -> None:
        """The same noisy photo denoised here and on the CPU, and the camera's noise with the device's own numbers."""
        clean = torch.from_numpy(dead_leaves(64 if self.tiny else 512, 0, 0)).permute(2, 0, 1)[None].float() / 255
        noisy = add_noise(clean, [Gaussian()], [0.02], [torch_generator("benchmark")])
        pixels = noisy[0].permute(1, 2, 0).contiguous().numpy()

        def score(image: np.ndarray) -> float:
            return psnr(clean, torch.from_numpy(image).permute(2, 0, 1)[None]).item()

        rows = []
        for name in self.denoisers:
            expected, default, half = (
                Denoiser.from_pretrained(name, device=device, precision=precision)(pixels)
                for device, precision in (("cpu", "float32"), (self.kind, "float32"), (self.kind, "bfloat16"))
            )
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                exact = Denoiser.from_pretrained(name, device=self.kind, precision="float32")(pixels)
            if not np.abs(exact - expected).max() <= MOST_DIFFERENCE:
                self.wrong.append(f"the denoiser {name} in float32")
            differences = [f"{np.abs(found - expected).max():.1e}" for found in (exact, default, half)]
            rows.append((name, *differences, f"{score(expected):.3f}", f"{score(expected) - score(half):.4f}"))
        columns = ("float32", "float32, with torch's default of TF32", "bfloat16", "PSNR on the CPU, dB")
        title = f"Denoising: largest difference from the CPU, in [0, 1] ({machine()})"
        show(title, ("denoiser", *columns, "lost in bfloat16, dB"), rows)
        # Another device has other random numbers, of the same distribution.
        rows = []
        for noise in (*PAPER_V1.noises, Camera()):
            scores = []
            for device in ("cpu", self.device):
                stream = torch_generator("benchmark", device=device)
                scores.append(psnr(clean, add_noise(clean.to(device), [noise], [noise.mean], [stream]).cpu()).item())
            # A camera is drawn at random too.
            if noise.key != "camera" and not abs(scores[0] - scores[1]) <= MOST_DECIBELS:
                self.wrong.append(f"the noise {noise.key}")
            rows.append((noise.key, *(f"{score:.2f}" for score in scores)))
        show("Noise: PSNR of a noisy photo, dB", ("noise", "CPU", "here"), rows)

    def denoising(self) -> None:
        """Megapixels per second of a network, and of a whole photo in tiles."""
        size, side = (16, 128) if self.tiny else (512, 4096)
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        rows = []
        for name in self.denoisers:
            for precision in COMPUTED:
                self.peak_memory()
                denoiser = Denoiser.from_pretrained(name, device=self.kind, precision=precision)
                batch = torch.rand(8, 3, size, size, device=self.device).to(memory_format=torch.channels_last)
                forward = self.seconds(
                    lambda one=denoiser.generator, x=batch, how=precision: self._forward(one, x, how)
                )
                photo = self.seconds(lambda one=denoiser: one(image), repeats=3)
                rates = (8 * size**2 / 1e6 / forward, side**2 / 1e6 / photo)
                rows.append((name, precision, *rates, self.peak_memory()))
        columns = (f"8 images of {size}×{size}", f"a photo of {side}×{side}, uint8, in tiles", "peak memory, GB")
        show("Denoising: megapixels per second", ("denoiser", "precision", *columns), rows)

    def _forward(self, network: nn.Module, batch: Tensor, precision: Precision) -> None:
        with torch.inference_mode(), torch.autocast(self.kind, torch.bfloat16, enabled=precision == "bfloat16"):
            network(batch)

    def limit(self) -> float:
        """Floating-point operations per second of a large matrix product in bfloat16."""
        size = 256 if self.tiny else 8192
        left, right = torch.randn(2, size, size, device=self.device, dtype=torch.bfloat16)
        return 2 * size**3 / self.seconds(lambda: left @ right)

    def step(self) -> None:
        """A training step of the paper's v1, with the pixel content loss."""
        limit, rows = self.limit(), []
        for batch_size in (2,) if self.tiny else (8, 32):
            for precision in COMPUTED:
                values = {"training/precision": precision, "training/batch_size": batch_size}
                gan, batch = self._gan(with_values(self.config, values))
                with FlopCounterMode(display=False) as counter:
                    train_step(gan, *batch)
                self.peak_memory()
                seconds = self.seconds(lambda gan=gan, batch=batch: train_step(gan, *batch))
                share = counter.get_total_flops() / seconds / limit
                rows.append((precision, batch_size, 1e3 * seconds, share, self.peak_memory()))
        columns = ("precision", "batch", "ms", "share of the limit", "peak memory, GB")
        show(f"A training step of v1; the limit is {limit / 1e12:.3g} TFLOP/s", columns, rows)

    def _gan(self, config: Config) -> tuple[Gan, tuple[Tensor, Tensor]]:
        """Networks with their optimizers, and a batch of clean and noisy crops."""
        size, batch_size = config.data.crop_size, config.training.batch_size
        networks = [config.generator.build(), config.discriminator.build(size)]
        networks = [network.to(self.device).to(memory_format=torch.channels_last) for network in networks]
        optimizers = [torch.optim.Adam(network.parameters(), fused=True) for network in networks]
        generator, discriminator = networks
        loss = config.loss.content.build({})
        clean = torch.rand(batch_size, 3, size, size, device=self.device).to(memory_format=torch.channels_last)
        return Gan(generator, discriminator, discriminator, *optimizers, loss, config), (clean, clean.sqrt())

    def epoch(self) -> None:
        """The training loop with crops from memory, noise and validation, without checkpoints."""
        count, side = (4, 96) if self.tiny else (48, 512)
        photos = Photos([str(index) for index in range(count)], [dead_leaves(side, 0, index) for index in range(count)])
        values = {"training/steps_per_epoch": 2 if self.tiny else 125, "training/epochs": 2, "data/val_crops": 8}
        rows = []
        for precision in COMPUTED:
            config = with_values(self.config, values | {"training/precision": precision})
            crops, val_crops = CachedCrops(photos, config.data, config.training), validation_crops(photos, config.data)
            *_, last = train(config, crops, val_crops, {}, worker=Worker(device=self.device))
            metrics = last.metrics
            rows.append((precision, metrics["train_seconds"], metrics["val_seconds"], f"{metrics['val_psnr']:.2f}"))
        columns = ("precision", "seconds per epoch", "seconds of validation", "val PSNR after two, dB")
        show(f"An epoch of {values['training/steps_per_epoch']} steps, crops from memory", columns, rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, whose speed says nothing")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here: give --device cpu --quick to test the script")
    bench = Bench(options.device, tiny=options.quick)
    for measure in (bench.correctness, bench.denoising, bench.step, bench.epoch):
        started = time.perf_counter()
        measure()
        print(f"\n({time.perf_counter() - started:.0f} s)", flush=True)
    if bench.wrong:
        sys.exit(f"differs from the CPU: {', '.join(bench.wrong)}")


if __name__ == "__main__":
    main()
