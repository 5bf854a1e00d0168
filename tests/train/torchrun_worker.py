"""What `test_workers.py` runs under torchrun: one training worker, whose rank 0 keeps the last epoch's checkpoint."""

import json
import os
import shutil
import sys
from pathlib import Path

import torch

from raygan.config.run import Config
from raygan.data.crops import CachedCrops, Photos, validation_crops
from raygan.data.samples import dead_leaves
from raygan.train.loop import Place, train


def main() -> None:
    output = Path(sys.argv[1])
    config = Config.from_json(json.loads((output / "config.json").read_text()))
    place = Place(rank=int(os.environ["RANK"]), workers=int(os.environ["WORLD_SIZE"]))
    if place.workers > 1:
        torch.distributed.init_process_group("gloo")
    photos = Photos([str(index) for index in range(8)], [dead_leaves(96, 0, index) for index in range(8)])
    crops = CachedCrops(photos, config.data, config.training, rank=place.rank, workers=place.workers)

    def keep(metrics: dict[str, float], checkpoint: Path | None) -> None:
        if checkpoint is not None:
            shutil.copytree(checkpoint, output / f"epoch-{metrics['epoch']}")

    train(config, crops, validation_crops(photos, config.data), None, keep, place=place)
    if place.workers > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
