from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raygan.cli import main
from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.presets import PAPER_V1, quick

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

torch.set_num_threads(1)


def shared(name: str) -> Path:
    """A file or folder of the real data that lies beside the project in CI; skips the test where it does not."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"needs real data at ../shared/data/{name}, which is not part of the project")
    return path


def write_vgg19(file: Path) -> Path:
    """Write random weights in Keras's convention (.npz) of VGG19's first four convolutions."""
    random = np.random.default_rng(0)
    arrays = {}
    for layer, shape in {"conv1_1": (64, 3), "conv1_2": (64, 64), "conv2_1": (128, 64), "conv2_2": (128, 128)}.items():
        arrays[f"{layer}.weight"] = random.normal(0, 0.05, (*shape, 3, 3)).astype(np.float32)
        arrays[f"{layer}.bias"] = random.normal(0, 1, shape[0]).astype(np.float32)
    np.savez(file, **arrays)
    return file


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not survive a power cut here. Optuna's journal waits for the disk about ten times per trial."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


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
    return with_values(quick(PAPER_V1), tiny)


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
def chromium() -> str:
    """The browser's program; skips the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs Chromium: install it, for example by apt-get install chromium")
    return found


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray running in this process, started as a study starts it; its workers can import the modules of the tests."""
    import ray

    from raygan.train.cluster import start_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)
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
TINY_EXPERIMENT = [
    *("--quick", "--epochs", "2"),
    *(option for path, value in TINY.items() for option in ("--set", f"{path}={value}")),
]
"""Shrinks an experiment to the smallest that still goes through every part."""
TINY_OPTIONS = [*TINY_EXPERIMENT, "--trials", "3", "--trial-epochs", "2"]
"""The same of a search."""


def search_command(*options: str | Path, file: str = "v1") -> list[str]:
    """`python searches/v1.py`, or another file, with the options."""
    return [sys.executable, str(ROOT / "searches" / f"{file}.py"), *map(str, options)]


def run_search(*options: str | Path, file: str = "v1", timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run a search file to its end as a user does."""
    command, environment = search_command(*options, file=file), {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def warnings_of(run: subprocess.CompletedProcess[str]) -> str:
    """What a run wrote to standard error besides the evaluation's progress."""
    return re.sub(r"^evaluation:.*$", "", run.stderr, flags=re.MULTILINE).strip()


def raygan(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the `raygan` command as a user would."""
    command = [str(Path(sys.executable).with_name("raygan")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)


def raygan_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in this process: each start of Python, with its imports, takes seconds."""
    given = [*map(str, arguments)]
    before, argv = signal.getsignal(signal.SIGTERM), sys.argv
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        # pytest has set up logging before the command could.
        log = logging.StreamHandler(err)
        log.setLevel(logging.WARNING)
        logging.getLogger().addHandler(log)
        try:
            sys.argv = ["raygan", *given]
            main(given)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            sys.argv = argv
            signal.signal(signal.SIGTERM, before)
            logging.getLogger().removeHandler(log)
    # A progress bar's lines end in carriage returns, which a text pipe reads as line feeds.
    said = (text.getvalue().replace("\r\n", "\n").replace("\r", "\n") for text in (out, err))
    return subprocess.CompletedProcess(given, code, *said)


def start_and_stop(options: list[str], when: Callable[[], bool], how: signal.Signals) -> tuple[int, str]:
    """Start a search, signal its main process once `when` holds, and give back how it ended and what it said."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        search_command(*options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
        # It may be ignored here, as in what a shell starts in the background.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 600
        while not when():
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if how == signal.SIGINT:
            # As a terminal does: to all processes that it started.
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        output, _ = process.communicate(timeout=180)
    return process.returncode, output


class RayCluster:
    """A cluster of nodes on this machine; see `cluster_of_nodes.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.commands, self.answers = process.stdin, process.stdout
        self.address = next(line.strip() for line in self.answers if re.fullmatch(r"[\d.]+:\d+\n", line))

    def kill_a_node(self) -> bool:
        """Kill a node that is not the head; false where none is left."""
        self.commands.write("\n")
        self.commands.flush()
        return any(line == "killed\n" for line in self.answers)


@contextlib.contextmanager
def ray_cluster(*cores: int) -> Iterator[RayCluster]:
    """Nodes of so many cores, the head's first."""
    command = [sys.executable, str(ROOT / "tests" / "cluster_of_nodes.py"), *map(str, cores)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        cluster = RayCluster(process)
        try:
            yield cluster
        finally:
            cluster.commands.close()


@dataclass
class Study:
    """A finished study, how it was run, and what it printed."""

    folder: Path
    options: list[str]
    run: subprocess.CompletedProcess[str]

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open() as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def tiny_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 10 `photos`, and 3 for `evaluation` in two folders."""
    path = tmp_path_factory.mktemp("tiny")
    random = np.random.default_rng(0)
    names = [f"photos/{index}.png" for index in range(10)]
    for name in (*names, "evaluation/test/0.png", "evaluation/test/1.png", "evaluation/train/2.png"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((96, 80), Image.Resampling.BICUBIC).save(path / name)
    return path


def _folders(photos: Path, name: str) -> list[str]:
    """Options that say where a tiny study reads and writes."""
    read = ("--photos", str(photos / "photos"), "--evaluate-on", str(photos / "evaluation"))
    return [*read, "--storage", str(photos / "studies"), "--name", name]


@pytest.fixture(scope="session")
def study(tiny_photos: Path) -> Study:
    """One tiny search through every part."""
    options = [*TINY_OPTIONS, *_folders(tiny_photos, "tiny")]
    return Study(tiny_photos / "studies" / "tiny", options, run_search(*options))


@pytest.fixture(scope="session")
def comparison(tiny_photos: Path, ray_here: None) -> Study:  # noqa: ARG001
    """One tiny comparison: four arms of two seeds, two for each of two noise tasks."""
    options = [*TINY_EXPERIMENT, "--seeds", "2", *_folders(tiny_photos, "tiny-comparison")]
    return Study(tiny_photos / "studies" / "tiny-comparison", options, raygan_here("search", "discriminator", *options))
