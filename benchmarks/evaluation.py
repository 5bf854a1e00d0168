"""The evaluation job against its generator's own time, and against a plain loop: `python benchmarks/evaluation.py`.

Photos of BSD300's size with the paper's three noises at the mean intensity. The job scores the noisy input and the
denoised image, and, like a study's evaluation, a median filter; the loop has scikit-image's noise and metrics around
the same generator, in one process that has all cores, and scores the denoised image alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
import safetensors.torch
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.util import random_noise
from timing import machine, show

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.photos import evaluation_photos
from raygan.data.samples import dead_leaves
from raygan.data.sources import PhotoFolder
from raygan.evaluation.job import MEAN_ONLY, EvaluationSettings, EvaluationTask, evaluate
from raygan.inference.denoiser import denoise
from raygan.presets import DENOISER, PAPER_V1
from raygan.storage import Folder
from raygan.train.cluster import resolved_device, resources, start_ray
from raygan.train.denoisers import load_weights

PHOTOS = 60
SIZE = (321, 481)
MODES = {"gaussian": ("gaussian", "var"), "salt_and_pepper": ("s&p", "amount"), "speckle": ("speckle", "var")}
CORES = os.cpu_count() or 1


def plain_loop(folder: Path, denoiser: Folder, config: Config) -> tuple[float, float]:
    """Seconds of the whole loop, and of the generator in it."""
    device = config.hardware.device
    generator = load_weights(denoiser, config.generator).to(device).to(memory_format=torch.channels_last)
    random = np.random.default_rng(0)
    started, inside = time.perf_counter(), 0.0
    for path in sorted(folder.iterdir()):
        clean = np.asarray(Image.open(path)) / 255
        for noise in config.noises:
            mode, argument = MODES[noise.key]
            noisy = random_noise(clean, mode, rng=random, **{argument: noise.mean})
            image = torch.from_numpy(noisy).float().permute(2, 0, 1)[None]
            before = time.perf_counter()
            found = denoise(generator, image.to(device), config.generator.stride).cpu()
            inside += time.perf_counter() - before
            denoised = found[0].permute(1, 2, 0).double().numpy()
            peak_signal_noise_ratio(clean, denoised, data_range=1)
            structural_similarity(clean, denoised, data_range=1, channel_axis=2)
    return time.perf_counter() - started, inside


def job(folder: Path, denoiser: Folder, config: Config, filters: tuple[str, ...]) -> float:
    """Seconds of the evaluation job, with the start of its actors."""
    started = time.perf_counter()
    actors = 1 if config.hardware.device == "cuda" else CORES
    photos = evaluation_photos(PhotoFolder(location=str(folder)))
    network = load_weights(denoiser, config.generator)
    task = EvaluationTask(config.noises, {"raygan": (network, config.generator.stride)})
    rows = evaluate(photos, task, EvaluationSettings(filters, MEAN_ONLY), resources(config), actors)
    assert sum(map(len, rows)) == PHOTOS * len(MODES) * (2 + len(filters))
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    start_ray()
    rows = []
    for name, base in (("the paper's", PAPER_V1), ("RayGAN's", DENOISER)):
        config = resolved_device(with_values(base, {"hardware/workers": 1}))
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "photos"
            folder.mkdir()
            for index in range(PHOTOS):
                image = Image.fromarray(dead_leaves(SIZE[1], 0, index % 6)[: SIZE[0]])
                image.save(folder / f"{index:03d}.png", compress_level=1)
            safetensors.torch.save_file(config.generator.build().state_dict(), Path(place) / "generator.safetensors")
            denoiser = Folder(place)
            whole, inside = plain_loop(folder, denoiser, config)
            taken, filtered = (job(folder, denoiser, config, filters) for filters in ((), ("median",)))
        rows += [
            (f"{name} generator, forward alone", inside, 1.0, ""),
            (f"{name} generator, plain loop", whole, whole / inside, ""),
            (f"{name} generator, RayGAN's job", taken, taken / inside, ""),
            (f"{name} generator, RayGAN's job, with the median filter", filtered, filtered / inside, "≤ 1.1"),
        ]
    show(
        f"Evaluation: {PHOTOS} photos, {PHOTOS * len(MODES)} denoisings ({machine()})",
        ("", "seconds", "times the forward passes", "target"),
        rows,
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
