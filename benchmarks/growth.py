"""What an epoch costs as photos grow in number: `python benchmarks/growth.py`.

The networks of `--quick`, epochs of 40 steps, on 50, 200 and 800 photos of 320×320, in memory and streamed; and what
reading them takes, once, before training. For trials see `scale.py`, for workers `scaling.py`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import ray
from PIL import Image
from timing import machine, show

from raygan.config.section import with_values
from raygan.data.crops import Photos
from raygan.data.photos import training_photos
from raygan.data.samples import dead_leaves
from raygan.presets import PAPER_V1, QUICK
from raygan.train.cluster import photo_memory, resolved_device, share_photos, start_ray
from raygan.train.driver import Job, train_with_workers

COUNTS = (50, 200, 800)
VALUES = QUICK | {"training/steps_per_epoch": 40, "training/epochs": 3, "data/val_crops": 4}


def main() -> None:
    """Print the table."""
    start_ray()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        images = [dead_leaves(320, 0, index) for index in range(50)]
        for count in COUNTS:
            folder = Path(place) / str(count)
            folder.mkdir()
            for index in range(count):
                Image.fromarray(images[index % len(images)]).save(folder / f"{index:04d}.jpg", quality=90)
            for cache in ("memory", "stream"):
                values = VALUES | {"data/photos": str(folder), "data/cache": cache, "data/train_photos": count}
                config = resolved_device(with_values(PAPER_V1, values))
                started = time.perf_counter()
                photos = training_photos(config.data, photo_memory())
                reading = time.perf_counter() - started
                job = Job(config, share_photos(photos), {}, f"{place}/{count}-{cache}")
                epochs: list[dict[str, float]] = []
                train_with_workers(job, config, "run", {}, epochs.append)
                kept = "in memory" if isinstance(photos.train, Photos) else "streamed"
                rows.append((count, kept, reading, min(epoch["train_seconds"] for epoch in epochs[1:])))
    show(
        f"Growth: epochs of 40 steps of 16 crops ({machine()})",
        ("photos", "kept", "reading, s", "an epoch, s", "against the fewest"),
        [(*row, row[-1] / rows[index % 2][-1]) for index, row in enumerate(rows)],
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
