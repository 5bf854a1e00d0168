"""A noise, a generator and a content loss written in a search file are used like those of the package."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import TINY_EXPERIMENT, warnings_of
from PIL import Image

SEARCH_FILE = """
from dataclasses import dataclass

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn

from raygan.cli import run_search
from raygan.config.kinds import ContentLoss, Generator, Noise
from raygan.config.section import require, with_values
from raygan.presets import PAPER_V1
from raygan.search.experiment import Search
from raygan.search.space import When


@dataclass(frozen=True, kw_only=True)
class Stripes(Noise):
    low: float = 0.05
    high: float = 0.2
    period: int = 4

    def _check(self):
        require("period >= 2", self.period >= 2, period=self.period)

    def add(self, clean, intensity, generator):
        first = torch.randint(self.period, (1,), generator=generator, device=clean.device)
        rows = torch.arange(clean.shape[1], device=clean.device)
        return clean + intensity * ((rows + first) % self.period == 0)[None, :, None]


@dataclass(frozen=True, kw_only=True)
class Plain(Generator):
    width: int = 4

    def build(self):
        return PlainNetwork(self.width)


class PlainNetwork(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1)
        )

    def forward(self, noisy):
        return noisy - self.layers(noisy)


@dataclass(frozen=True, kw_only=True)
class EdgeLoss(ContentLoss):
    edge_weight: float = 1.0

    def build(self, weights):
        return EdgeDistance(self.edge_weight)


class EdgeDistance(nn.Module):
    def __init__(self, edge_weight):
        super().__init__()
        self.edge_weight = edge_weight

    def forward(self, clean, denoised):
        error = denoised - clean
        return error.square().mean() + self.edge_weight * error.diff(dim=3).square().mean()


SEARCH = Search(
    name="own",
    config=with_values(
        PAPER_V1, {"noises": (Stripes(), *PAPER_V1.noises[:1]), "generator": Plain(), "loss/content": EdgeLoss()}
    ),
    space={
        "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "generator": CategoricalDistribution(["Plain", "UNet"]),
        "generator/width": When("generator", "Plain", IntDistribution(4, 8, step=2)),
        "loss/content": CategoricalDistribution(["EdgeLoss", "MeanSquaredError"]),
        "loss/content/edge_weight": When("loss/content", "EdgeLoss", FloatDistribution(0.1, 1.0)),
    },
    trials=3,
    trial_epochs=2,
)
# The winner is a generator of this file.
SEARCH = SEARCH if WHOLE_SPACE else Search(
    name="own",
    config=SEARCH.config,
    space={path: SEARCH.space[path].distribution for path in ("generator/width", "loss/content/edge_weight")},
    first_points=[SEARCH.config],
    trials=3,
    trial_epochs=2,
)

if __name__ == "__main__":
    run_search(SEARCH)
"""


def written(folder: Path, *, whole_space: bool = False) -> Path:
    file = folder / "files" / "own_search.py"
    file.parent.mkdir()
    file.write_text(f"WHOLE_SPACE = {whole_space}\n{SEARCH_FILE}")
    return file


def options(tiny_photos: Path, folder: Path) -> list[str]:
    tiny = [*TINY_EXPERIMENT]
    # The generator has no base_width.
    index = tiny.index("generator/base_width=4")
    del tiny[index - 1 : index + 1]
    places = ["--photos", tiny_photos / "photos", "--evaluate-on", tiny_photos / "evaluation", "--storage", folder]
    return [*tiny, "--trials", "3", "--trial-epochs", "2", *map(str, places), "--name", "own"]


def raygan(*arguments: object, **environment: str) -> str:
    command = [str(Path(sys.executable).with_name("raygan")), *map(str, arguments)]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, env={**os.environ, **environment}, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_own_kinds_are_searched_resumed_evaluated_and_used(tiny_photos: Path, tmp_path: Path) -> None:
    file, study = written(tmp_path), tmp_path / "own"
    command = [str(Path(sys.executable).with_name("raygan")), "search", str(file), *options(tiny_photos, tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 900
        while not (study / "metrics.csv").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.kill()
    raygan(*command[1:])
    record = json.loads((study / "study.json").read_text())
    assert record["status"] == "finished"
    trials = rows(study / "trials.csv")
    assert [row["trial"] for row in trials] == ["trial-0001", "trial-0002", "trial-0003"]
    assert {row["state"] for row in trials} <= {"complete", "pruned"}
    assert {row["generator/width"] for row in trials} <= {"4", "6", "8"}
    config = json.loads((study / "best" / "config.json").read_text())
    assert config["generator"]["class"] == "own_search.Plain"
    assert config["loss"]["content"]["class"] == "own_search.EdgeLoss"
    assert [noise["class"] for noise in config["noises"]] == ["own_search.Stripes", "raygan.noise.paper.Gaussian"]
    summary = rows(study / "evaluation" / "summary.csv")
    assert {row["kind"] for row in summary} == {"stripes", "gaussian"}
    # A quarter of the rows is brighter by the intensity, but for what is clipped.
    [noisy] = [
        float(row["psnr_mean"])
        for row in summary
        if (row["set"], row["kind"], row["level"], row["method"]) == ("evaluation", "stripes", "high", "noisy")
    ]
    assert noisy == pytest.approx(10 * np.log10(4 / 0.2**2), abs=1)

    best, found = study / "best", {"PYTHONPATH": str(file.parent)}
    photo = tiny_photos / "evaluation" / "test" / "0.png"
    raygan("denoise", photo, tmp_path / "denoised.png", "--checkpoint", best, **found)
    raygan("export", best, tmp_path / "own.onnx", **found)
    raygan("evaluate", best, "--evaluate-on", tiny_photos / "evaluation", "--output", tmp_path / "evaluation", **found)
    again = rows(tmp_path / "evaluation" / "summary.csv")
    assert {row["kind"] for row in again} == {"stripes", "gaussian"}
    pixels = np.asarray(Image.open(photo), dtype=np.float32).transpose(2, 0, 1)[None] / 255
    [[exported]] = onnxruntime.InferenceSession(tmp_path / "own.onnx").run(None, {"noisy": pixels})
    denoised = np.asarray(Image.open(tmp_path / "denoised.png"), dtype=np.float32).transpose(2, 0, 1)
    assert np.abs(exported.clip(0, 1) * 255 - denoised).max() < 1

    # Without the file, the message says how to make its classes importable.
    command = [*command[:1], "denoise", str(photo), str(tmp_path / "x.png"), "--checkpoint", str(best)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert refused.returncode == 2
    assert "names the class own_search." in refused.stderr
    assert "run with the folder of own_search.py on PYTHONPATH" in refused.stderr


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_own_kinds_are_searched_with_several_workers(tiny_photos: Path, tmp_path: Path) -> None:
    """Run as a program, and with kinds of the package among the choices."""
    command = [sys.executable, written(tmp_path, whole_space=True), *options(tiny_photos, tmp_path), "--workers", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=2000, check=False)
    assert (run.returncode, warnings_of(run)) == (0, "")
    trials = rows(tmp_path / "own" / "trials.csv")
    assert {row["state"] for row in trials} <= {"complete", "pruned"}
    for row in trials:
        assert (row["generator"] == "Plain") == (row["generator/width"] != "")
        assert (row["loss/content"] == "EdgeLoss") == (row["loss/content/edge_weight"] != "")
        kept = json.loads((tmp_path / "own" / row["checkpoint"] / "denoiser" / "config.json").read_text())
        assert kept["generator"]["class"].rpartition(".")[2] == row["generator"]
