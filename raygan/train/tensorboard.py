"""TensorBoard's view of a run: scalars, hyperparameters, and noisy, denoised and clean images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from raygan.study.storage import Folder


class TensorBoardLog:
    """Writes one run's event file to `folder`, which may lie in a bucket; epochs are the steps."""

    def __init__(self, folder: Folder, values: Mapping[str, object], first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.folder = folder
        # TensorBoard's writer knows local files only: for a bucket, the file is copied there after each epoch.
        self.scratch = None if self.folder.is_local else tempfile.TemporaryDirectory()
        here = self.folder.location if self.scratch is None else self.scratch.name
        self.writer = SummaryWriter(here, purge_step=first_epoch)
        # The hyperparameters go first and name the scalars that follow, so that a run stopped early has them too.
        plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items()}
        summaries = hparams(plain, {"val_psnr": 0.0, "val_ssim": 0.0})  # type: ignore[no-untyped-call]
        for summary in summaries[:2]:
            self.writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def scalars(self, metrics: Mapping[str, float], epoch: int) -> None:
        """One epoch's metrics."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, epoch)

    def images(self, pictures: Mapping[str, Tensor], epoch: int) -> None:
        """One epoch's pictures, as `before_and_after` makes them."""
        for kind, picture in pictures.items():
            self.writer.add_image(f"{kind} (noisy, denoised, clean)", picture, epoch)

    def flush(self) -> None:
        """Make what was logged so far readable where it belongs."""
        self.writer.flush()
        if self.scratch is not None:
            for path in Path(self.scratch.name).iterdir():
                self.folder.write(path.name, path.read_bytes())

    def close(self) -> None:
        """End the writer's thread, which else would stay as long as the process, which may run many trials."""
        self.writer.close()
