from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from raygan.inference.tiles import denoise
from raygan.models.generator import build_generator
from test_denoiser import save_denoiser

from raygan.config.section import with_values
from raygan.inference.denoiser import ImageError
from raygan.inference.export import export
from raygan.presets import PAPER_V1
from raygan.study.storage import Folder, StorageError
from raygan.train.checkpoint import Best, load_denoiser, save_checkpoint

SHAPES = [(1, 3, 64, 64), (2, 3, 67, 93), (1, 3, 5, 6), (3, 3, 33, 130)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_exported_denoiser_gives_the_same_on_any_size(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", identity=False)
    generator, _ = load_denoiser(folder)
    for name in ("denoiser.onnx", "denoiser.pt2"):
        export(folder.location, str(tmp_path / name))
    session = onnxruntime.InferenceSession(str(tmp_path / "denoiser.onnx"))
    program = torch.export.load(str(tmp_path / "denoiser.pt2")).module()
    for shape in SHAPES:
        noisy = torch.rand(shape)
        expected = denoise(generator, noisy)
        [found] = session.run(None, {"noisy": noisy.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)
        torch.testing.assert_close(program(noisy), expected, rtol=0, atol=1e-4)
        assert not torch.allclose(expected, noisy, atol=0.05)


def test_weights_in_half_precision_are_a_denoiser_again(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", identity=False)
    (tmp_path / "half").mkdir()
    export(folder.location, str(tmp_path / "half" / "generator.safetensors"))
    size, half_size = (next((tmp_path / name).glob("*.safetensors")).stat().st_size for name in ("own", "half"))
    assert half_size < 0.6 * size
    noisy = torch.rand(1, 3, 40, 50)
    expected, found = (denoise(load_denoiser(Folder(tmp_path / name))[0], noisy) for name in ("own", "half"))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
    with pytest.raises(ImageError, match=r"a file named generator.safetensors, not half.safetensors"):
        export(folder.location, str(tmp_path / "half" / "half.safetensors"))


def test_counts_stay_whole_in_half_precision(tmp_path: Path) -> None:
    config = with_values(PAPER_V1, {"generator/base_width": 8, "generator/depth": 2})
    generator = build_generator(config.generator)
    for name, values in generator.named_buffers():
        if name.endswith("num_batches_tracked"):
            values.fill_(100_001)
    save_checkpoint(tmp_path / "own", config, {}, Best.of(generator, {}), {})
    export(str(tmp_path / "own" / "denoiser"), str(tmp_path / "half" / "generator.safetensors"))
    found = load_denoiser(Folder(tmp_path / "half"))[0].state_dict()
    counts = {name: values.item() for name, values in found.items() if name.endswith("num_batches_tracked")}
    assert set(counts.values()) == {100_001}
    assert all(values.dtype == generator.state_dict()[name].dtype for name, values in found.items())


def test_a_format_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"must end in .onnx or .pt2 or .safetensors, but it is 'denoiser.pth'"):
        export(str(tmp_path), "denoiser.pth")


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", identity=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="nothing can be written in"):
        export(folder.location, str(tmp_path / "file" / "denoiser.pt2"))
