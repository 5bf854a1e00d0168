"""Validation: every noise kind at three levels, with the same fixed noise for every run."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from raygan.config.run import Config, NoiseKind
from raygan.data.crops import to_unit_range
from raygan.noise.noise import LEVELS, Level, add_noise, level_intensity
from raygan.metrics import psnr, ssim
from raygan.seeds import torch_generator
from raygan.train.step import autocast

BATCH = 16


def validate(
    generator: nn.Module, crops: Tensor, config: Config, device: torch.device, rows: range
) -> dict[str, Tensor]:
    """Sums over the crops `rows` of PSNR and SSIM, per kind and level: `psnr_<kind>_<level>`, `ssim_<kind>_<level>`.

    And the means over kinds and levels of `psnr_noisy`, the noisy input's PSNR, and of the generator's `milliseconds`.
    `crops` are all the validation crops, uint8 (N, 3, S, S); a worker of several passes its own rows and adds up
    the sums. The noise of a crop depends on `data/seed`, kind, level and the crop's row alone. Leaves the generator
    in evaluation mode.
    """
    generator.eval()
    sums: dict[str, Tensor] = {}
    psnr_noisy = torch.zeros((), dtype=torch.float64, device=device)
    seconds = 0.0
    with torch.inference_mode():
        for kind in config.noise.kinds:
            for level in LEVELS:
                total = torch.zeros(2, dtype=torch.float64, device=device)
                for start in range(0, len(rows), BATCH):
                    part = rows[start : start + BATCH]
                    clean, noisy = noisy_validation_crops(crops, config, kind, level, part)
                    clean = clean.to(device)
                    noisy = noisy.to(device, memory_format=torch.channels_last)
                    _finish(device)
                    started = time.perf_counter()
                    with autocast(device, config.training.precision):
                        denoised = generator(noisy)
                    _finish(device)
                    seconds += time.perf_counter() - started
                    clean, denoised = clean.double(), denoised.double()
                    psnr_noisy += psnr(clean, noisy.double()).sum()
                    total += torch.stack([psnr(clean, denoised).sum(), ssim(clean, denoised).sum()])
                sums[f"psnr_{kind}_{level}"], sums[f"ssim_{kind}_{level}"] = total
    tasks = len(config.noise.kinds) * len(LEVELS)
    milliseconds = torch.tensor(1000 * seconds).to(psnr_noisy)
    return sums | {"psnr_noisy": psnr_noisy / tasks, "milliseconds": milliseconds / tasks}


def _finish(device: torch.device) -> None:
    """Wait for what the device was asked to do: only then has its time passed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def noisy_validation_crops(
    crops: Tensor, config: Config, kind: NoiseKind, level: Level, rows: range
) -> tuple[Tensor, Tensor]:
    """The clean and the noisy version of some validation crops: float32, (len(rows), 3, S, S), on the CPU.

    The noise is drawn on the CPU, one stream a crop, so that no device or division of work changes it.
    """
    clean = to_unit_range(crops[rows.start : rows.stop : rows.step], "cpu")
    intensity = torch.tensor([level_intensity(config.noise.range_of(kind), level)])
    key = (config.data.seed, config.noise.kinds.index(kind), LEVELS.index(level))
    noisy = [
        add_noise(image[None], [kind], intensity, [torch_generator("validation noise", *key, row)])
        for row, image in zip(rows, clean, strict=True)
    ]
    return clean, torch.cat(noisy)
