"""Validation: every noise at three levels, or pairs, with the same fixed noise for every run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from raygan.config.kinds import LEVELS, Level, Noise
from raygan.config.run import PAIRS, Config
from raygan.data.crops import ValidationCrops, to_unit_range
from raygan.metrics import BEST_PSNR, psnr, ssim
from raygan.noise import add_noise
from raygan.seeds import torch_generator
from raygan.train.step import autocast

BATCH = 16
ROUNDED_PSNR = 60.0
"""Highest PSNR of a noisy crop, in dB: rounding to 8 bits leaves 58.9 dB."""


def validate(
    generator: nn.Module, crops: ValidationCrops, config: Config, device: torch.device, rows: range
) -> dict[str, Tensor]:
    """Sums over the crops `rows` of PSNR and SSIM, per noise and level: `psnr_<noise>_<level>`, `ssim_<noise>_<level>`.

    A crop counts with at most 100 dB, that of a noisy input with 60. And of pairs, `psnr_pairs` and `ssim_pairs`.
    `psnr`, `ssim` and `psnr_noisy`, that of the noisy input, are the means over noises and levels. If there are pairs,
    they are those of the pairs, and the noises are scored at their mean level alone. A worker of several passes its own
    rows and adds up the sums. The noise of a crop depends on `data/seed`, noise, level and the crop's row alone. Leaves
    the generator in evaluation mode.
    """
    generator.eval()
    totals = dict[str, Tensor]()
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    with torch.inference_mode():
        levels: Sequence[Level] = LEVELS if crops.pairs is None else ("mean",)
        for noise, level in itertools.product(config.noises, levels):
            noisy = (noisy_validation_crops(crops, config, noise, level, batch) for batch in batches)
            totals[f"{noise.key}_{level}"] = _scores(generator, noisy, config, device)
        judged = list(totals.values())
        if crops.pairs is not None:
            pairs = (validation_pairs(crops.pairs, batch) for batch in batches)
            judged = [_scores(generator, pairs, config, device)]
            totals[PAIRS] = judged[0]
    mean_psnr, mean_ssim, psnr_noisy = torch.stack(judged).mean(dim=0)
    sums = {"psnr": mean_psnr, "ssim": mean_ssim}
    for task, total in totals.items():
        sums[f"psnr_{task}"], sums[f"ssim_{task}"], _ = total
    return sums | {"psnr_noisy": psnr_noisy}


def _scores(generator: nn.Module, batches: Iterable[Sequence[Tensor]], config: Config, device: torch.device) -> Tensor:
    """Sums of PSNR, SSIM, and the noisy images' PSNR, (3,), over batches of clean and noisy images."""
    total = torch.zeros(3, dtype=torch.float64, device=device)
    for clean, noisy in batches:
        clean, noisy = clean.to(device), noisy.to(device, memory_format=torch.channels_last)
        with autocast(device, config.training.precision):
            denoised = generator(noisy)
        clean, noisy, denoised = clean.double(), noisy.double(), denoised.double()
        # A crop without any error may be a black one with speckle.
        quality, noisy_quality = psnr(clean, denoised).clamp(max=BEST_PSNR), psnr(clean, noisy).clamp(max=ROUNDED_PSNR)
        scores = (quality, ssim(clean, denoised), noisy_quality)
        total += torch.stack([score.sum() for score in scores])
    return total


def noisy_validation_crops(
    crops: ValidationCrops, config: Config, noise: Noise, level: Level, rows: range
) -> tuple[Tensor, Tensor]:
    """The clean and the noisy version of some validation crops: float32, (len(rows), 3, S, S), on the CPU.

    The noise is drawn on the CPU, with one generator per crop, so that no device or division of work changes it.
    """
    clean = to_unit_range(crops.photos[rows.start : rows.stop : rows.step], "cpu")
    key = (config.data.seed, config.noises.index(noise), LEVELS.index(level))
    streams = [torch_generator("validation noise", *key, row) for row in rows]
    return clean, add_noise(clean, [noise] * len(rows), [noise.intensity(level)] * len(rows), streams)


def validation_pairs(pairs: Tensor, rows: range) -> tuple[Tensor, Tensor]:
    """The clean and the noisy version of some pairs, uint8, (N, 6, S, S): see `noisy_validation_crops`."""
    chosen = to_unit_range(pairs[rows.start : rows.stop : rows.step], "cpu")
    return chosen[:, :3], chosen[:, 3:]
