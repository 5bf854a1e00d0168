from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raygan.config import Config
from raygan.presets import QUICK
from raygan.section import with_values

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

torch.set_num_threads(1)


def shared(name: str) -> Path:
    """A file or folder of the real data that lies beside the project in CI; skips the test where it does not."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"needs real data at ../shared/data/{name}, which is not part of the project")
    return path


@pytest.fixture
def tiny_config() -> Config:
    """The smallest networks and shortest epochs that still are the real thing."""
    tiny = {
        "data/val_crops": 3,
        "data/train_photos": 8,
        "data/val_photos": 2,
        "generator/base_width": 4,
        "discriminator/base_width": 4,
        "training/batch_size": 4,
        "training/steps_per_epoch": 3,
        "training/epochs": 3,
    }
    return with_values(Config(), QUICK | tiny)


@pytest.fixture
def write_photos(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of smooth random photos."""

    def write(count: int, folder: str = "photos", size: tuple[int, int] = (80, 96), mode: str = "RGB") -> Path:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        random = np.random.default_rng(count)
        for index in range(count):
            small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            small.resize(size[::-1], Image.Resampling.BICUBIC).convert(mode).save(path / f"{mode}-{index:03d}.png")
        return path

    return write


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray running in this process, started as a study starts it."""
    import ray

    from raygan.train.driver import start_ray

    start_ray()
    yield
    ray.shutdown()


TINY = {
    "training/steps_per_epoch": 2,
    "training/batch_size": 4,
    "generator/base_width": 4,
    "discriminator/base_width": 4,
    "data/val_crops": 2,
    "data/val_photos": 2,
}
TINY_OPTIONS = [
    *("--quick", "--trials", "3", "--trial-epochs", "2", "--epochs", "2"),
    *(option for path, value in TINY.items() for option in ("--set", f"{path}={value}")),
]
"""Shrinks a search to the smallest that still goes through every part."""


def search_command(*options: str | Path) -> list[str]:
    """`python searches/v1.py` with the options."""
    return [sys.executable, str(ROOT / "searches" / "v1.py"), *map(str, options)]


def run_search(*options: str | Path, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Run a search to its end as a user would."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.run(
        search_command(*options), capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )
