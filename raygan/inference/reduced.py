"""ONNX models in reduced precision, and what they lose: on the photos that come with scikit-image, by ONNX Runtime."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raygan.config.kinds import LEVELS, Level, Noise
from raygan.data.samples import EVALUATION_PHOTOS, VALIDATION_PHOTOS, sample_photos_folder
from raygan.errors import InputError
from raygan.metrics import psnr
from raygan.noise.sampling import add_noise
from raygan.seeds import torch_generator

Reduced = Literal["float16", "int8"]
SIDE = 128
"""Side in pixels of the crops from the photos' centres."""
TIMED = (256, 256)
"""Height and width in pixels of the image that is timed."""
KEPT = 3
"""First and last convolutions that stay in float32 in an int8 model: at full resolution, rounding costs most."""


@dataclass(frozen=True)
class NoiseLoss:
    """What a model loses on one noise: mean PSNR over the photos, in dB."""

    noise: str
    level: Level
    float32: float
    reduced: float

    @property
    def lost(self) -> float:
        """The difference in dB."""
        return self.float32 - self.reduced


@dataclass(frozen=True)
class Parity:
    """A model in reduced precision beside the same model in float32."""

    precision: Reduced
    noises: tuple[NoiseLoss, ...]
    bytes_float32: int
    bytes_reduced: int
    megapixels_per_second_float32: float
    """Of ONNX Runtime on one core of this machine's CPU."""
    megapixels_per_second_reduced: float

    @property
    def mean(self) -> float:
        """Mean loss over the noises and levels, in dB."""
        return sum(one.lost for one in self.noises) / len(self.noises)

    @property
    def worst(self) -> NoiseLoss:
        """The noise and level of the largest loss."""
        return max(self.noises, key=lambda one: one.lost)

    def to_json(self) -> str:
        """All figures."""
        worst = {"noise": self.worst.noise, "level": self.worst.level, "dB": self.worst.lost}
        return json.dumps({"lost": {"mean_dB": self.mean, "worst": worst}, **asdict(self)}, indent=2) + "\n"

    def __str__(self) -> str:
        """The summary for the terminal."""
        worst, sizes = self.worst, (self.bytes_float32 / 1e6, self.bytes_reduced / 1e6)
        speeds = (self.megapixels_per_second_float32, self.megapixels_per_second_reduced)
        return (
            f"{self.precision} against float32: {self.mean:.3f} dB lost on average, {worst.lost:.3f} dB at worst "
            f"({worst.noise}, {worst.level}), {sizes[1]:.2f} instead of {sizes[0]:.2f} MB, {speeds[1]:.2f} instead of "
            f"{speeds[0]:.2f} megapixels per second on a core of this CPU"
        )


def reduce_precision(source: Path, target: Path, precision: Reduced, noises: Sequence[Noise]) -> Parity:
    """Write the ONNX model `source`, float32, in reduced precision to `target`; both take and give float32.

    An int8 model is quantized statically, in QDQ form: weights per channel, activations by the range of their
    values for the noises on the validation photos of `raygan.data.samples`. The result is what the model loses on the
    evaluation photos. Raises `InputError` if the network has no convolutions that int8 would be used for.
    """
    if precision == "float16":
        _to_float16(source, target)
    else:
        _to_int8(source, target, noises)
    sessions = [_session(file) for file in (source, target)]
    rows: dict[tuple[str, Level], list[list[float]]] = {}
    for noise, level, clean, noisy in _noisy_crops(EVALUATION_PHOTOS, noises):
        values = [psnr(clean, torch.from_numpy(_run(session, noisy))).item() for session in sessions]
        rows.setdefault((noise.key, level), []).append(values)
    losses = tuple(NoiseLoss(*where, *np.mean(values, axis=0).tolist()) for where, values in rows.items())
    sizes = [file.stat().st_size for file in (source, target)]
    return Parity(precision, losses, *sizes, *_megapixels_per_second(sessions))


def _to_float16(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def _to_int8(source: Path, target: Path, noises: Sequence[Noise]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        # Others, such as transposed ones, have no int8 kernel on CPUs: they would be rounded for nothing.
        graph = onnx.load(prepared).graph
        convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
        if len(convolutions) <= 2 * KEPT:
            raise InputError(
                f"int8 would change nothing: of the network's {len(convolutions)} convolutions, the {KEPT} first and "
                f"{KEPT} last ones stay in float32; use --precision float16"
            )
        quantize_static(
            str(prepared),
            str(target),
            _Calibration(graph.input[0].name, _noisy_crops(VALIDATION_PHOTOS, noises)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=convolutions[:KEPT] + convolutions[-KEPT:],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


class _Calibration:
    """ONNX Runtime's interface to calibration data."""

    def __init__(self, name: str, crops: Iterable[tuple[Noise, Level, Tensor, Tensor]]) -> None:
        self.name = name
        self.crops = iter(crops)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input; None at the end."""
        crop = next(self.crops, None)
        return None if crop is None else {self.name: crop[3].numpy()}


def _noisy_crops(photos: Sequence[str], noises: Sequence[Noise]) -> Iterator[tuple[Noise, Level, Tensor, Tensor]]:
    """Each photo's centre with each noise at each level: noise, level, clean and noisy, (1, 3, SIDE, SIDE)."""
    folder = sample_photos_folder(tuple(photos))
    for index, (name, noise, level) in enumerate(itertools.product(photos, noises, LEVELS)):
        pixels = np.asarray(Image.open(folder / name).convert("RGB"), dtype=np.float32) / 255
        top, left = ((side - SIDE) // 2 for side in pixels.shape[:2])
        crop = np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1)[None])
        clean = torch.from_numpy(crop)
        stream = torch_generator("reduced precision", index)
        yield noise, level, clean, add_noise(clean, [noise], [noise.intensity(level)], [stream])


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Threads that wait for each other would be timed too, and much of the time where other programs run.
    options.intra_op_num_threads = 1
    # Errors alone: for float16, it warns of each cast that it adds.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _run(session: Any, noisy: Tensor) -> NDArray[np.float32]:
    [denoised] = session.run(None, {session.get_inputs()[0].name: noisy.numpy()})
    result: NDArray[np.float32] = denoised
    return result


def _megapixels_per_second(sessions: Sequence[Any]) -> list[float]:
    """The best of three runs of each session, in turns, by the CPU time that they take."""
    noisy = torch.rand(1, 3, *TIMED, generator=torch_generator("timed"))
    seconds = [[_seconds(session, noisy) for session in sessions] for _ in range(3)]
    return [TIMED[0] * TIMED[1] / 1e6 / min(times) for times in zip(*seconds, strict=True)]


def _seconds(session: Any, noisy: Tensor) -> float:
    started = time.process_time()
    _run(session, noisy)
    return time.process_time() - started
