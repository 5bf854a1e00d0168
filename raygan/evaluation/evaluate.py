"""Evaluation: a denoiser on a set of photos, beside the noisy input and classical filters.

PSNR and SSIM are computed in double precision on the images as they are; nothing is rounded to 8 bits. Where VGG19's
weights are at hand, so is `raygan.metrics.vgg_distance`, in theirs.
"""

from __future__ import annotations

import io
import itertools
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raygan.evaluation.classical import filtered, filters_named
from raygan.config.run import Config, NoiseConfig
from raygan.data.crops import to_unit_range
from raygan.noise.noise import LEVELS, Level, add_noise, level_intensity
from raygan.data.photos import evaluation_photos
from raygan.evaluation.unseen_noise import UNSEEN, add_unseen_noise, unseen_intensity
from raygan.inference.tiles import denoise
from raygan.errors import InputError
from raygan.losses import Vgg19, read_vgg19_weights
from raygan.metrics import colour_drift, psnr, ssim, vgg_distance
from raygan.progress import time_left
from raygan.config.section import with_values
from raygan.seeds import torch_generator
from raygan.study.storage import Folder
from raygan.train.checkpoint import load_denoiser

if TYPE_CHECKING:
    from ray.data import Dataset

PICTURES = 4
"""Photos, the first by name, of which before/after pictures are kept."""
SETS = ("training", "validation", "evaluation")
COLUMNS = (
    *("image", "set", "kind", "level", "intensity", "method"),
    *("psnr", "ssim", "colour_drift", "vgg_distance", "seconds", "picture"),
)
BEST = {"psnr": "max", "ssim": "max", "colour_drift": "min", "vgg_distance": "min"}
"""Which of several images' scores is the best, by measure."""
MEAN_ONLY: tuple[Level, ...] = ("mean",)
Noise = NoiseConfig | None
"""What to add: a configuration's kinds, or, for none, those of `raygan.evaluation.unseen_noise`, which nobody trains on."""
Task = tuple[Noise, Mapping[str, Folder]]
"""A noise to remove, and the denoisers, by name, that are to remove it."""


class LevelError(InputError):
    """A level of noise that is not there."""


def evaluate(
    photos: Dataset,
    denoisers: Mapping[str, Folder],
    noise: Noise,
    asked: dict[str, float],
    actors: int,
    vgg19_weights: dict[str, Tensor] | None = None,
    filters: Sequence[str] = ("median",),
    levels: Sequence[Level] = LEVELS,
) -> Iterator[list[dict[str, Any]]]:
    """Evaluate denoisers on photos by a Ray Data job; yields each photo's rows as they are done.

    `photos` has rows of `name`, `pixels` and `set` (see `raygan.data.photos.evaluation_photos`), `denoisers` are
    folders of checkpoints by name, `filters` names of `raygan.evaluation.classical.FILTERS`, and `noise` says which kinds to add:
    at the intensities `levels` to the set "evaluation", at the mean to others. `actors` actors of `asked` resources
    each hold the generators. A photo's noise depends on its name, the kind and the level alone. With `vgg19_weights`
    (see `raygan.losses.read_vgg19_weights`), rows have a `vgg_distance` too. `tabulate` makes a table of the rows.
    """
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    labels = photos.select_columns(["name", "set"]).take_all()
    names = sorted(row["name"] for row in labels if row["set"] == "evaluation")
    results = photos.map_batches(
        _Evaluator,
        fn_constructor_args=(
            denoisers,
            noise,
            set(names[:PICTURES]),
            torch.device("cuda" if "GPU" in asked else "cpu"),
            vgg19_weights,
            filters,
            levels,
        ),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=asked["CPU"],
        num_gpus=asked.get("GPU", 0),
    )
    for _, rows in itertools.groupby(results.iter_rows(), key=lambda row: (row["set"], row["image"])):
        yield list(rows)


def tabulate(
    photos: Iterable[list[dict[str, Any]]],
    noise: Noise,
    denoisers: Sequence[str],
    filters: Sequence[str] = ("median",),
) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """What `evaluate` yields as a table, sorted, and the pictures by file name.

    The table has a row per image, kind, level and method (`noisy`, the classical filters, and each denoiser's name),
    and the columns `COLUMNS`, without `vgg_distance` where the rows have none; `seconds` is what the method took.
    Pictures are PNG files: clean, noisy, and each method's result side by side, at the mean intensity; `picture` names
    the file that shows a row.
    """
    rows = [row for part in photos for row in part]
    pictures = {row["picture"]: row["png"] for row in rows if row["png"]}
    table = pd.DataFrame(rows, columns=[column for column in COLUMNS if column in rows[0]])
    methods = ["noisy", *filters, *denoisers]
    for column, order in (("set", SETS), ("kind", list(_kinds(noise))), ("level", LEVELS), ("method", methods)):
        table[column] = pd.Categorical(table[column], order)
    table = table.sort_values(["set", "image", "kind", "level", "method"], ignore_index=True)
    return table.astype(dict.fromkeys(("set", "kind", "level", "method"), "str")), pictures


