"""Protocols of the literature."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import ray.data
import torch
from conftest import raygan_here, shared

from raygan.evaluation.protocols import CBSD68, PROTOCOLS
from raygan.noise import add_noise
from raygan.seeds import torch_generator


def test_cbsd68_has_68_of_the_test_photos() -> None:
    assert len(CBSD68) == 68
    names = {file.stem for file in shared("bsd300/test").iterdir()}
    assert names >= CBSD68


@pytest.mark.parametrize("deviation", [15, 25, 50])
def test_noise_is_gaussian_of_the_deviation_and_not_clipped(deviation: int) -> None:
    noise = PROTOCOLS[f"awgn{deviation}"].noise
    assert noise.low == noise.mean == noise.high == pytest.approx((deviation / 255) ** 2)
    clean = torch.full((1, 3, 300, 300), 0.9)
    noisy = add_noise(clean, [noise], [noise.mean], [torch_generator("test")], clip=False)
    assert 255 * (noisy - clean).std().item() == pytest.approx(deviation, rel=0.01)
    assert noisy.max() > 1


@pytest.mark.usefixtures("ray_here")
def test_cbsd68_is_chosen_where_all_of_it_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"test/{name}.jpg" for name in sorted(CBSD68)] + ["train/1.jpg"]
    photos = ray.data.from_items([{"name": name} for name in names])
    assert PROTOCOLS["awgn50"].photos_of(photos).count() == 68
    printed = capsys.readouterr().out
    assert "68 photos of CBSD68" in printed
    assert "published: FFDNet (deviation given) 27.96 dB (Zhang et al., FFDNet, IEEE TIP 2018)" in printed
    assert PROTOCOLS["awgn50"].photos_of(photos.limit(3)).count() == 3
    printed = capsys.readouterr().out
    assert "CBSD68 is not among them" in printed
    assert "published" not in printed


@pytest.mark.usefixtures("ray_here")
def test_evaluation_by_a_protocol(write_photos: Callable[..., Path], tmp_path: Path) -> None:
    options = ["--evaluate-on", write_photos(2), "--protocol", "awgn50", "--output", tmp_path / "found"]
    run = raygan_here("evaluate", "small", *options)
    assert run.returncode == 0, run.stderr
    assert "unclipped Gaussian noise, all 2 photos" in run.stdout
    table = pd.read_csv(tmp_path / "found" / "per_image.csv")
    assert set(table["kind"]) == {"awgn50"}
    assert set(table["level"]) == {"mean"}
    scores = table.groupby("method")["psnr"].mean()
    assert scores["raygan"] > scores["noisy"] + 5
    levels = raygan_here("evaluate", "small", *options, "--levels", "low")
    assert (levels.returncode, "leave --levels out" in levels.stderr) == (2, True)
    both = raygan_here("evaluate", "small", *options, "--out-of-distribution")
    assert (both.returncode, "each has its own noise" in both.stderr) == (2, True)
