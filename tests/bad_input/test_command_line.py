"""Bad input ends a search at once, with exit status 2, one clear line, and nothing written."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_OPTIONS, raygan_here, run_search


def refused(tmp_path: Path, *options: str | Path, apart: bool = False) -> str:
    """What a search says that is refused; `apart`: in a process of its own, which takes seconds."""
    given = (*TINY_OPTIONS, "--storage", tmp_path / "studies", *options)
    result = run_search(*given) if apart else raygan_here("search", "v1", *given)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert not any((tmp_path / "studies").rglob("*"))
    return result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "loss/lambda=1"], "raygan: there is no setting 'loss/lambda'; the settings are:"),
        (["--trials", "many"], "invalid"),
        (["--vgg19", "absent.npz"], "VGG19 weights 'absent.npz' is not a file"),
        (["--objectives", "val_lpips"], "invalid choice"),
        (["--no-such-option"], "Unrecognized options: --no-such-option"),
        (["--set", "data/crop_size=100"], "crop_size > 0 and a multiple of 32 must hold, but got crop_size=100"),
        (["--set", "training/epochs=many"], "training/epochs must be int, but got 'many'"),
        (["--epochs", "0"], "epochs >= 1 must hold, but got epochs=0"),
        (["--trial-epochs", "0"], "trial_epochs >= 1 must hold, but got trial_epochs=0"),
        (["--concurrent", "0"], "concurrent >= 1 must hold, but got concurrent=0"),
        (["--trials", "-1"], "trials >= 0 must hold, but got trials=-1"),
        (["--trials", "1" + 20 * "0"], "trials < 4,294,967,296 must hold, but got trials=1"),
        (["--seed", "4294967296"], "seed < 4294967296 must hold, but got seed=4294967296"),
        (["--photos", ""], "location not empty must hold"),
        (["--photos", "https://example.org/photos"], "is no s3:// or gs:// address"),
        (["--photos", "~nobody-of-that-name/photos"], "is no path"),
        (["--photos", __file__], "is a file; give a folder"),
        (["--name", "../x"], "--name must have letters, digits, '.', '_' and '-' only, but got '../x'"),
        (["--seed", "-1"], "seed >= 0 must hold, but got seed=-1"),
        (["--time-budget", "0"], "time_budget > 0 must hold, but got time_budget=0.0"),
        (["--objectives", "val_psnr", "val_psnr"], "each once, must hold, but got objectives=('val_psnr', 'val_psnr')"),
        (["--search-algorithm", "cmaes"], "CMA-ES searches numbers only, but sampling is categorical"),
    ],
)
def test_invalid_options(tmp_path: Path, options: list[str], message: str) -> None:
    assert message in refused(tmp_path, *options)


def test_missing_vgg19_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No web server listens on the port that this proxy names: the download fails at once, as it does offline.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("RAYGAN_CACHE", str(tmp_path / "cache"))
    message = refused(tmp_path, "--set", "loss/content=Vgg19Features")
    assert "cannot download https://download.pytorch.org/models/vgg19-dcbb9e9d.pth" in message
    assert "--vgg19 FILE" in message


def test_missing_photos(tmp_path: Path) -> None:
    message = refused(tmp_path, "--photos", tmp_path / "absent", apart=True)
    assert message.startswith(f"v1.py: {tmp_path}/absent does not exist; give a folder or an s3:// or gs:// prefix")
    assert message.count("\n") == 1


def test_missing_evaluation_photos(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    message = refused(tmp_path, "--photos", write_photos(6), "--evaluate-on", tmp_path / "absent")
    assert f"{tmp_path}/absent does not exist" in message


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere"])
def test_unreachable_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert f"RAY_ADDRESS={address} is not a Ray cluster that can be reached" in refused(tmp_path, apart=True)


def test_temporary_folder_too_long_for_rays_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / ("t" * 60)).mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    said = refused(tmp_path, apart=True)
    message = f"the temporary folder {folder} has {len(str(folder))} characters, of which Ray's sockets leave it"
    assert message in said
    assert "set RAY_TMPDIR to a writable folder with a shorter path" in said


@pytest.mark.usefixtures("ray_here")
def test_cluster_too_small_for_one_trial(tmp_path: Path) -> None:
    message = refused(tmp_path, "--set", "hardware/cpus_per_worker=999", "--wait", "1")
    assert "one trial asks for 1 workers of 999 CPU each, but the cluster's nodes have" in message


@pytest.mark.usefixtures("ray_here")
def test_every_trial_diverges(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos = str(write_photos(6))
    diverging = ["--set", "optimizers/generator/learning_rate=1e30"]
    places = ["--photos", photos, "--evaluate-on", photos, "--storage", str(tmp_path / "studies"), "--name", "study"]
    result = raygan_here("search", "v1", *TINY_OPTIONS, *places, *diverging)
    assert result.returncode == 2
    assert "all 3 trials failed (trial-000" in result.stderr
    assert "trial-0001 failed: " in result.stdout
    assert "training diverged in epoch 1, by step 2: content_loss is nan" in result.stdout
    with (tmp_path / "studies" / "study" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["state"], row["error"].partition(",")[0]) for row in rows] == [
        ("failed", "training diverged in epoch 1")
    ] * 3
