"""What a generator costs: its trainable parameters, and the time it takes."""

from __future__ import annotations

import functools
import statistics
import time

import torch

from raygan.config.run import GeneratorConfig
from raygan.models.generator import build_generator

WARM_UP = 2
"""Runs before those that are timed."""
RUNS = 5
"""Timed runs."""


@functools.cache
def parameters(config: GeneratorConfig) -> int:
    """How many trainable parameters the generator has; none of them is allocated."""
    with torch.device("meta"):
        generator = build_generator(config)
    return sum(weight.numel() for weight in generator.parameters())


# Kept, since a second measurement would differ a little from the first.
@functools.cache
def milliseconds(config: GeneratorConfig, crop_size: int, device: str) -> float:
    """How long the generator takes to denoise one crop, (1, 3, crop_size, crop_size), in float32 on `device`.

    The median of five runs after two to warm up, in this process with its threads, beside whatever else the machine
    does meanwhile.
    """
    generator = build_generator(config).eval().to(device).to(memory_format=torch.channels_last)
    noisy = torch.rand(1, 3, crop_size, crop_size, device=device).to(memory_format=torch.channels_last)
    seconds = []
    with torch.inference_mode():
        for _ in range(WARM_UP + RUNS):
            started = time.perf_counter()
            # Its end waits for the device.
            generator(noisy).sum().item()
            seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[WARM_UP:])