def summarise(per_image: pd.DataFrame) -> pd.DataFrame:
    """Each measure's average and best value over each set's images.

    `per_image` has the rows of `tabulate`, and in `task` the number of the noise that was to be removed. The result has
    the columns `task, set, kind, level, intensity, method, images, psnr_mean, psnr_max, ssim_mean, ssim_max`, the like
    of other measures that there are, which are the better the lower, and `seconds_mean` where there are seconds. Where
    the evaluation photos lie in several folders, each of them is a set too, "evaluation/<folder>".
    """
    parts = [per_image]
    evaluated = per_image[per_image["set"] == "evaluation"]
    folders = evaluated["image"].str.rpartition("/")[0]
    if folders.nunique() > 1:
        parts.append(evaluated.assign(set="evaluation/" + folders))
    groups = pd.concat(parts).groupby(["task", "set", "kind", "level", "intensity", "method"], sort=False)
    measured = {
        f"{measure}_{statistic}": (measure, statistic)
        for measure, best in BEST.items()
        if measure in per_image
        for statistic in ("mean", best)
    }
    seconds = {"seconds_mean": ("seconds", "mean")} if "seconds" in per_image else {}
    return groups.agg(**{"images": ("image", "size"), **measured, **seconds}).reset_index()


def write_evaluation(
    photos: Dataset,
    source: str,
    tasks: Sequence[Task],
    config: Config,
    vgg19_weights: dict[str, Tensor] | None,
    folder: Folder,
    filters: Sequence[str] = ("median",),
    levels: Sequence[Level] = LEVELS,
) -> pd.DataFrame:
    """Evaluate on the running cluster, and write `per_image.csv`, `summary.csv` and `pictures/`; returns the summary.

    `photos` are those of `evaluate`, from `source`; `config` says what one evaluating process asks the cluster for.
    """
    import ray

    from raygan.train.cluster import resources, trials_at_once

    counts = Counter(row["set"] for row in photos.select_columns(["set"]).iter_rows())
    count = counts.total()
    actors = min(trials_at_once(config), count)
    tables = []
    for index, (noise, denoisers) in enumerate(tasks):
        what = "the denoiser" if list(denoisers) == ["raygan"] else f"{len(denoisers)} denoisers"
        at = "three levels" if len(levels) == len(LEVELS) else f"{', '.join(levels)} intensity"
        print(f"\nEvaluation of {what}: {count} photos, each noise kind, at {at} on {source}")
        # As a Ray task, so that the job runs, and writes its logs, on the cluster.
        run = ray.remote(num_cpus=0, num_returns="streaming")(evaluate)
        done = run.remote(photos, denoisers, noise, resources(config), actors, vgg19_weights, filters, levels)
        table, pictures = tabulate(_shown(map(ray.get, done), counts), noise, list(denoisers), filters)
        table.insert(0, "task", index)
        table["picture"] = table["picture"].map(lambda name, index=index: f"{index}-{name}" if name else "")
        tables.append(table)
        for name, png in pictures.items():
            folder.write(f"pictures/{index}-{name}", png)
    table = pd.concat(tables, ignore_index=True)
    summary = summarise(table)
    folder.write("per_image.csv", table.to_csv(index=False))
    folder.write("summary.csv", summary.to_csv(index=False))
    return summary


def evaluate_checkpoints(
    checkpoints: Sequence[str],
    evaluate_on: str,
    output: str,
    filters: Sequence[str],
    levels: Sequence[Level],
    vgg19: str | None,
    *,
    unseen: bool = False,
) -> pd.DataFrame:
    """Compare denoisers with each other, the noisy input and classical filters, into `output`; returns the summary.

    `checkpoints` are folders such as STUDY/best, or s3:// gs:// prefixes; the noise is what the first removes, or else
    `unseen`. `evaluate_on` is as `DataConfig.evaluate_on`. Raises what `evaluation_photos`, `read_vgg19_weights` and
    `load_denoiser` raise.
    """
    from raygan.train.cluster import resolved_device, start_ray

    chosen = filters_named(filters)
    if unknown := set(levels) - set(LEVELS):
        raise LevelError(f"there is no level {', '.join(sorted(unknown))}; there are {', '.join(LEVELS)}")
    folders = {"raygan" if len(checkpoints) == 1 else path: Folder(path) for path in checkpoints}
    configs = [load_denoiser(folder)[1] for folder in folders.values()]
    weights = read_vgg19_weights(Path(vgg19)) if vgg19 else None
    Folder(output).require_writable()
    start_ray()
    config = resolved_device(with_values(configs[0], {"hardware/device": "auto", "hardware/workers": 1}))
    photos = evaluation_photos(evaluate_on)
    tasks: list[Task] = [(None if unseen else config.noise, folders)]
    return write_evaluation(photos, evaluate_on, tasks, config, weights, Folder(output), chosen, levels)


