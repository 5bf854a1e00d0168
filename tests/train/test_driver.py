import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from raygan.config.kinds import ContentLoss
from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.photos import Photos, TrainingPhotos
from raygan.data.samples import dead_leaves
from raygan.models import UNet
from raygan.models.generators import GeneratorNetwork
from raygan.storage import Folder
from raygan.train.cluster import share_photos
from raygan.train.driver import Job, OutOfMemoryError, Run, RunError, epochs_here, epochs_with_workers
from raygan.train.loop import DivergedError, Epoch, Worker

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.slow]


def run_of(config: Config, folder: Path, **values: object) -> Run:
    photos = Photos([str(index) for index in range(4)], [dead_leaves(96, 0, index) for index in range(4)])
    job = Job(Folder(folder), share_photos(TrainingPhotos(photos, photos)), {})
    values = {path.replace("__", "/"): value for path, value in values.items()} | {"hardware/device": "cpu"}
    return Run(job, "winner", with_values(config, values), values)


def test_epochs_with_workers_resume_those_of_one_process(tiny_config: Config, tmp_path: Path) -> None:
    """A TorchTrainer's worker continues the run's own checkpoints, and ends where one process would."""
    [*alone] = run_of(tiny_config, tmp_path / "alone").epochs(Worker())
    run = run_of(tiny_config, tmp_path / "study")
    [first] = itertools.islice(run.epochs(Worker()), 1)
    resumed = list(epochs_with_workers(run))
    assert [epoch.restored for epoch in resumed] == [True, False, False]
    assert resumed[0].metrics == first.metrics
    for one, other in zip(alone, resumed, strict=True):
        assert other.metrics["val_psnr"] == one.metrics["val_psnr"]
    # Nothing of Ray's is left.
    assert not any(name.startswith("ray/") for name in run.job.folder.files())


def test_run_that_diverges_fails_with_the_loss_and_is_not_retried(tiny_config: Config, tmp_path: Path) -> None:
    run = run_of(tiny_config, tmp_path, optimizers__generator__learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"training diverged in epoch 1, by step 3: content_loss is nan"):
        list(epochs_with_workers(run))
    assert len((tmp_path / "steps" / "winner.csv").read_text().splitlines()) == 1 + 3
    assert not (tmp_path / "checkpoints").exists()


@dataclass(frozen=True, kw_only=True)
class Broken(UNet):
    """A generator with a fault of its own, in the second worker."""

    def build(self) -> GeneratorNetwork:
        if distributed.is_initialized() and distributed.get_rank() == 1:
            raise TypeError("no such layer")
        return super().build()


def test_a_workers_own_error_is_told_and_not_retried(tiny_config: Config, tmp_path: Path) -> None:
    values = {"generator": Broken(base_width=4), "training/batch_size": 4, "hardware/workers": 2}
    with pytest.raises(RunError, match="TypeError: no such layer"):
        list(epochs_with_workers(run_of(tiny_config, tmp_path, **values)))


@dataclass(frozen=True, kw_only=True)
class Greedy(ContentLoss):
    """A loss whose batches of more than two crops need more memory than any machine has."""

    def build(self, weights: dict[str, Tensor]) -> nn.Module:  # noqa: ARG002
        return GreedyLoss()


class GreedyLoss(nn.Module):
    def forward(self, clean: Tensor, denoised: Tensor) -> Tensor:
        if len(clean) > 2:
            torch.empty(2**50)
        return (denoised - clean).abs().mean()


def test_run_out_of_memory_ends_with_what_to_lower(tiny_config: Config, tmp_path: Path) -> None:
    values = {"loss/content": Greedy(), "training/batch_size": 4, "training/epochs": 2}
    # An odd batch cannot be halved.
    odd = {"training/batch_size": 3, "training/halve_batch": True}
    for name, more in {"even": {}, "odd": odd}.items():
        with pytest.raises(OutOfMemoryError, match=r"out of memory: lower training/batch_size"):
            list(epochs_here(run_of(tiny_config, tmp_path / name, **values | more)))


@pytest.mark.parametrize("epochs", [epochs_here, epochs_with_workers])
def test_run_out_of_memory_starts_again_with_half_the_batch_if_asked(
    tiny_config: Config, tmp_path: Path, epochs: Callable[[Run], Iterator[Epoch]]
) -> None:
    values = {"loss/content": Greedy(), "training/batch_size": 4, "training/epochs": 2}
    run = run_of(tiny_config, tmp_path, **values, training__halve_batch=True)
    assert [epoch.restored for epoch in epochs(run)] == [False, False]
    # Resumed, it still knows.
    assert [epoch.restored for epoch in epochs(run)] == [True, True]
    kept = json.loads((tmp_path / "checkpoints/winner/epoch-0002/config.json").read_text())
    assert kept["training"]["batch_size"] == 2
