"""Evaluation: a denoiser on a set of photos, beside the noisy input and classical filters.

PSNR and SSIM are computed in double precision on the images as they are; nothing is rounded to 8 bits.
"""

from __future__ import annotations

import io
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from raygan.config import NoiseConfig
from raygan.data.crops import to_unit_range
from raygan.data.noise import LEVELS, add_noise, level_intensity
from raygan.denoise import denoise
from raygan.metrics import psnr, ssim
from raygan.seeds import torch_generator
from raygan.storage import Folder
from raygan.train.checkpoint import load_denoiser

if TYPE_CHECKING:
    from ray.data import Dataset

PICTURES = 4
"""Photos, the first by name, of which before/after pictures are kept."""


def median(noisy: Tensor) -> Tensor:
    """The median of each value's 3x3 neighbourhood in its channel, of images (B, 3, H, W)."""
    return torch.from_numpy(ndimage.median_filter(noisy.numpy(), size=(1, 1, 3, 3), mode="reflect"))


CLASSICAL: dict[str, Callable[[Tensor], Tensor]] = {"median": median}
METHODS = ("noisy", *CLASSICAL, "raygan")


def evaluate(
    photos: Dataset, denoiser: Folder, noise: NoiseConfig, asked: dict[str, float], actors: int
) -> Iterator[list[dict[str, Any]]]:
    """Evaluate a denoiser on photos by a Ray Data job; yields each photo's rows as they are done.

    `photos` has rows of `name` and `pixels` (see `raygan.data.photos.evaluation_photos`), `denoiser` is the folder of
    a checkpoint, and `noise` says which kinds to add, at their low, mean and high intensity. `actors` actors of
    `asked` resources each hold the generator. A photo's noise depends on its name, the kind and the level alone.
    `tabulate` makes a table of the rows.
    """
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    names = sorted(row["name"] for row in photos.select_columns(["name"]).take_all())
    results = photos.map_batches(
        _Evaluator,
        fn_constructor_args=(denoiser, noise, set(names[:PICTURES]), "cuda" if "GPU" in asked else "cpu"),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=asked["CPU"],
        num_gpus=asked.get("GPU", 0),
    )
    rows = iter(results.iter_rows())
    a_photo = len(noise.kinds) * len(LEVELS) * len(METHODS)
    while part := list(itertools.islice(rows, a_photo)):
        yield part


def tabulate(photos: Iterable[list[dict[str, Any]]], noise: NoiseConfig) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """What `evaluate` yields as a table, sorted, and the pictures by file name.

    The table has a row per image, kind, level and method, and the columns `image, kind, level, method, psnr, ssim`.
    Pictures are PNG files: clean, noisy, and each method's result side by side, at the mean intensity.
    """
    rows = [row for part in photos for row in part]
    pictures = {row["picture_name"]: row["picture"] for row in rows if row["picture_name"]}
    table = pd.DataFrame(rows, columns=["image", "kind", "level", "method", "psnr", "ssim"])
    for column, order in (("kind", noise.kinds), ("level", LEVELS), ("method", METHODS)):
        table[column] = pd.Categorical(table[column], order)
    return table.sort_values(["image", "kind", "level", "method"], ignore_index=True), pictures


def summarise(per_image: pd.DataFrame) -> pd.DataFrame:
    """Averages and maxima over the images: `kind, level, method, images, psnr_mean, psnr_max, ssim_mean, ssim_max`."""
    groups = per_image.groupby(["kind", "level", "method"], observed=True)
    return groups.agg(
        images=("image", "size"),
        psnr_mean=("psnr", "mean"),
        psnr_max=("psnr", "max"),
        ssim_mean=("ssim", "mean"),
        ssim_max=("ssim", "max"),
    ).reset_index()


class _Evaluator:
    """Evaluates one photo at a time; Ray Data keeps it in an actor, with the generator loaded once."""

    def __init__(self, denoiser: Folder, noise: NoiseConfig, pictured: set[str], device: str) -> None:
        generator, _ = load_denoiser(denoiser)
        self.device = torch.device(device)
        self.generator = generator.to(self.device)
        self.noise = noise
        self.pictured = pictured

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
        name, pixels = str(batch["name"][0]), np.array(batch["pixels"][0])
        clean = to_unit_range(torch.from_numpy(pixels).permute(2, 0, 1)[None], "cpu")
        rows: dict[str, list[Any]] = {}
        for kind in self.noise.kinds:
            for level in LEVELS:
                intensity = torch.tensor([level_intensity(self.noise.range_of(kind), level)])
                key = (zlib.crc32(name.encode()), self.noise.kinds.index(kind), LEVELS.index(level))
                noisy = add_noise(clean, [kind], intensity, torch_generator("evaluation noise", *key))
                results = {"noisy": noisy, **{method: run(noisy) for method, run in CLASSICAL.items()}}
                results["raygan"] = denoise(self.generator, noisy.to(self.device)).cpu()
                picture = level == "mean" and name in self.pictured
                for method, denoised in results.items():
                    last = picture and method == "raygan"
                    row = {
                        "image": name,
                        "kind": kind,
                        "level": level,
                        "method": method,
                        "psnr": psnr(clean.double(), denoised.double()).item(),
                        "ssim": ssim(clean.double(), denoised.double()).item(),
                        "picture_name": f"{name.replace('/', '-').rpartition('.')[0]}-{kind}.png" if last else "",
                        "picture": _side_by_side([clean, *results.values()]) if last else b"",
                    }
                    for column, value in row.items():
                        rows.setdefault(column, []).append(value)
        return rows


def _side_by_side(images: list[Tensor]) -> bytes:
    joined = torch.cat(images, dim=3)[0].permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray((joined.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(file, "PNG")
    return file.getvalue()
