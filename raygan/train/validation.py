"""Validation: every noise at three levels, with the same fixed noise for every run."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from raygan.config.kinds import LEVELS, Level, Noise
from raygan.config.run import Config
from raygan.data.crops import to_unit_range
from raygan.metrics import psnr, ssim
from raygan.noise import add_noise
from raygan.seeds import torch_generator
from raygan.train.step import autocast

BATCH = 16


def validate(
    generator: nn.Module, crops: Tensor, config: Config, device: torch.device, rows: range
) -> dict[str, Tensor]:
    """Sums over the crops `rows` of PSNR and SSIM, per noise and level: `psnr_<noise>_<level>`, `ssim_<noise>_<level>`.

    And `psnr`, `ssim` and `psnr_noisy`, that of the noisy input, all three the means over noises and levels. `crops`
    are all the validation crops, uint8 (N, 3, S, S); a worker of several passes its own rows and adds up the sums. The
    noise of a crop depends on `data/seed`, noise, level and the crop's row alone. Leaves the generator in evaluation
    mode.
    """
    generator.eval()
    totals: dict[str, Tensor] = {}
    with torch.inference_mode():
        for noise, level in itertools.product(config.noises, LEVELS):
            total = totals[f"{noise.key}_{level}"] = torch.zeros(3, dtype=torch.float64, device=device)
            for start in range(0, len(rows), BATCH):
                clean, noisy = noisy_validation_crops(crops, config, noise, level, rows[start : start + BATCH])
                clean, noisy = clean.to(device), noisy.to(device, memory_format=torch.channels_last)
                with autocast(device, config.training.precision):
                    denoised = generator(noisy)
                clean, noisy, denoised = clean.double(), noisy.double(), denoised.double()
                scores = (psnr(clean, denoised), ssim(clean, denoised), psnr(clean, noisy))
                total += torch.stack([score.sum() for score in scores])
    mean_psnr, mean_ssim, psnr_noisy = torch.stack(list(totals.values())).mean(dim=0)
    sums = {"psnr": mean_psnr, "ssim": mean_ssim}
    for task, total in totals.items():
        sums[f"psnr_{task}"], sums[f"ssim_{task}"], _ = total
    return sums | {"psnr_noisy": psnr_noisy}


def noisy_validation_crops(
    crops: Tensor, config: Config, noise: Noise, level: Level, rows: range
) -> tuple[Tensor, Tensor]:
    """The clean and the noisy version of some validation crops: float32, (len(rows), 3, S, S), on the CPU.

    The noise is drawn on the CPU, with one generator per crop, so that no device or division of work changes it.
    """
    clean = to_unit_range(crops[rows.start : rows.stop : rows.step], "cpu")
    key = (config.data.seed, config.noises.index(noise), LEVELS.index(level))
    streams = [torch_generator("validation noise", *key, row) for row in rows]
    return clean, add_noise(clean, [noise] * len(rows), [noise.intensity(level)] * len(rows), streams)
