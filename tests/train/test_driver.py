from pathlib import Path

import numpy as np
import pytest
import ray

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.crops import Photos
from raygan.data.photos import TrainingPhotos
from raygan.data.samples import dead_leaves
from raygan.train.cluster import (
    HardwareError,
    resolved_device,
    resources,
    share_photos,
    trials_at_once,
    with_idle_cores,
)
from raygan.train.driver import Job, flattened, train_with_workers
from raygan.train.loop import DivergedError

pytestmark = pytest.mark.usefixtures("ray_here")


def config_of(**hardware: object) -> Config:
    return with_values(Config(), {f"hardware/{name}": value for name, value in hardware.items()})


def test_a_cluster_without_gpus_computes_on_cpus() -> None:
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    assert resolved_device(Config()).hardware.device == "cpu"
    assert resolved_device(config_of(device="cuda")).hardware.device == "cuda"


def test_as_many_trials_run_at_once_as_fit() -> None:
    cores = int(ray.cluster_resources()["CPU"])
    assert trials_at_once(config_of(device="cpu")) == cores
    assert trials_at_once(config_of(device="cpu", cpus_per_worker=cores)) == 1
    assert resources(config_of(device="cuda", gpus_per_worker=0.25)) == {"CPU": 1, "GPU": 0.25}


def test_a_trial_that_does_not_fit_is_refused_with_both_figures() -> None:
    cores = int(ray.cluster_resources()["CPU"])
    with pytest.raises(
        HardwareError, match=rf"asks for 2 workers of 1000 CPU each, but the cluster's nodes have {cores} CPU"
    ):
        trials_at_once(config_of(device="cpu", workers=2, cpus_per_worker=1000))


def test_a_run_alone_gets_the_idle_cores() -> None:
    cores = int(ray.cluster_resources()["CPU"])
    assert with_idle_cores(config_of(device="cpu")).hardware.cpus_per_worker == cores
    assert with_idle_cores(config_of(device="cpu", workers=2)).hardware.cpus_per_worker == max(1, cores // 2)
    assert with_idle_cores(config_of(device="cuda")).hardware.cpus_per_worker == 1


def test_photos_are_shared_without_copies() -> None:
    pixels = [np.full((64, 80, 3), index, np.uint8) for index in range(3)]
    shared = ray.get(share_photos(TrainingPhotos(Photos(["a", "b"], pixels[:2]), Photos(["c"], pixels[2:]))))
    assert shared.train.names == ["a", "b"]
    assert np.array_equal(shared.validation.pixels[0], pixels[2])
    # Read-only arrays lie in the object store itself.
    assert not shared.train.pixels[0].flags.writeable


def test_photos_larger_than_the_object_store_are_refused() -> None:
    huge = np.broadcast_to(np.zeros(1, np.uint8), (10**7, 10**7, 3))
    with pytest.raises(HardwareError, match=r"the decoded photos take 300000.0 GB, .* lower data/train_photos"):
        share_photos(TrainingPhotos(Photos(["a"], [huge]), Photos([], [])))


def test_nested_values_become_paths() -> None:
    assert flattened({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a/b": 1, "a/c/d": 2, "e": 3}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_diverges_at_once_fails_with_the_loss_and_does_not_try_again(
    tiny_config: Config, tmp_path: Path
) -> None:
    values = {"optimizers/generator/learning_rate": 1e30, "hardware/device": "cpu"}
    config = with_values(tiny_config, values)
    photos = Photos([str(index) for index in range(4)], [dead_leaves(96, 0, index) for index in range(4)])
    job = Job(config, share_photos(TrainingPhotos(photos, photos)), {}, str(tmp_path))
    epochs: list[dict[str, float]] = []
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"training diverged in epoch 1, by step 3: content_loss is nan"):
            train_with_workers(job, config, "winner", values, epochs.append)
    assert epochs == []
    assert [path.name for path in (tmp_path / "failures").iterdir()] == ["winner.txt"]
