"""Noise: RayGAN's batches and scikit-image's `random_noise`, one image at a time: `python benchmarks/noise.py`.

What noise takes of a training step: see `step.py`.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from skimage.util import random_noise
from timing import fastest, machine, show

from raygan.noise import add_noise
from raygan.presets import PAPER_V1
from raygan.seeds import torch_generator

BATCH, SIZE = 16, 256
MODES = {"gaussian": ("gaussian", "var"), "salt_and_pepper": ("s&p", "amount"), "speckle": ("speckle", "var")}


def main() -> None:
    """Print the table."""
    clean = torch.rand(BATCH, 3, SIZE, SIZE)
    photos = [image.permute(1, 2, 0).contiguous().numpy() for image in clean]
    random = np.random.default_rng(0)
    streams = [torch_generator("benchmark", row) for row in range(BATCH)]
    rows = []
    for noise in PAPER_V1.noises:
        mode, argument = MODES[noise.key]
        theirs = functools.partial(random_noise, mode=mode, rng=random, **{argument: noise.mean})
        ours = functools.partial(add_noise, clean, [noise] * BATCH, [noise.mean] * BATCH, streams)
        seconds = fastest({"scikit-image": lambda theirs=theirs: [theirs(photo) for photo in photos], "RayGAN": ours})
        scikit, raygan = (1e9 * seconds[name] / clean.numel() for name in ("scikit-image", "RayGAN"))
        rows.append((noise.key, scikit, raygan, scikit / raygan))
    show(
        f"Noise: a batch of {BATCH} crops of {SIZE}×{SIZE}, {torch.get_num_threads()} threads ({machine()})",
        ("noise", "scikit-image, ns per value", "RayGAN, ns per value", "ratio"),
        rows,
    )


if __name__ == "__main__":
    main()
