"""What an epoch costs as photos grow in number: `python benchmarks/growth.py`.

The networks of `--quick`, epochs of 40 steps, on 50, 200 and 800 photos of 320×320, in memory and streamed; and what
reading them takes, once, before training. For trials see `scale.py`, for workers `scaling.py`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from PIL import Image
from timing import machine, show

from raygan.config.section import with_values
from raygan.data.photos import Photos, training_photos
from raygan.data.samples import dead_leaves
from raygan.presets import PAPER_V1, quick
from raygan.storage import Folder
from raygan.train.cluster import photo_memory, resolved_device, share_photos, start_ray
from raygan.train.driver import Job, Run, epochs_with_workers

COUNTS = (50, 200, 800)
VALUES = {"training/steps_per_epoch": 40, "training/epochs": 3, "data/val_crops": 4}


def main() -> None:
    """Print the table."""
    start_ray()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        images = [dead_leaves(320, 0, index) for index in range(50)]
        for count in COUNTS:
            folder = Path(scratch) / str(count)
            folder.mkdir()
            for index in range(count):
                # Copies of a photo are skipped: shifted, each is a photo of its own.
                shifted = np.roll(images[index % len(images)], 8 * (index // len(images)), axis=1)
                Image.fromarray(shifted).save(folder / f"{index:04d}.jpg", quality=90)
            for cache in ("memory", "stream"):
                values = VALUES | {"data/photos": str(folder), "data/cache": cache, "data/train_photos": count}
                config = resolved_device(with_values(quick(PAPER_V1), values))
                started = time.perf_counter()
                photos = training_photos(config.data, photo_memory())
                reading = time.perf_counter() - started
                job = Job(Folder(f"{scratch}/{count}-{cache}"), share_photos(photos), {})
                seconds = [epoch.metrics["train_seconds"] for epoch in epochs_with_workers(Run(job, "run", config, {}))]
                kept = "in memory" if isinstance(photos.train, Photos) else "streamed"
                rows.append((count, kept, reading, min(seconds[1:])))
    show(
        f"Growth: epochs of 40 steps of 16 crops ({machine()})",
        ("photos", "kept", "reading, s", "an epoch, s", "ratio to the fewest"),
        [(*row, row[-1] / rows[index % 2][-1]) for index, row in enumerate(rows)],
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
