"""Photos to crops: RayGAN's two ways against torch's DataLoader, with as many processes: `python benchmarks/crops.py`.

Photos of 640×480 as JPEG, crops of 256×256 in batches of 8, nothing done with them. "Decoding alone" is the limit of
reading the photos again in every epoch: Pillow decodes all of them, and the time is divided by the cores.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timing import machine, show
from torch.utils.data import DataLoader, Dataset

from raygan.config.run import MAX_MEGAPIXELS
from raygan.config.section import with_values
from raygan.data.crops import CachedCrops, CropSource, StreamedCrops
from raygan.data.photos import StoredPhotos, decode_photo, training_photos
from raygan.data.samples import dead_leaves
from raygan.presets import PAPER_V1
from raygan.storage import Folder
from raygan.train.cluster import photo_memory, start_ray

PHOTOS, DISTINCT, EPOCHS = 768, 24, 16
CORES = os.cpu_count() or 1


class PlainCrops(Dataset[torch.Tensor]):
    """The usual dataset."""

    def __init__(self, files: list[Path], size: int) -> None:
        self.files = files
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        pixels = np.asarray(Image.open(self.files[index]).convert("RGB"))
        top = np.random.randint(pixels.shape[0] - self.size + 1)
        left = np.random.randint(pixels.shape[1] - self.size + 1)
        return torch.from_numpy(pixels[top : top + self.size, left : left + self.size].copy()).permute(2, 0, 1)


def write_photos(folder: Path) -> list[Path]:
    """Files of `DISTINCT` images, each several times, but shifted: copies of a photo are skipped."""
    images: list[NDArray[np.uint8]] = [dead_leaves(640, 0, index)[:480] for index in range(DISTINCT)]
    files = []
    for index in range(PHOTOS):
        files.append(folder / f"{index:04d}.jpg")
        shifted = np.roll(images[index % DISTINCT], 8 * (index // DISTINCT), axis=1)
        Image.fromarray(shifted).save(files[-1], quality=90)
    return files


def crops_per_second(epoch: Callable[[int], Iterable[torch.Tensor]]) -> float:
    """Crops per second after the first epoch: of all others together, since a pipeline may read ahead of some."""
    sum(len(batch) for batch in epoch(1))
    started = time.perf_counter()
    count = sum(len(batch) for number in range(2, EPOCHS + 1) for batch in epoch(number))
    return count / (time.perf_counter() - started)


def main() -> None:
    """Print the table."""
    values = {"training/steps_per_epoch": None, "training/epochs": EPOCHS, "hardware/reading_cpus_per_worker": CORES}
    config = with_values(PAPER_V1, values)
    with tempfile.TemporaryDirectory() as scratch:
        files = write_photos(Path(scratch))
        folder, names = Folder(scratch), [file.name for file in files]
        started = time.perf_counter()
        for name in names:
            decode_photo(folder, name, 1, MAX_MEGAPIXELS)
        limit = len(names) / ((time.perf_counter() - started) / CORES)
        loader = DataLoader(
            PlainCrops(files, 256), batch_size=8, shuffle=True, num_workers=CORES + 1, persistent_workers=True
        )
        # Before Ray starts: a DataLoader's worker that was forked from Ray's threads once hung in Pillow.
        speeds = {f"DataLoader, {CORES + 1} workers": crops_per_second(lambda _: loader)}
        start_ray()
        sources: dict[str, CropSource] = {}
        for cache in ("memory", "stream"):
            data = with_values(config, {"data/photos": scratch, "data/cache": cache, "data/val_photos": 1}).data
            photos = training_photos(data, photo_memory()).train
            if isinstance(photos, StoredPhotos):
                sources["RayGAN, streamed"] = StreamedCrops(photos, config)
            else:
                sources["RayGAN, in memory"] = CachedCrops(photos, config.data, config.training)
        speeds |= {name: crops_per_second(source.batches) for name, source in sources.items()}
    plain = next(iter(speeds.values()))
    targets = {"RayGAN, in memory": "≥ 4", "RayGAN, streamed": "≥ 1.0"}
    show(
        f"Photos to crops ({machine()})",
        ("", "crops per second", "ratio", "target", "share of decoding alone"),
        [
            (name, speed, speed / plain, targets.get(name, ""), "" if "memory" in name else f"{speed / limit:.2f}")
            for name, speed in speeds.items()
        ],
    )


if __name__ == "__main__":
    main()
