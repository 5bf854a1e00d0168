"""Denoising with networks in other projects' files; their weights here are random."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import raygan, raygan_here
from PIL import Image
from spandrel.architectures.DnCNN import DnCNN
from spandrel.architectures.DRUNet import DRUNet
from spandrel.architectures.NAFNet import NAFNet

from raygan.inference.denoiser import Denoiser
from raygan.models.architectures import ModelFileError
from raygan.train.denoisers import DenoiserError

NETWORKS = {
    "nafnet.pth": lambda: NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    "drunet.pth": lambda: DRUNet(in_nc=4, out_nc=3, nc=[8, 8, 8, 8], nb=2),
    "dncnn.pth": lambda: DnCNN(in_nc=3, out_nc=3, nc=8, nb=5, mode="DN"),
}


def write(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    torch.save(NETWORKS[name]().state_dict(), folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["nafnet.pth", "drunet.pth"])
def test_result_is_that_of_the_network(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, name)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 56, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels.transpose(2, 0, 1) / np.float32(255))[None]
    network = NETWORKS[name]().eval()
    network.load_state_dict(torch.load(file, weights_only=True))
    with torch.inference_mode():
        # DRUNet is given the deviation that spandrel assumes.
        inputs = torch.cat([image, torch.full_like(image[:, :1], 15 / 255)], dim=1) if name == "drunet.pth" else image
        expected = network(inputs)[0].clamp(0, 1).permute(1, 2, 0) * 255
    denoised = Denoiser.from_pretrained(str(file))(pixels)
    assert np.abs(denoised - expected.numpy()).max() <= 0.51


@pytest.mark.slow
def test_the_commands_take_a_model_file(tmp_path: Path) -> None:
    file, noisy = write(tmp_path, "nafnet.pth"), tmp_path / "noisy.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(noisy)
    run = raygan_here("denoise", noisy, tmp_path / "denoised.png", "--checkpoint", file)
    assert run.returncode == 0
    # Random weights remove nothing.
    assert "strong noise is left" in run.stderr
    options = ("--evaluate-on", tmp_path / "photos", "--levels", "mean", "--output", tmp_path / "scores")
    (tmp_path / "photos").mkdir()
    noisy.rename(tmp_path / "photos" / "noisy.png")
    run = raygan("evaluate", file, "small", *options)
    assert run.returncode == 0
    assert str(file) in run.stdout


def test_files_that_hold_no_such_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DenoiserError, match=r"there is no file .*absent.pth"):
        Denoiser.from_pretrained(str(tmp_path / "absent.pth"))
    (tmp_path / "text.pth").write_text("no network")
    with pytest.raises(ModelFileError, match="spandrel cannot read a network"):
        Denoiser.from_pretrained(str(tmp_path / "text.pth"))
    torch.save(DnCNN(in_nc=1, out_nc=1, nc=8, nb=5, mode="DN").state_dict(), tmp_path / "grey.pth")
    with pytest.raises(ModelFileError, match="for images of 1 channels"):
        Denoiser.from_pretrained(str(tmp_path / "grey.pth"))
