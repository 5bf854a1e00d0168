"""A denoiser as a file: ONNX or a `torch.export` program, which run without RayGAN, or half-precision weights."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import nn
from torch.export import Dim

from raygan.config.kinds import Generator
from raygan.config.run import Config
from raygan.inference.denoiser import AnySize, ImageError
from raygan.inference.error import ERROR_FILE
from raygan.inference.reduced import Parity, reduce_precision
from raygan.models.architectures import SpandrelNetwork
from raygan.storage import Folder
from raygan.train.denoisers import DENOISER_FILES, load_generator
from raygan.weights import denoiser_folder

SUFFIXES = (".onnx", ".dtmodel", ".pt2", ".safetensors")
ExportPrecision = Literal["float32", "float16", "int8"]
CARD = "README.md"
"""Model card in a denoiser's folder."""
DARKTABLE_ID = re.compile(r"denoise-[a-z0-9]+(-[a-z0-9]+)*")


def export(checkpoint: str, file: str, precision: ExportPrecision | None = None) -> Parity | None:
    """Write the denoiser in the folder `checkpoint` to `file`, in the format of its suffix.

    An exported program maps `noisy`, float32, (B, 3, H, W), in [0, 1], with any B (1 for a `SpandrelNetwork`) and any H
    and W above the generator's stride, to `denoised` of the same shape. ONNX may be written in another `precision` than
    float32, which is None; its inputs and outputs stay float32, and what it loses is returned and written beside it, to
    a file with the suffix `.parity.json`. A `.dtmodel` file is a package for darktable 5.6 or newer: the ONNX model,
    with its names of inputs and outputs, and its description (see src/ai/README.md of darktable).

    A `.safetensors` file holds the weights alone, in float16; it must be named `generator.safetensors`, since its
    folder also gets the denoiser's other files and thus is a denoiser itself. Raises `ImageError` for another suffix or
    name, and for a precision that the format does not have.
    """
    if "://" in file:
        raise ImageError(f"an export is written to a file on this machine, but the file is {file}")
    target = Path(file)
    _check(target, precision)
    source = Folder(denoiser_folder(checkpoint))
    generator, config = load_generator(source)
    Folder(target.parent).require_writable()
    if target.suffix == ".safetensors":
        _write_half(generator, config, source, target)
        return None
    if target.suffix == ".pt2":
        _write_program(generator, config.generator, target)
        return None
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.onnx"
        names = ("input", "output") if target.suffix == ".dtmodel" else ("noisy", "denoised")
        _write_program(generator, config.generator, written, names)
        parity = None
        if precision in ("float16", "int8"):
            reduced = Path(folder) / "reduced.onnx"
            parity = reduce_precision(written, reduced, precision, config.noises)
            target.with_suffix(".parity.json").write_text(parity.to_json())
            written = reduced
        if target.suffix == ".dtmodel":
            _write_package(written, config.generator, target, source)
        else:
            shutil.copyfile(written, target)
    return parity


def _check(target: Path, precision: ExportPrecision | None) -> None:
    """Raise `ImageError` unless a file can be written in a precision, with what is installed."""
    suffix = target.suffix
    if suffix not in SUFFIXES:
        raise ImageError(f"the file's name must end in {' or '.join(SUFFIXES)}, but it is {target.name!r}")
    held = {".pt2": (None, "float32"), ".safetensors": (None, "float16")}
    if suffix in held and precision not in held[suffix]:
        raise ImageError(f"{suffix} files are in {held[suffix][1]}: write {precision} to an .onnx file")
    if suffix == ".dtmodel" and not DARKTABLE_ID.fullmatch(target.stem):
        raise ImageError(
            f"a package for darktable is named denoise-NAME.dtmodel, in lower case, but got {target.name!r}"
        )
    needed = ["onnx", "onnxscript"] if suffix in (".onnx", ".dtmodel") else []
    needed += ["onnxruntime"] if suffix not in held and precision in ("float16", "int8") else []
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise ImageError(f"{suffix} files need {' and '.join(missing)}: pip install 'raygan[onnx]'")


def _write_program(
    network: nn.Module, generator: Generator, file: Path, names: tuple[str, str] = ("noisy", "denoised")
) -> None:
    """Write an ONNX model, with these names of its input and output, or a `torch.export` program."""
    stride = generator.stride
    model = AnySize(network, stride).eval()
    # Those are called with one image at a time.
    single = isinstance(generator, SpandrelNetwork)
    noisy = torch.rand(1 if single else 2, 3, stride + 68, stride + 94)
    side = Dim.AUTO(min=stride + 1)
    sizes = {"noisy": {0: Dim.STATIC if single else Dim.AUTO, 2: side, 3: side}}
    if file.suffix == ".pt2":
        torch.export.save(torch.export.export(model, (noisy,), dynamic_shapes=sizes), file)
        return
    torch.onnx.export(
        model,
        (noisy,),
        file,
        verbose=False,
        input_names=[names[0]],
        output_names=[names[1]],
        dynamic_shapes=sizes,
        external_data=False,
    )


def _write_package(model: Path, generator: Generator, file: Path, source: Folder) -> None:
    """A zip archive with a folder of the package's name: the model, its description, and its card if it has one."""
    name = file.stem
    about = {
        "id": name,
        "name": name.replace("-", " "),
        "description": "Image denoiser, exported by RayGAN",
        "task": "denoise",
        "version": "1.0",
        "arch": generator.key.lower(),
        "backend": "onnx",
        "tiling": True,
        "num_inputs": 1,
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr(f"{name}/config.json", json.dumps(about, indent=2) + "\n")
        package.write(model, f"{name}/model.onnx")
        if source.exists(CARD):
            package.writestr(f"{name}/{CARD}", source.read(CARD))


def _write_half(generator: nn.Module, config: Config, source: Folder, file: Path) -> None:
    """A folder with the same denoiser, its weights in half precision."""
    weights_name, config_name, *others = DENOISER_FILES
    if file.name != weights_name:
        raise ImageError(f"weights in half precision are written to a file named {weights_name}, not {file.name}")
    target = Folder(file.parent)
    if target.location == source.location:
        raise ImageError(f"the weights would overwrite those of the denoiser, {source}: choose another folder")
    if target.exists(config_name) and not target.exists(weights_name):
        raise ImageError(f"{target} holds a {config_name} that is not a denoiser's: choose another folder")
    # Without the bounds of errors, which hold for the weights as they are.
    for name in (*others, ERROR_FILE) if target.exists(weights_name) else ():
        if target.exists(name):
            target.delete(name)
    for name in others:
        if source.exists(name):
            target.write(name, source.read(name))
    # The source has none if it is another project's model.
    target.write(config_name, json.dumps(config.to_json(), indent=2) + "\n")
    # The integer counters of batch normalization are left as they are.
    target.write(file.name, safetensors.torch.save(generator.half().state_dict()))
