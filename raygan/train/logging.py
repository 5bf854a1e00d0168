"""What a run records for people: TensorBoard events, a table of its steps, and pictures."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from raygan.config.run import PAIRS, Config
from raygan.data.crops import ValidationCrops
from raygan.storage import Folder
from raygan.train.validation import noisy_validation_crops, validation_pairs

CROPS = 4
"""Validation crops in a picture."""


class RunLog:
    """Writes one run's records into a study's folder: `tensorboard/<run>/`, `steps/<run>.csv`, `pictures/<run>.png`."""

    def __init__(self, folder: Folder, run: str, values: Mapping[str, object], epochs_done: int) -> None:
        """`values` are what TensorBoard shows as hyperparameters; `epochs_done` epochs of an earlier start are kept."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.folder, self.run, self.steps_file = folder, run, f"steps/{run}.csv"
        self.lines: list[str] = []
        if epochs_done and folder.exists(self.steps_file):
            _, *lines = folder.read(self.steps_file).decode().splitlines()
            self.lines = [line for line in lines if int(line.partition(",")[0]) <= epochs_done]
        self.events = folder.child(f"tensorboard/{run}")
        # TensorBoard's writer knows local files only: for a bucket, the file is copied there after each epoch.
        self.scratch = None if folder.is_local else tempfile.TemporaryDirectory()
        where = self.events.location if self.scratch is None else self.scratch.name
        self.writer = SummaryWriter(where, purge_step=epochs_done + 1)
        # The hyperparameters go first and name the scalars that follow, so that a run stopped early has them too.
        plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items()}
        summaries = hparams(plain, {"val_psnr": 0.0, "val_ssim": 0.0})  # type: ignore[no-untyped-call]
        for summary in summaries[:2]:
            self.writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def add_steps(self, epoch: int, names: list[str], values: Tensor) -> None:
        """Append an epoch's steps, `values` of shape (steps, len(names)), to the table."""
        first = len(self.lines) + 1
        for step, row in enumerate(values.tolist(), start=first):
            self.lines.append(",".join([str(epoch), str(step), *(f"{value:.6g}" for value in row)]))
        self.folder.write(self.steps_file, "\n".join([",".join(["epoch", "step", *names]), *self.lines, ""]))

    def add_epoch(self, metrics: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> None:
        """Write an epoch's metrics and pictures; of the best epoch, a picture file too."""
        epoch = metrics["epoch"]
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, epoch)
        for kind, picture in pictures.items():
            self.writer.add_image(f"{kind} (noisy, denoised, clean)", picture, epoch)
        self.writer.flush()
        if self.scratch is not None:
            for path in Path(self.scratch.name).iterdir():
                self.events.write(path.name, path.read_bytes())
        if metrics["best_epoch"] == epoch:
            rows = [picture[:, : picture.shape[2] // 3] for picture in pictures.values()]
            pixels = (torch.cat(rows, dim=1).permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels.numpy()).save(file, "PNG")
            self.folder.write(f"pictures/{self.run}.png", file.getvalue())

    def close(self) -> None:
        """End the writer's thread, which would otherwise live as long as the process, which may run many trials."""
        self.writer.close()
        if self.scratch is not None:
            self.scratch.cleanup()


def before_and_after(
    generator: nn.Module, crops: ValidationCrops, config: Config, device: torch.device
) -> dict[str, Tensor]:
    """A picture for each noise, at its mean intensity, and for pairs: float32, (3, rows * S, 3 * S), in [0, 1].

    A row for each of the first validation crops, in columns noisy, denoised and clean.
    """
    rows = range(min(CROPS, len(crops)))
    shown = {noise.key: noisy_validation_crops(crops, config, noise, "mean", rows) for noise in config.noises}
    if crops.pairs is not None:
        shown[PAIRS] = validation_pairs(crops.pairs, rows)
    pictures: dict[str, Tensor] = {}
    for name, (clean, noisy) in shown.items():
        with torch.inference_mode():
            denoised = generator(noisy.to(device)).cpu().clamp(0, 1)
        pictures[name] = torch.cat(list(torch.cat([noisy, denoised, clean], dim=3)), dim=1)
    return pictures
