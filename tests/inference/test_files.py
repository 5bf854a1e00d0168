import errno
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import tifffile
from conftest import raygan, raygan_here
from denoisers import save_denoiser, smooth_of
from numpy.typing import NDArray
from PIL import Image
from ray import cloudpickle
from torch import Tensor, nn

from raygan.errors import InputError
from raygan.inference.denoiser import Denoiser
from raygan.inference.files import denoise_path
from raygan.inference.image_file import denoise_file
from raygan.storage import Folder, StorageError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Folder:
    """Of a denoiser that returns what it is given."""
    return save_denoiser(tmp_path / "same", identity=True)


def test_a_file_is_denoised_from_the_command_line(checkpoint: Folder, tmp_path: Path) -> None:
    pixels = smooth_of((70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noisy.png")
    result = raygan("denoise", tmp_path / "noisy.png", tmp_path / "new" / "clean.tif", "--checkpoint", checkpoint)
    assert (result.returncode, result.stderr) == (0, "")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "new" / "clean.tif"), pixels)


def write_folder(folder: Path) -> dict[str, NDArray[np.uint8]]:
    images = {
        f"{place}{index}.png": smooth_of((70, 90 + index, 3), np.uint8) for index, place in enumerate(["", "in/"])
    }
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"broken")
    (folder / "notes.txt").write_text("no image")
    return images


def check_folder(images: dict[str, NDArray[np.uint8]], folder: Path) -> None:
    assert Folder(folder).files() == sorted(images)
    for name, pixels in images.items():
        np.testing.assert_array_equal(np.asarray(Image.open(folder / name)), pixels)


def test_a_folder_is_denoised_and_broken_files_are_reported(checkpoint: Folder, tmp_path: Path) -> None:
    images = write_folder(tmp_path / "noisy")
    result = raygan_here("denoise", tmp_path / "noisy", tmp_path / "clean", "--checkpoint", checkpoint)
    assert result.returncode == 1
    assert "Skipped:\nbroken.jpg: it cannot be read as an image of .jpg" in result.stderr
    check_folder(images, tmp_path / "clean")


@pytest.mark.usefixtures("ray_here")
def test_a_folder_is_denoised_on_ray(checkpoint: Folder, tmp_path: Path) -> None:
    images = write_folder(tmp_path / "noisy")
    problems = denoise_path(
        Denoiser.from_pretrained(checkpoint), str(tmp_path / "noisy"), str(tmp_path / "clean"), ray_device="auto"
    )
    assert [problem.partition(":")[0] for problem in problems] == ["broken.jpg"]
    check_folder(images, tmp_path / "clean")


def test_a_full_disk_ends_a_folders_run(checkpoint: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "noisy")
    denoiser, write = Denoiser.from_pretrained(checkpoint), Folder.write

    def full(folder: Folder, name: str, content: bytes) -> None:
        if name.endswith(".png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder, name, content)

    monkeypatch.setattr(Folder, "write", full)
    with pytest.raises(StorageError, match=r"its result cannot be written: .*No space left"):
        denoise_path(denoiser, str(tmp_path / "noisy"), str(tmp_path / "clean"))


class Deadly(nn.Module):
    """Ends the process at black images."""

    def forward(self, noisy: Tensor) -> Tensor:
        if not noisy.any():
            os._exit(1)
        return noisy


@pytest.mark.usefixtures("ray_here")
def test_an_image_that_ends_its_process_is_reported(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "noisy")
    # More than there are processes.
    deadly = [f"deadly{index}.png" for index in range(1 + int(ray.cluster_resources()["CPU"]))]
    for name in deadly:
        Image.new("RGB", (40, 40)).save(tmp_path / "noisy" / name)
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        problems = denoise_path(
            Denoiser(Deadly().eval()), str(tmp_path / "noisy"), str(tmp_path / "clean"), ray_device="cpu"
        )
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert sorted(problem.partition(":")[0] for problem in problems) == ["broken.jpg", *deadly]
    assert all("the process that denoised it died, 3 times" in one for one in problems if one.startswith("deadly"))
    check_folder(images, tmp_path / "clean")


@pytest.mark.usefixtures("ray_here")
def test_the_requested_precision_is_used_locally_and_on_ray(tmp_path: Path) -> None:
    checkpoint = save_denoiser(tmp_path / "own")
    (tmp_path / "noisy").mkdir()
    Image.fromarray(smooth_of((70, 90, 3), np.uint8)).save(tmp_path / "noisy" / "0.png")
    content = (tmp_path / "noisy" / "0.png").read_bytes()
    exact, rounded = (
        np.asarray(Image.open(io.BytesIO(denoise_file(denoiser, content, ".png")))).astype(float)
        for denoiser in (
            Denoiser.from_pretrained(checkpoint, precision="float32"),
            Denoiser.from_pretrained(checkpoint, precision="bfloat16"),
        )
    )
    options = ("--checkpoint", checkpoint, "--precision", "float32")
    assert raygan_here("denoise", tmp_path / "noisy", tmp_path / "here", *options).returncode == 0
    noisy, on_ray = str(tmp_path / "noisy"), str(tmp_path / "ray")
    assert (
        denoise_path(Denoiser.from_pretrained(checkpoint, precision="float32"), noisy, on_ray, ray_device="auto") == []
    )
    for place in ("here", "ray"):
        found = np.asarray(Image.open(tmp_path / place / "0.png"))
        # Not to the last bit: actors have other numbers of threads.
        assert np.abs(found - exact).mean() < 0.5 * np.abs(found - rounded).mean()


@pytest.mark.parametrize(
    ("noisy", "denoised", "message"),
    [
        ("photo.png", "photo.png", "the result would overwrite the input, .*photo.png"),
        ("photo.png", "./photo.png", "the result would overwrite the input"),
        ("photo.png", "photo.gif", "give two image files, .*: '.*photo.gif' is no such file"),
        ("photos", "clean.png", "or two folders: '.*photos' is no such file"),
        ("photos", "photos/", "the result would overwrite the input"),
        ("empty", "clean", "there are no images in .*empty"),
        ("absent", "clean", "there are no images in .*absent"),
        ("absent.png", "clean.png", "cannot be read: .*absent.png"),
        ("photo.bmp", "clean.png", "give two image files, whose names end in .jpg, .*: '.*photo.bmp' is no such file"),
        ("photo.png", "photos/photo.png/clean.png", "nothing can be written in .*photos/photo.png"),
    ],
)
def test_impossible_requests_are_refused(
    checkpoint: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noisy: str, denoised: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "empty").mkdir()
    for place in ("photo.png", "photos/photo.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / place)
    before = (tmp_path / "photo.png").read_bytes()
    with pytest.raises(InputError, match=message):
        denoise_path(Denoiser.from_pretrained(checkpoint), noisy, denoised)
    assert (tmp_path / "photo.png").read_bytes() == before
    # Nothing stands in the way of the next try.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"same", "empty", "photos", "photo.png"})
