"""Error maps: calibrating a denoiser's bounds, and measuring how many errors are within them.

`python benchmarks/error_map.py calibrate DENOISER PHOTOS` writes `error.json` into the denoiser's folder, from the 50
photos of the folder PHOTOS that training with it holds out. `python benchmarks/error_map.py measure DENOISER PHOTOS`
prints the share of pixels within the bounds, on the middle 128x128 pixels of other photos.
"""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from timing import show

from raygan.config.kinds import LEVELS, Noise
from raygan.config.run import MAX_MEGAPIXELS
from raygan.data.photos import decode_photo
from raygan.data.sources import PhotoFolder
from raygan.inference.denoiser import Denoiser
from raygan.inference.error import calibrate
from raygan.noise import Gaussian, Jpeg, Poisson, SmoothGaussian, add_noise
from raygan.seeds import derived_seed, torch_generator
from raygan.train.denoisers import load_generator

HELD_OUT = 50
"""`data/val_photos` of the denoisers that come with RayGAN."""
SIDE = 128
GREY = "gaussian in a grey image, mean"
OTHERS: tuple[Noise, ...] = (Gaussian(name="weak_gaussian", low=0, high=0.003), Poisson(), Jpeg(), SmoothGaussian())
"""Noises at whose mean intensity coverage is measured as well: weak noise, and kinds not calibrated for."""


def read(location: str, count: int | None = None) -> dict[str, NDArray[np.uint8]]:
    """The photos of a folder by name, or those that training with `data/seed` 0 holds out."""
    folder, names = PhotoFolder(location=location).find()
    if count is not None:
        order = np.random.default_rng(derived_seed("photo split", 0)).permutation(len(names))
        names = [names[index] for index in order[:count]]
    found = {}
    for name in names:
        image, problem, _ = decode_photo(folder, name, 16, MAX_MEGAPIXELS)
        assert not problem, f"{name}: {problem}"
        found[name] = np.array(image)
    return found


def measure(denoiser: Denoiser, noises: Sequence[Noise], photos: dict[str, NDArray[np.uint8]]) -> None:
    """Print the coverage by noise and level, and over all `noises`, which the denoiser was trained on."""
    tasks: list[tuple[str, Noise | None, float]] = [
        (f"{noise.key}, {level}", noise, noise.intensity(level)) for noise, level in itertools.product(noises, LEVELS)
    ]
    trained = len(tasks)
    tasks += [(f"{noise.key}, mean", noise, noise.mean) for noise in OTHERS]
    tasks += [("none", None, 0.0), (GREY, Gaussian(), Gaussian().mean)]
    values = np.zeros((4, len(tasks), len(photos)))
    for column, (name, photo) in enumerate(photos.items()):
        top, left = ((size - SIDE) // 2 for size in photo.shape[:2])
        colour = torch.from_numpy(photo[top : top + SIDE, left : left + SIDE]).permute(2, 0, 1)[None].float() / 255
        for row, (task, noise, intensity) in enumerate(tasks):
            image = colour.mean(dim=1, keepdim=True) if task == GREY else colour
            stream = torch_generator("error map", zlib.crc32(name.encode()), row)
            noisy = add_noise(image, [noise], [intensity], [stream])
            clean, given = (one[0].permute(1, 2, 0).numpy() for one in (image, noisy))
            denoised, bound = denoiser.with_error(given)
            error, in_file = (np.abs(one - clean).max(axis=2) for one in (denoised, np.rint(255 * denoised) / 255))
            shares = [100 * (one <= bound).mean() for one in (error, in_file)]
            values[:, row, column] = *shares, 255 * bound.mean(), 255 * error.mean()
    rows = [(task[0], *map("{:.1f}".format, values[:, row].mean(axis=1))) for row, task in enumerate(tasks)]
    rows.insert(trained, ("all above", *map("{:.1f}".format, values[:, :trained].mean(axis=(1, 2)))))
    columns = (
        "noise",
        "within the bound, %",
        "after rounding to 8 bits, %",
        "mean bound, of 255",
        "mean error, of 255",
    )
    show(f"{len(photos)} photos", columns, rows)
    lowest, highest = np.percentile(values[0, :trained].mean(axis=0), [5, 95])
    print(f"\nOf single photos, 90 % have between {lowest:.1f} and {highest:.1f} % within the bound.")


def main() -> None:
    """Calibrate or measure."""
    command, name, location = sys.argv[1:]
    denoiser = Denoiser.from_pretrained(name)
    if command == "calibrate":
        calibrate(denoiser.folder, list(read(location, HELD_OUT).values())).write(denoiser.folder)
    else:
        measure(denoiser, load_generator(denoiser.folder)[1].noises, read(location))


if __name__ == "__main__":
    main()
