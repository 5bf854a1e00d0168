"""The evaluation job: Ray Data actors that add noise to photos, remove it by every method, and compute the metrics.

Images and metrics are float32, and nothing is rounded to 8 bits.
"""

from __future__ import annotations

import io
import itertools
import math
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from raygan.config.kinds import LEVELS, Level, Noise
from raygan.config.run import PAIRS
from raygan.data.crops import to_unit_range
from raygan.evaluation.classical import AVERAGING, filtered, undo_clipping
from raygan.evaluation.perceptual import Lpips
from raygan.inference.denoiser import SelfEnsemble, denoise_in_tiles
from raygan.metrics import BEST_PSNR, colour_drift, psnr, ssim
from raygan.noise import Gaussian, add_noise
from raygan.seeds import torch_generator

if TYPE_CHECKING:
    import ray
    from ray.data import Dataset

PICTURES = 4
"""Evaluation photos, and pairs, the first ones by name, of which before/after pictures are kept, besides the worst and
the best one for each noise."""
PICTURE = 1024
"""Longest side of an image in a picture: of larger ones, the middle is shown."""
MEAN_ONLY: tuple[Level, ...] = ("mean",)
Row = dict[str, Any]
"""A row of `raygan.evaluation.evaluate.tabulate`; `png` holds the picture, on the first of the rows that share it.

There are more pictures than are kept: each process gives those of the worst and the best photo that it has seen yet.
"""
Results = tuple[dict[str, Tensor], dict[str, float]]
"""Images and seconds, by method."""


@dataclass(frozen=True)
class EvaluationTask:
    """Noises, and the denoisers that are to remove them."""

    noises: tuple[Noise, ...]
    denoisers: Mapping[str, tuple[nn.Module, int]]
    """By name: the network, on the CPU in evaluation mode, and its stride."""
    clipped: bool = True
    """Whether noisy values below 0 and above 1 are clipped, as files clip them."""


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation computes."""

    filters: tuple[str, ...] = ("median",)
    """Names of `raygan.evaluation.classical.FILTERS`."""
    levels: tuple[Level, ...] = LEVELS
    """Levels of noise on evaluation photos; crops of training and validation photos get the mean level alone."""
    lpips: Lpips | None = None
    """Computes LPIPS as well, if given, at the mean level alone: it takes as long as a small denoiser."""
    self_ensemble: bool = False
    """Whether denoisers average over all flips and turns of the image (see `raygan.inference.denoiser`)."""
    undo_clipping: bool = False
    """Whether filters of `raygan.evaluation.classical.AVERAGING` have a second row for clipped Gaussian noise, in which
    the bias of clipping is removed, given the noise's deviation."""


def evaluate(
    photos: Dataset, task: EvaluationTask, settings: EvaluationSettings, resources: Mapping[str, float], actors: int
) -> Iterator[list[Row]]:
    """Evaluate denoisers on photos in a Ray Data job; yields the rows of each photo as it is done.

    `photos` has rows of `name`, `pixels` and `set` (see `raygan.data.photos.evaluation_photos`, and, for pairs,
    `raygan.data.pairs.evaluation_pairs`). Each of the `actors` takes `resources` (CPU, GPU) and holds all generators.
    The noise on a photo depends on its name, the noise's key and the level alone. A generator's input is on the GPU if
    there is one; all else is computed on the CPU.
    """
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    labels = photos.select_columns(["name", "set"]).take_all()
    shown = [sorted(row["name"] for row in labels if row["set"] == part) for part in ("evaluation", PAIRS)]
    # Names of files may be too long or become the same: a number comes first.
    names = dict.fromkeys(itertools.chain.from_iterable(shown))
    pictures = {name: f"{number}-{PurePath(name).stem[:60]}" for number, name in enumerate(names, start=1)}
    first = {name for part in shown for name in part[:PICTURES]}
    # The networks go to the machines, which need not have their files.
    arguments = (ray.put(task), settings, pictures, first, "cuda" if resources.get("GPU") else "cpu")
    needs = {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0)}
    pool = ray.data.ActorPoolStrategy(size=actors)
    results = photos.map_batches(_Evaluator, fn_constructor_args=arguments, batch_size=1, compute=pool, **needs)
    # Results come block by block. Prefetching would hold each back until the next one is done.
    for table in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        # Not `yield from`: Ray takes the iterator that it delegates to for a generator.
        for rows in table["rows"].to_pylist():  # noqa: UP028
            yield rows


