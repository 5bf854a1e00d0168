"""A denoiser as a file: ONNX or a `torch.export` program, to run without RayGAN, or its weights in half precision."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim

from raygan.inference.denoiser import ImageError
from raygan.study.storage import Folder
from raygan.train.checkpoint import DENOISER_FILES, load_denoiser

SUFFIXES = (".onnx", ".pt2", ".safetensors")


class Padded(nn.Module):
    """A generator for images of any size: padded to a multiple of its stride, cut back, and clamped."""

    def __init__(self, generator: nn.Module, stride: int) -> None:
        super().__init__()
        self.generator = generator
        self.stride = stride

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoised images, float32, (B, 3, H, W), in [0, 1]."""
        height, width = noisy.shape[-2:]
        rows = _reflected(height, self.stride)
        columns = _reflected(width, self.stride)
        padded = noisy.index_select(2, rows).index_select(3, columns)
        denoised: Tensor = self.generator(padded)
        # By indices, since of a slice the exporter would note whether it is contiguous, which depends on the size.
        inside = denoised.index_select(2, torch.arange(height)).index_select(3, torch.arange(width))
        return inside.clamp(0, 1)


def _reflected(size: int, stride: int) -> Tensor:
    """As in `raygan.inference.tiles`, but turning back only once, which can be exported for sizes that are not known."""
    positions = torch.arange((size + stride - 1) // stride * stride)
    return (size - 1) - ((size - 1) - positions).abs()


def export(checkpoint: str, file: str) -> None:
    """Write the denoiser in the folder `checkpoint` to `file`, whose suffix says how.

    It takes `noisy`, float32, (B, 3, H, W), in [0, 1], of any B, and of any H and W above the generator's stride, and
    gives `denoised` alike. A `.safetensors` file holds the weights alone, in half precision; its name must be
    `generator.safetensors`, since its folder gets the denoiser's other files, too, and is one then. Raises `ImageError`
    for another suffix, or another such name.
    """
    suffix = Path(file).suffix
    if suffix not in SUFFIXES:
        raise ImageError(f"the file's name must end in {' or '.join(SUFFIXES)}, but it is {file!r}")
    source = Folder(checkpoint)
    generator, config = load_denoiser(source)
    Folder(Path(file).parent).require_writable()
    if suffix == ".safetensors":
        _write_half(generator, source, Path(file))
        return
    model = Padded(generator, config.generator.stride).eval()
    least = config.generator.stride + 1
    noisy = torch.rand(2, 3, least + 67, least + 93)
    sizes = {"noisy": {0: Dim.AUTO, 2: Dim.AUTO(min=least), 3: Dim.AUTO(min=least)}}
    if suffix == ".pt2":
        torch.export.save(torch.export.export(model, (noisy,), dynamic_shapes=sizes), file)
        return
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise ImageError(f"ONNX files need {' and '.join(missing)}: pip install 'raygan[onnx]'")
    torch.onnx.export(
        model,
        (noisy,),
        file,
        verbose=False,
        input_names=["noisy"],
        output_names=["denoised"],
        dynamic_shapes=sizes,
        dynamo=True,
        external_data=False,
    )


def _write_half(generator: nn.Module, source: Folder, file: Path) -> None:
    """The folder of a denoiser of the same generator, with weights in half precision."""
    weights_name, *others = DENOISER_FILES
    if file.name != weights_name:
        raise ImageError(f"weights in half precision are written to a file named {weights_name}, not {file.name}")
    for name in others:
        if source.exists(name):
            Folder(file.parent).write(name, source.read(name))
    # Counts, as batch norm has them, stay whole numbers.
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in generator.state_dict().items()
    }
    safetensors.torch.save_file(weights, file)
