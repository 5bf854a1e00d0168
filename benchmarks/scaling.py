"""What a second training worker gains: `python benchmarks/scaling.py`.

The paper's networks at full size, the pixels' squared error, one thread a worker. "Two runs at once" have nothing to do
with each other: what they lose against one run is the machine's (memory bandwidth, clock), not communication. torchrun
starts the same loop without Ray.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import torch

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.crops import CachedCrops, Photos, validation_crops
from raygan.data.photos import TrainingPhotos
from raygan.data.samples import dead_leaves
from raygan.presets import PAPER_V1
from raygan.train.cluster import resolved_device, share_photos, start_ray
from raygan.train.driver import Job, train_with_workers
from raygan.train.loop import Place, train

BASE: dict[str, Any] = {
    "loss/content": "mse",
    "training/precision": "bfloat16",
    "training/steps_per_epoch": 6,
    "training/epochs": 3,
    "data/val_crops": 2,
    "hardware/cpus_per_worker": 1,
}


def images_a_second(job: Job, config: Config, name: str) -> float:
    """Of RayGAN's training on Ray Train's workers."""
    epochs: list[dict[str, float]] = []
    train_with_workers(job, config, name, {}, epochs.append)
    return images_a_second_of(config, epochs)


def images_a_second_of(config: Config, epochs: list[dict[str, float]]) -> float:
    """The fastest epoch's, of those after the first."""
    images = config.training.batch_size * BASE["training/steps_per_epoch"]
    return float(images / min(epoch["train_seconds"] for epoch in epochs[1:]))


def few_photos() -> Photos:
    """What all contestants train on."""
    return Photos([str(index) for index in range(16)], [dead_leaves(320, 0, index) for index in range(16)])


def with_torchrun(workers: int) -> float:
    """Images a second of the same loop under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(workers), __file__, "worker"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.split()[-1])


def torchrun_worker() -> None:
    """One of torchrun's processes; the first prints images a second."""
    cuda = torch.cuda.is_available()
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    rank, workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
    config = with_values(PAPER_V1, BASE | {"hardware/workers": workers})
    photos = few_photos()
    epochs: list[dict[str, float]] = []
    train(
        config,
        CachedCrops(photos, config.data, config.training, rank=rank, workers=workers),
        validation_crops(photos, config.data),
        None,
        lambda metrics, _: epochs.append(metrics),
        place=Place(device=torch.device(f"cuda:{rank}" if cuda else "cpu"), rank=rank, workers=workers),
    )
    if rank == 0:
        print(images_a_second_of(config, epochs))
    torch.distributed.destroy_process_group()


def main() -> None:
    """Print the table."""
    start_ray()
    config = resolved_device(with_values(PAPER_V1, BASE))
    photos = few_photos()
    with tempfile.TemporaryDirectory() as folder:
        job = Job(config, share_photos(TrainingPhotos(photos, photos)), {}, folder)
        one = images_a_second(job, config, "one")
        with ThreadPoolExecutor(2) as pool:
            at_once = list(pool.map(lambda name: images_a_second(job, config, name), ("first", "second")))
        shared = images_a_second(job, with_values(config, {"hardware/workers": 2}), "shared")
        larger = images_a_second(job, with_values(config, {"hardware/workers": 2, "training/batch_size": 16}), "larger")
    rows = [
        ("1 worker, batch 8", one),
        ("two runs at once, batch 8 each", sum(at_once)),
        ("2 workers, batch 8 together", shared),
        ("2 processes of torchrun, batch 8 together", with_torchrun(2)),
        ("2 workers, batch 16 together", larger),
    ]
    print(f"device {config.hardware.device}, {ray.cluster_resources().get('CPU', 0):.0f} cores")
    print("| | images/s | against twice 1 worker | against two runs at once |\n|---|---|---|---|")
    for name, speed in rows:
        print(f"| {name} | {speed:.2f} | {speed / one / 2:.2f} | {speed / sum(at_once):.2f} |")


if __name__ == "__main__":
    torchrun_worker() if sys.argv[1:] == ["worker"] else main()
