import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.photos import Photos, TrainingPhotos
from raygan.presets import PAPER_V1
from raygan.train.cluster import (
    HardwareError,
    resolved_device,
    resources,
    share_photos,
    trials_at_once,
    with_idle_cores,
)
from raygan.train.step import autocast

pytestmark = pytest.mark.usefixtures("ray_here")


def config_of(**hardware: object) -> Config:
    return with_values(PAPER_V1, {f"hardware/{name}": value for name, value in hardware.items()})


def test_cluster_without_gpus_computes_on_cpus() -> None:
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    assert resolved_device(PAPER_V1).hardware.device == "cpu"
    assert resolved_device(config_of(device="cuda")).hardware.device == "cuda"


def test_precision_is_bfloat16_where_the_processor_computes_in_it() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    if "flags" not in flags:
        pytest.skip("needs an x86 processor, whose features Linux lists")
    fast = bool({"avx512_bf16", "amx_bf16"} & set(flags))
    resolved = resolved_device(with_values(PAPER_V1, {"training/precision": "auto", "hardware/device": "cpu"}))
    assert resolved.training.precision == ("bfloat16" if fast else "float32")
    with autocast(torch.device("cpu"), "auto"):
        assert torch.is_autocast_enabled("cpu") is fast
    assert resolved_device(PAPER_V1).training.precision == "float32"


def test_trials_at_once_are_as_many_as_fit() -> None:
    cores = int(ray.cluster_resources()["CPU"])
    assert trials_at_once(config_of(device="cpu")) == cores
    assert trials_at_once(config_of(device="cpu", cpus_per_worker=cores)) == 1
    assert resources(config_of(device="cuda", gpus_per_worker=0.25)) == {"CPU": 1, "GPU": 0.25}


def test_trial_that_does_not_fit_is_refused_with_both_figures() -> None:
    cores = int(ray.cluster_resources()["CPU"])
    with pytest.raises(
        HardwareError, match=rf"asks for 2 workers of 1000 CPU each, but the cluster's nodes have {cores} CPU"
    ):
        trials_at_once(config_of(device="cpu", workers=2, cpus_per_worker=1000))


def test_run_alone_gets_the_idle_cores() -> None:
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
    none = Photos([], [])
    with pytest.raises(HardwareError, match=r"photos take 300000.0 GB and the pairs 0.0 GB, .*data/cache=stream"):
        share_photos(TrainingPhotos(Photos(["a"], [huge]), none))
    with pytest.raises(HardwareError, match=r"photos take 0.0 GB and the pairs 300000.0 GB, .* limits pairs too"):
        share_photos(TrainingPhotos(none, none, train_pairs=Photos(["a"], [huge])))


@pytest.fixture
def named() -> Iterator[Path]:
    """The file in which `ray start` names its cluster, in a temporary folder: it names one that is gone."""
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        file = Path(scratch) / "ray" / "ray_current_cluster"
        file.parent.mkdir()
        file.write_text("127.0.0.1:9")
        yield file


def start_elsewhere(named: Path) -> "subprocess.CompletedProcess[str]":
    """Another process that starts Ray where that file lies, and prints how many nodes it has."""
    home = named.parents[1] / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_TMPDIR": str(named.parents[1]), "HOME": str(home)}
    script = "import ray; from raygan.train.cluster import start_ray; start_ray(); print(len(ray.nodes()))"
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make another user's file")
def test_a_cluster_that_another_user_names_is_not_joined(named: Path) -> None:
    os.chown(named, 12345, 12345)
    run = start_elsewhere(named)
    assert run.stdout.splitlines()[-1:] == ["1"], run.stderr
    # Where Ray keeps the token that it makes, nobody else looks.
    home = named.parents[1] / "home"
    assert (home / ".ray").stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o077 == 0 for file in (home / ".ray").glob("auth_token"))


def test_a_cluster_that_died_without_ray_stop_is_not_waited_for(named: Path) -> None:
    run = start_elsewhere(named)
    assert run.stdout.splitlines()[-1:] == ["1"], run.stderr
    assert f"the Ray cluster at 127.0.0.1:9, which {named} names, is gone" in run.stderr
