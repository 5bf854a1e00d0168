from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raygan.config.run import Config
from raygan.data.crops import validation_crops
from raygan.data.photos import Photos
from raygan.data.samples import dead_leaves
from raygan.storage import Folder
from raygan.train.logging import RunLog, before_and_after


def opened(folder: Path, epochs_done: int = 0) -> RunLog:
    return RunLog(Folder(folder), "run", {"loss/content_weight": 0.25, "generator": "UNet"}, epochs_done)


def add_steps(log: RunLog, epoch: int, *losses: float) -> None:
    log.add_steps(epoch, ["loss"], torch.tensor(losses, dtype=torch.float64)[:, None])


def steps(folder: Path) -> dict[Any, list[Any]]:
    return pd.read_csv(folder / "steps" / "run.csv").to_dict("list")


def test_steps_are_numbered_over_epochs_and_resuming_drops_those_that_do_not_count(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for epoch, losses in {1: (0.5, 0.25), 2: (1e-9, 3), 3: (4, 5)}.items():
        add_steps(log, epoch, *losses)
    log.close()
    resumed = opened(tmp_path, epochs_done=1)
    add_steps(resumed, 2, 20, 30)
    resumed.close()
    assert steps(tmp_path) == {"epoch": [1, 1, 2, 2], "step": [1, 2, 3, 4], "loss": [0.5, 0.25, 20, 30]}
    anew = opened(tmp_path)
    add_steps(anew, 1, 7)
    anew.close()
    assert steps(tmp_path) == {"epoch": [1], "step": [1], "loss": [7]}


def test_tensorboard_has_scalars_hyperparameters_and_the_pictures_of_the_best_epoch(
    tiny_config: Config, tmp_path: Path
) -> None:
    leaves = Photos(["0", "1"], [dead_leaves(96, 0, index) for index in range(2)])
    crops = validation_crops(leaves, tiny_config.data)
    pictures = before_and_after(torch.nn.Identity(), crops, tiny_config, torch.device("cpu"))
    # Three crops of 64 pixels, beside each other noisy, denoised (as it is: by nothing) and clean.
    assert {name: tuple(picture.shape) for name, picture in pictures.items()} == {
        noise.key: (3, 192, 192) for noise in tiny_config.noises
    }
    for picture in pictures.values():
        noisy, denoised, clean = picture.split(64, dim=2)
        assert torch.equal(noisy, denoised)
        assert torch.equal(clean[:, :64], crops.photos[0] / 255)

    log = opened(tmp_path)
    log.add_epoch({"epoch": 1, "best_epoch": 1, "val_psnr": 20.0}, pictures)
    before = (tmp_path / "pictures" / "run.png").read_bytes()
    log.add_epoch({"epoch": 2, "best_epoch": 1, "val_psnr": 19.0}, {name: 0 * one for name, one in pictures.items()})
    log.close()
    assert (tmp_path / "pictures" / "run.png").read_bytes() == before
    with Image.open(tmp_path / "pictures" / "run.png") as image:
        pixels = np.asarray(image)
    # Of each noise the first crop.
    assert pixels.shape == (192, 192, 3)
    assert np.array_equal(pixels[:64, 128:].transpose(2, 0, 1), crops.photos[0].numpy())

    events = EventAccumulator(str(tmp_path / "tensorboard" / "run"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_psnr")] == [(1, 20), (2, 19)]
    assert set(events.Tags()["images"]) == {f"{noise.key} (noisy, denoised, clean)" for noise in tiny_config.noises}
    session = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"loss/content_weight" in session
    assert b"UNet" in session
