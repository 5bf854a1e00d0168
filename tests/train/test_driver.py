import itertools
from pathlib import Path

import pytest

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.photos import Photos, TrainingPhotos
from raygan.data.samples import dead_leaves
from raygan.study.storage import Folder
from raygan.train.cluster import share_photos
from raygan.train.driver import Job, Run, epochs_with_workers
from raygan.train.loop import DivergedError, Worker

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.slow, pytest.mark.timeout(600)]


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
