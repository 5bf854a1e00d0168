"""What `test_workers.py` runs under torchrun: one training worker, whose rank 0 keeps the checkpoints."""

import json
import os
import sys
from pathlib import Path

import torch

from raygan.config.run import Config
from raygan.data.crops import CachedCrops, validation_crops
from raygan.data.photos import Photos
from raygan.data.samples import dead_leaves
from raygan.storage import Folder
from raygan.train.loop import RunRecord, Worker, train


def main() -> None:
    output = Path(sys.argv[1])
    config = Config.from_json(json.loads((output / "config.json").read_text()))
    worker = Worker(rank=int(os.environ["RANK"]), workers=int(os.environ["WORLD_SIZE"]))
    if worker.workers > 1:
        torch.distributed.init_process_group("gloo")
    photos = Photos([str(index) for index in range(8)], [dead_leaves(96, 0, index) for index in range(8)])
    crops = CachedCrops(photos, config.data, config.training, rank=worker.rank, workers=worker.workers)
    val_crops = validation_crops(photos, config.data)
    epochs = list(train(config, crops, val_crops, {}, worker=worker, record=RunRecord(Folder(output), "run")))
    (output / f"epochs-{worker.rank}.json").write_text(json.dumps([epoch.metrics for epoch in epochs]))
    if worker.workers > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
