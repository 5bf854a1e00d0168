from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from denoisers import SMALL, Blur, save_denoiser

from raygan.config.kinds import Generator
from raygan.inference.denoiser import ImageError, denoise
from raygan.inference.export import export
from raygan.models import UNet
from raygan.study.storage import Folder, StorageError
from raygan.train.checkpoint import load_generator

SHAPES = [(1, 3, 64, 64), (2, 3, 67, 93), (1, 3, 5, 6), (3, 3, 33, 130)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("config", [SMALL, Blur(size=5)], ids=["residual U-Net", "user-defined"])
def test_exported_programs_give_the_same_results_for_any_size(config: Generator, tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", config)
    generator, _ = load_generator(folder)
    for name in ("denoiser.onnx", "denoiser.pt2"):
        export(folder.location, str(tmp_path / name))
    session = onnxruntime.InferenceSession(str(tmp_path / "denoiser.onnx"))
    program = torch.export.load(str(tmp_path / "denoiser.pt2")).module()
    for shape in SHAPES:
        noisy = torch.rand(shape)
        expected = denoise(generator, noisy, config.stride)
        [found] = session.run(None, {"noisy": noisy.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)
        torch.testing.assert_close(program(noisy), expected, rtol=0, atol=1e-4)
        assert not torch.allclose(expected, noisy, atol=0.05)


def test_half_precision_weights_are_a_denoiser(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own")
    (tmp_path / "half").mkdir()
    export(folder.location, str(tmp_path / "half" / "generator.safetensors"))
    size, half_size = (next((tmp_path / name).glob("*.safetensors")).stat().st_size for name in ("own", "half"))
    assert half_size < 0.6 * size
    noisy = torch.rand(1, 3, 40, 50)
    expected, found = (
        denoise(load_generator(Folder(tmp_path / name))[0], noisy, SMALL.stride) for name in ("own", "half")
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
    with pytest.raises(ImageError, match=r"a file named generator.safetensors, not half.safetensors"):
        export(folder.location, str(tmp_path / "half" / "half.safetensors"))


def test_half_precision_keeps_integer_counters(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", UNet(base_width=8, depth=2))
    file = tmp_path / "own" / "generator.safetensors"
    weights = safetensors.torch.load_file(file)
    counters = [name for name in weights if name.endswith("num_batches_tracked")]
    safetensors.torch.save_file(weights | {name: torch.tensor(100_001) for name in counters}, file)
    export(folder.location, str(tmp_path / "half" / "generator.safetensors"))
    found = load_generator(Folder(tmp_path / "half"))[0].state_dict()
    assert {found[name].item() for name in counters} == {100_001}
    assert all(values.dtype == weights[name].dtype for name, values in found.items())


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"must end in .onnx or .pt2 or .safetensors, but it is 'denoiser.pth'"):
        export(str(tmp_path), "denoiser.pth")


def test_folders_that_cannot_be_written_to_are_refused(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="nothing can be written in"):
        export(folder.location, str(tmp_path / "file" / "denoiser.pt2"))
