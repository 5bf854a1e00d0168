"""Noise: RayGAN's batches against scikit-image's `random_noise`, image by image: `python benchmarks/noise.py`.

No noise can be drawn in less time than the random bits that it needs: 16 a value here, but for salt and pepper, which
draws only where it puts some.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from raygan.noise.noise import NOISES, add_noise
from skimage.util import random_noise
from timing import fastest, machine, show

from raygan.config.run import NoiseConfig
from raygan.seeds import torch_generator

BATCH, SIZE = 16, 256
TARGETS = {"gaussian": 10, "salt_and_pepper": 10, "speckle": 6}
MODES = {"gaussian": ("gaussian", "var"), "salt_and_pepper": ("s&p", "amount"), "speckle": ("speckle", "var")}


def main() -> None:
    """Print the table."""
    clean = torch.rand(BATCH, 3, SIZE, SIZE)
    photos = [image.permute(1, 2, 0).contiguous().numpy() for image in clean]
    random = np.random.default_rng(0)
    generators = [torch_generator("benchmark", row) for row in range(BATCH)]
    bits = torch.empty(clean.numel() // 4, dtype=torch.int64)
    rows = []
    for kind in NOISES:
        intensity = NoiseConfig().range_of(kind).mean
        mode, argument = MODES[kind]
        theirs = functools.partial(random_noise, mode=mode, rng=random, **{argument: intensity})
        intensities = torch.full((BATCH,), intensity)
        seconds = fastest(
            {
                "scikit-image": lambda theirs=theirs: [theirs(photo) for photo in photos],
                "RayGAN": lambda kind=kind, intensities=intensities: add_noise(
                    clean, [kind] * BATCH, intensities, generators
                ),
                "bits": lambda: bits.random_(-(2**63), None, generator=generators[0]),
            }
        )
        scikit, ours, least = (1e9 * seconds[name] / clean.numel() for name in ("scikit-image", "RayGAN", "bits"))
        limit = "" if kind == "salt_and_pepper" else f"{least / torch.get_num_threads() / ours:.2f}"
        rows.append((kind, scikit, ours, scikit / ours, f"≥ {TARGETS[kind]}", limit))
    show(
        f"Noise: a batch of {BATCH} crops of {SIZE}×{SIZE}, {torch.get_num_threads()} threads ({machine()})",
        ("kind", "scikit-image, ns a value", "RayGAN, ns a value", "times as fast", "target", "share of the limit"),
        rows,
    )


if __name__ == "__main__":
    main()
