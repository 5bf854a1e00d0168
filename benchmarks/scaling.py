"""What a second training worker gains: `python benchmarks/scaling.py`.

The paper's networks at full size, with the pixels' squared error, and one thread per worker. "Two runs at once" are
independent: what they lose compared to one run is due to the machine (memory bandwidth, clock), not to communication.
torchrun starts the same loop without Ray.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import torch

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.crops import CachedCrops, validation_crops
from raygan.data.photos import Photos, TrainingPhotos
from raygan.data.samples import dead_leaves
from raygan.presets import PAPER_V1
from raygan.storage import Folder
from raygan.train.cluster import resolved_device, share_photos, start_ray
from raygan.train.driver import Job, Run, epochs_with_workers
from raygan.train.loop import Epoch, Worker, train

BASE: dict[str, Any] = {
    "loss/content": "MeanSquaredError",
    "training/precision": "bfloat16",
    "training/steps_per_epoch": 6,
    "training/epochs": 3,
    "data/val_crops": 2,
    "hardware/cpus_per_worker": 1,
}


def images_per_second(job: Job, config: Config, name: str) -> float:
    """Images per second of RayGAN's training on Ray Train's workers."""
    return images_per_second_of(config, epochs_with_workers(Run(job, name, config, {})))


def images_per_second_of(config: Config, epochs: Iterable[Epoch]) -> float:
    """Images per second in the fastest epoch after the first."""
    images = config.training.batch_size * BASE["training/steps_per_epoch"]
    return float(images / min([epoch.metrics["train_seconds"] for epoch in epochs][1:]))


def few_photos() -> Photos:
    """The photos that all rows train on."""
    return Photos([str(index) for index in range(16)], [dead_leaves(320, 0, index) for index in range(16)])


def with_torchrun(workers: int) -> float:
    """Images per second of the same loop under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(workers), __file__, "worker"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.split()[-1])


def torchrun_worker() -> None:
    """One of torchrun's processes; the first prints images per second."""
    cuda = torch.cuda.is_available()
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    rank, workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
    config = with_values(PAPER_V1, BASE | {"hardware/workers": workers})
    photos = few_photos()
    worker = Worker(rank, workers, torch.device(f"cuda:{rank}" if cuda else "cpu"))
    crops = CachedCrops(photos, config.data, config.training, rank=rank, workers=workers)
    found = images_per_second_of(config, train(config, crops, validation_crops(photos, config.data), {}, worker=worker))
    if rank == 0:
        print(found)
    torch.distributed.destroy_process_group()


def main() -> None:
    """Print the table."""
    start_ray()
    config = resolved_device(with_values(PAPER_V1, BASE))
    photos = few_photos()
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Folder(folder), share_photos(TrainingPhotos(photos, photos)), {})
        one = images_per_second(job, config, "one")
        with ThreadPoolExecutor(2) as pool:
            at_once = list(pool.map(lambda name: images_per_second(job, config, name), ("first", "second")))
        shared = images_per_second(job, with_values(config, {"hardware/workers": 2}), "shared")
        larger = images_per_second(
            job, with_values(config, {"hardware/workers": 2, "training/batch_size": 16}), "larger"
        )
    rows = [
        ("1 worker, batch 8", one),
        ("two runs at once, batch 8 each", sum(at_once)),
        ("2 workers, batch 8 together", shared),
        ("2 processes of torchrun, batch 8 together", with_torchrun(2)),
        ("2 workers, batch 16 together", larger),
    ]
    print(f"device {config.hardware.device}, {ray.cluster_resources().get('CPU', 0):.0f} cores")
    print("| | images/s | ratio to twice 1 worker | ratio to two runs at once |\n|---|---|---|---|")
    for name, speed in rows:
        print(f"| {name} | {speed:.2f} | {speed / one / 2:.2f} | {speed / sum(at_once):.2f} |")


if __name__ == "__main__":
    torchrun_worker() if sys.argv[1:] == ["worker"] else main()