class _Evaluator:
    """Evaluates one photo at a time."""

    def __init__(
        self,
        task: ray.ObjectRef[EvaluationTask],
        settings: EvaluationSettings,
        pictures: dict[str, str],
        first: set[str],
        device: str,
    ) -> None:
        import ray

        self.task: EvaluationTask = ray.get(task)
        self.settings = settings
        self.pictures = pictures
        """Beginnings of the names of picture files, by photo."""
        self.first = first
        """Photos whose pictures are kept whatever their scores."""
        self.extremes: dict[str, tuple[float, float]] = {}
        """The first denoiser's lowest and highest PSNR so far, by noise."""
        self.device = torch.device(device)
        self.lpips = settings.lpips.to(self.device) if settings.lpips else None
        self.generators = {name: (self._prepared(one), stride) for name, (one, stride) in self.task.denoisers.items()}

    def _prepared(self, network: nn.Module) -> nn.Module:
        if self.settings.self_ensemble:
            network = SelfEnsemble(network)
        return network.to(self.device).to(memory_format=torch.channels_last)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[list[Row]]]:
        photo = {"image": str(batch["name"][0]), "set": str(batch["set"][0])}
        image = to_unit_range(torch.from_numpy(np.array(batch["pixels"][0])).permute(2, 0, 1)[None], "cpu")
        rows = self._pair_rows(photo, image) if photo["set"] == PAIRS else self._noise_rows(photo, image)
        return {"rows": [list(rows)]}

    def _noise_rows(self, photo: Row, clean: Tensor) -> Iterator[Row]:
        """The rows of a clean photo, with each noise at each level."""
        name = photo["image"]
        levels = self.settings.levels if photo["set"] == "evaluation" else MEAN_ONLY
        for noise, level in itertools.product(self.task.noises, levels):
            intensity = noise.intensity(level)
            key = (zlib.crc32(name.encode()), zlib.crc32(noise.key.encode()), LEVELS.index(level))
            stream = torch_generator("evaluation noise", *key)
            noisy = add_noise(clean, [noise], [intensity], [stream], clip=self.task.clipped)
            kind = {"kind": noise.key, "level": level, "intensity": intensity}
            picture = ""
            if photo["set"] == "evaluation" and level == "mean":
                picture = f"{self.pictures[name]}-{noise.key}-{intensity:g}.png"
            undoes = self.settings.undo_clipping and self.task.clipped and isinstance(noise, Gaussian)
            deviation = math.sqrt(intensity) if undoes else None
            yield from self._rows(photo | kind, clean, self._results(noisy, deviation), picture)

    def _pair_rows(self, photo: Row, pair: Tensor) -> Iterator[Row]:
        """The rows of a pair, at the mean level: real noise has no known intensity."""
        clean, noisy = pair[:, :3], pair[:, 3:]
        name = photo["image"]
        picture = f"{self.pictures[name]}-{PAIRS}.png"
        kind = {"kind": PAIRS, "level": "mean", "intensity": math.nan}
        return iter(self._rows(photo | kind, clean, self._results(noisy), picture))

    def _rows(self, photo: Row, clean: Tensor, found: Results, picture: str) -> list[Row]:
        """One row per method; `picture` is the name of the photo's picture, if it may be kept."""
        results, seconds = found
        images = [clean, *results.values()]
        distances = [math.nan] * len(results)
        if self.lpips and photo["level"] == "mean":
            distances = self.lpips(clean, images[1:])
        rows = []
        for (method, denoised), distance in zip(results.items(), distances, strict=True):
            # In double precision, PSNR differs by 3e-6 dB and SSIM by 1e-7; large photos would take twice the memory.
            scores = {"psnr": psnr(clean, denoised).clamp(max=BEST_PSNR), "ssim": ssim(clean, denoised)}
            scores["colour_drift"] = colour_drift(clean, denoised)
            row = photo | {"method": method} | {name: score.item() for name, score in scores.items()}
            if self.lpips:
                row["lpips"] = distance
            rows.append(row | {"seconds": seconds[method], "picture": "", "png": b""})
        judged = next((row for row in rows if row["method"] in self.generators), rows[0])
        if picture and (self._is_extreme(judged) or photo["image"] in self.first):
            rows = [row | {"picture": picture} for row in rows]
            rows[0]["png"] = _side_by_side(images)
        return rows

    def _is_extreme(self, row: Row) -> bool:
        """Whether no photo so far has had a PSNR as low, or as high, with the row's noise."""
        lowest, highest = self.extremes.get(row["kind"], (math.inf, -math.inf))
        self.extremes[row["kind"]] = min(lowest, row["psnr"]), max(highest, row["psnr"])
        return not lowest <= row["psnr"] <= highest

    def _results(self, noisy: Tensor, clipped_deviation: float | None = None) -> Results:
        """Each method's result for an image, and the seconds it took, transfers to and from the device included.

        `clipped_deviation` is that of Gaussian noise whose clipping is to be undone.
        """
        results, seconds = {"noisy": noisy}, {"noisy": 0.0}
        for method in (*self.settings.filters, *self.generators):
            started = time.perf_counter()
            if method in self.generators:
                generator, stride = self.generators[method]
                results[method] = denoise_in_tiles(generator, noisy, stride, self.device)
            else:
                results[method] = filtered(method, noisy)
            seconds[method] = time.perf_counter() - started
            if clipped_deviation is not None and method in AVERAGING:
                unbiased = f"{method}_clipping_undone"
                results[unbiased] = undo_clipping(results[method], clipped_deviation)
                seconds[unbiased] = time.perf_counter() - started
        return results, seconds


def _side_by_side(images: list[Tensor]) -> bytes:
    """A PNG file of the middles of images."""
    parts = [_middle(image[0]) for image in images]
    file = io.BytesIO()
    image = Image.fromarray(torch.cat(parts, dim=2).permute(1, 2, 0).numpy())
    # The fastest level, since most pictures are replaced by those of worse or better photos.
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _middle(image: Tensor) -> Tensor:
    """The middle of an image, (3, H, W), in 8 bits."""
    top, left = (max(0, (side - PICTURE) // 2) for side in image.shape[1:])
    part = image[:, top : top + PICTURE, left : left + PICTURE]
    return (part.clamp(0, 1) * 255).round().to(torch.uint8)