def _shown(photos: Iterable[list[dict[str, Any]]], counts: Mapping[str, int]) -> Iterator[list[dict[str, Any]]]:
    """What the evaluation job yields, showing now and then how far it is; `counts` are the photos of each set.

    Each set has a pace of its own: evaluation photos are whole, and at all levels, the others' crops at one.
    """
    left = Counter(counts)
    taken: dict[str, list[float]] = {part: [] for part in counts}
    last = shown = 0.0
    for rows in photos:
        now, part = time.monotonic(), rows[0]["set"]
        left[part] -= 1
        # The first waited for the actors to start.
        if last:
            taken[part].append(now - last)
        last, shown = now, shown or now
        if now - shown > 20 or not left.total():
            shown = now
            paced = sum(left[one] * sum(seconds) / len(seconds) for one, seconds in taken.items() if seconds)
            told = [time_left(paced)] if paced or not left.total() else []
            told += [f"{count} of {one} not timed yet" for one, count in left.items() if count and not taken[one]]
            total = sum(counts.values())
            print(f"evaluation {total - left.total()}/{total} photos   [{', '.join(told)}]")
        yield rows


class _Evaluator:
    """Evaluates one photo at a time; Ray Data keeps it in an actor, with the generators loaded once."""

    def __init__(
        self,
        denoisers: Mapping[str, Folder],
        noise: Noise,
        pictured: set[str],
        device: torch.device,
        vgg19_weights: dict[str, Tensor] | None,
        filters: Sequence[str],
        levels: Sequence[Level],
    ) -> None:
        self.device = device
        self.vgg19 = Vgg19(vgg19_weights).to(device) if vgg19_weights is not None else None
        self.generators = {
            name: load_denoiser(folder)[0].to(self.device).to(memory_format=torch.channels_last)
            for name, folder in denoisers.items()
        }
        self.noise = noise
        self.pictured = pictured
        self.filters = filters
        self.levels = levels

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
        name, part, pixels = str(batch["name"][0]), str(batch["set"][0]), np.array(batch["pixels"][0])
        clean = to_unit_range(torch.from_numpy(pixels).permute(2, 0, 1)[None], "cpu")
        rows: dict[str, list[Any]] = {}
        for number, kind in enumerate(_kinds(self.noise)):
            for level in self.levels if part == "evaluation" else MEAN_ONLY:
                key = (zlib.crc32(name.encode()), number, LEVELS.index(level))
                noisy, intensity = _noisy(clean, self.noise, kind, level, torch_generator("evaluation noise", *key))
                results, seconds = self._denoised(noisy)
                distances = self._vgg_distances(clean, list(results.values()))
                picture = part == "evaluation" and level == "mean" and name in self.pictured
                file = f"{name.replace('/', '-').rpartition('.')[0]}-{kind}-{intensity:g}.png"
                for index, (method, denoised) in enumerate(results.items()):
                    first = picture and method == "noisy"
                    row = {
                        "image": name,
                        "set": part,
                        "kind": kind,
                        "level": level,
                        "intensity": intensity,
                        "method": method,
                        "psnr": psnr(clean.double(), denoised.double()).item(),
                        "ssim": ssim(clean.double(), denoised.double()).item(),
                        "colour_drift": colour_drift(clean.double(), denoised.double()).item(),
                        **({"vgg_distance": distances[index]} if distances else {}),
                        "seconds": seconds[method],
                        "picture": file if picture else "",
                        "png": _side_by_side([clean, *results.values()]) if first else b"",
                    }
                    for column, value in row.items():
                        rows.setdefault(column, []).append(value)
        return rows

    def _denoised(self, noisy: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Each method's result for an image, and the seconds that it took, with the way to the device and back."""
        results, seconds = {"noisy": noisy}, {"noisy": 0.0}
        for method in (*self.filters, *self.generators):
            started = time.perf_counter()
            if method in self.generators:
                results[method] = denoise(self.generators[method], noisy.to(self.device)).cpu()
            else:
                results[method] = filtered(method, noisy)
            seconds[method] = time.perf_counter() - started
        return results, seconds

    def _vgg_distances(self, clean: Tensor, results: list[Tensor]) -> list[float]:
        """Of each result to the clean photo; none without weights."""
        if self.vgg19 is None:
            return []
        with torch.inference_mode():
            images = torch.cat(results).to(self.device)
            distances: list[float] = vgg_distance(clean.to(self.device), images, self.vgg19).tolist()
        return distances


def _kinds(noise: Noise) -> Sequence[str]:
    return tuple(UNSEEN) if noise is None else noise.kinds


def _noisy(clean: Tensor, noise: Noise, kind: Any, level: Level, stream: torch.Generator) -> tuple[Tensor, float]:
    """A photo with noise of a kind and level, and the intensity that this is."""
    if noise is None:
        return add_unseen_noise(clean, kind, level, stream), unseen_intensity(kind, level)
    intensity = level_intensity(noise.range_of(kind), level)
    return add_noise(clean, [kind], torch.tensor([intensity]), [stream]), intensity


def _side_by_side(images: list[Tensor]) -> bytes:
    joined = torch.cat(images, dim=3)[0].permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray((joined.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(file, "PNG")
    return file.getvalue()
