"""A denoiser as a file: ONNX or a `torch.export` program, which run without RayGAN, or half-precision weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.export import Dim

from raygan.inference.denoiser import AnySize, ImageError
from raygan.models.architectures import SpandrelNetwork
from raygan.study.storage import Folder
from raygan.train.checkpoint import DENOISER_FILES, load_generator
from raygan.weights import denoiser_folder

SUFFIXES = (".onnx", ".pt2", ".safetensors")


def export(checkpoint: str, file: str) -> None:
    """Write the denoiser in the folder `checkpoint` to `file`, in the format of its suffix.

    An exported program maps `noisy`, float32, (B, 3, H, W), in [0, 1], with any B (1 for a `SpandrelNetwork`)
    and any H and W above the generator's stride, to `denoised` of the same shape. A `.safetensors` file holds the
    weights alone, in half precision; it must be named `generator.safetensors`, since its folder also gets the
    denoiser's other files and thus is a denoiser itself. Raises `ImageError` for another suffix or name.
    """
    suffix = Path(file).suffix
    if suffix not in SUFFIXES:
        raise ImageError(f"the file's name must end in {' or '.join(SUFFIXES)}, but it is {file!r}")
    source = Folder(denoiser_folder(checkpoint))
    generator, config = load_generator(source)
    Folder(Path(file).parent).require_writable()
    if suffix == ".safetensors":
        _write_half(generator, source, Path(file))
        return
    stride = config.generator.stride
    model = AnySize(generator, stride).eval()
    # Those are called with one image at a time.
    single = isinstance(config.generator, SpandrelNetwork)
    noisy = torch.rand(1 if single else 2, 3, stride + 68, stride + 94)
    side = Dim.AUTO(min=stride + 1)
    sizes = {"noisy": {0: Dim.STATIC if single else Dim.AUTO, 2: side, 3: side}}
    if suffix == ".pt2":
        torch.export.save(torch.export.export(model, (noisy,), dynamic_shapes=sizes), file)
        return
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise ImageError(f"ONNX files need {' and '.join(missing)}: pip install 'raygan[onnx]'")
    torch.onnx.export(
        model, (noisy,), file, verbose=False, output_names=["denoised"], dynamic_shapes=sizes, external_data=False
    )


def _write_half(generator: nn.Module, source: Folder, file: Path) -> None:
    """A folder with the same denoiser, its weights in half precision."""
    weights_name, *others = DENOISER_FILES
    if file.name != weights_name:
        raise ImageError(f"weights in half precision are written to a file named {weights_name}, not {file.name}")
    # Without the bounds of errors, which hold for the weights as they are.
    for name in others:
        if source.exists(name):
            Folder(file.parent).write(name, source.read(name))
    # The integer counters of batch normalization are left as they are.
    safetensors.torch.save_file(generator.half().state_dict(), file)
