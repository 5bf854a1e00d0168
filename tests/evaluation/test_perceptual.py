import importlib.util
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from denoisers import SMALL, save_denoiser

from raygan.data.photos import evaluation_photos
from raygan.data.sources import PhotoFolder
from raygan.evaluation.evaluate import tabulate
from raygan.evaluation.job import EvaluationSettings, EvaluationTask, evaluate
from raygan.evaluation.perceptual import Lpips, LpipsError
from raygan.noise import Gaussian
from raygan.train.denoisers import load_weights

INSTALLED = all(importlib.util.find_spec(name) for name in ("torchmetrics", "torchvision"))
needs_torchmetrics = pytest.mark.skipif(not INSTALLED, reason="needs raygan[lpips]")
# torchmetrics' own.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AlexNet's weights as torch's hub keeps them, but random."""
    from torchvision.models import alexnet

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(alexnet().state_dict(), folder / "alexnet-owt-7be5be79.pth")


@pytest.mark.skipif(INSTALLED, reason="raygan[lpips] is installed")
def test_missing_packages_are_named() -> None:
    with pytest.raises(LpipsError, match=r"needs torchmetrics and torchvision .* pip install 'raygan\[lpips\]'"):
        Lpips()


@needs_torchmetrics
def test_weights_that_cannot_be_downloaded_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(LpipsError, match=rf"AlexNet weights, .*no route to host.* in {tmp_path}/hub/checkpoints"):
        Lpips()


@needs_torchmetrics
@pytest.mark.usefixtures("random_weights")
def test_lpips_is_0_for_equal_images_and_grows_with_the_noise() -> None:
    clean, noise = torch.rand(2, 1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    lpips = Lpips()
    equal, little, much, little_again = lpips(
        clean, [clean, clean + 0.1 * noise, clean + 0.9 * noise, clean + 0.1 * noise]
    )
    assert equal == 0 < little < much
    assert little_again == little
    assert np.isnan(lpips(clean[..., :31], [clean[..., :31]])).all()


@needs_torchmetrics
@pytest.mark.usefixtures("ray_here", "random_weights")
def test_lpips_is_a_column_of_the_evaluation(write_photos: Any, tmp_path: Path) -> None:
    folder, lpips = write_photos(2), Lpips()
    photos = evaluation_photos(PhotoFolder(location=str(folder)))
    task = EvaluationTask(
        (Gaussian(low=0, high=0),), {"raygan": (load_weights(save_denoiser(tmp_path / "best"), SMALL), SMALL.stride)}
    )
    rows = evaluate(photos, task, EvaluationSettings((), ("low", "mean"), lpips), {"CPU": 1}, 1)
    table: pd.DataFrame = tabulate(rows, "raygan")[0]
    assert list(table.columns[-6:]) == ["psnr", "ssim", "colour_drift", "lpips", "seconds", "picture"]
    by_method = table[table["level"] == "mean"].groupby("method")["lpips"].mean()
    assert by_method["noisy"] == pytest.approx(0, abs=1e-9)
    assert by_method["raygan"] > 1e-9
    assert table.loc[table["level"] == "low", "lpips"].isna().all()
