import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from denoisers import SMALL, Blur, image_of, save_denoiser

from raygan.config.kinds import Generator
from raygan.errors import InputError
from raygan.inference import reduced
from raygan.inference.denoiser import ImageError, denoise
from raygan.inference.export import export
from raygan.models import ResidualUNet, UNet
from raygan.storage import Folder, StorageError
from raygan.train.denoisers import load_generator

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
    # The bounds of other weights do not hold.
    (tmp_path / "half" / "error.json").write_text("{}")
    export(folder.location, str(tmp_path / "half" / "generator.safetensors"))
    assert not (tmp_path / "half" / "error.json").exists()
    with pytest.raises(ImageError, match="the weights would overwrite those of the denoiser"):
        export(folder.location, str(tmp_path / "own" / "generator.safetensors"))
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("precision", "tolerance", "share"), [("float16", 2e-3, 0.8), ("int8", 0.1, 0.95)])
def test_reduced_precision_says_what_it_loses(
    precision: Any, tolerance: float, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduced, "SIDE", 64)
    monkeypatch.setattr(reduced, "TIMED", (64, 96))
    config = ResidualUNet(base_width=16, depth=2, blocks=1, normalization="none")
    folder = save_denoiser(tmp_path / "own", config)
    files = [tmp_path / "float32.onnx", tmp_path / "reduced.onnx"]
    assert export(folder.location, str(files[0])) is None
    parity = export(folder.location, str(files[1]), precision)
    assert parity is not None
    sizes = [file.stat().st_size for file in files]
    assert [parity.bytes_float32, parity.bytes_reduced] == pytest.approx(sizes, rel=0.01)
    assert sizes[1] < share * sizes[0]
    noisy = image_of((1, 3, 70, 90), np.float32)
    sessions = [onnxruntime.InferenceSession(str(file)) for file in files]
    expected, found = (session.run(None, {"noisy": noisy})[0] for session in sessions)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < tolerance
    record = json.loads((tmp_path / "reduced.parity.json").read_text())
    assert [(row["noise"], row["level"]) for row in record["noises"]] == [
        (kind, level) for kind in ("gaussian", "salt_and_pepper", "speckle") for level in ("low", "mean", "high")
    ]
    lost = [row["float32"] - row["reduced"] for row in record["noises"]]
    assert record["lost"]["mean_dB"] == pytest.approx(np.mean(lost))
    assert record["lost"]["worst"]["dB"] == max(lost)
    assert f"{parity.worst.lost:.3f} dB at worst" in str(parity)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_int8_that_would_change_nothing_is_refused(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own", UNet(base_width=4))
    with pytest.raises(InputError, match="int8 would change nothing: of the network's 6 convolutions, the 3 first"):
        export(folder.location, str(tmp_path / "reduced.onnx"), "int8")
    assert not (tmp_path / "reduced.onnx").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_packages_for_darktable_have_what_it_reads(tmp_path: Path) -> None:
    """Names, shapes and entries as darktable's src/ai/README.md has them."""
    folder = save_denoiser(tmp_path / "own")
    folder.write("README.md", "What it was trained on.")
    export(folder.location, str(tmp_path / "denoise-own.dtmodel"))
    with zipfile.ZipFile(tmp_path / "denoise-own.dtmodel") as package:
        assert package.namelist() == [f"denoise-own/{name}" for name in ("config.json", "model.onnx", "README.md")]
        about = json.loads(package.read("denoise-own/config.json"))
        session = onnxruntime.InferenceSession(package.read("denoise-own/model.onnx"))
    expected = {"id": "denoise-own", "name": "denoise own", "task": "denoise", "backend": "onnx", "num_inputs": 1}
    assert expected.items() <= about.items()
    noisy = torch.rand(1, 3, 256, 256)
    [found] = session.run(["output"], {"input": noisy.numpy()})
    whole = denoise(load_generator(folder)[0], noisy, SMALL.stride)
    np.testing.assert_allclose(found, whole.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "precision", "message"),
    [
        ("own.pt2", "float16", r".pt2 files are in float32: write float16 to an .onnx file"),
        ("generator.safetensors", "int8", r".safetensors files are in float16"),
        ("My Denoiser.dtmodel", None, r"is named denoise-NAME.dtmodel, in lower case, but got 'My Denoiser.dtmodel'"),
    ],
)
def test_what_a_format_does_not_have_is_refused(file: str, precision: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=message):
        export(str(tmp_path), str(tmp_path / file), precision)


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=r"must end in .onnx or .dtmodel or .pt2 or .safetensors, but it is 'denoiser.pth'"
    ):
        export(str(tmp_path), "denoiser.pth")


def test_folders_that_cannot_be_written_to_are_refused(tmp_path: Path) -> None:
    folder = save_denoiser(tmp_path / "own")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="nothing can be written in"):
        export(folder.location, str(tmp_path / "file" / "denoiser.pt2"))
