"""The noise of a given camera model: from darktable's measurements, or from frames that its owner took."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import nnls

from raygan.errors import InputError
from raygan.noise.camera import MOST_STOPS, Camera

logger = logging.getLogger(__name__)

PROFILES = tuple(
    f"{share}/darktable/noiseprofiles.json"
    for share in (
        "/usr/share",
        "/usr/local/share",
        "/opt/darktable/share",
        "/Applications/darktable.app/Contents/Resources/share",
    )
)
"""Where an installed darktable keeps its profiles."""
DARKTABLE_SHARE = 0.085
"""Variance as darktable measures it, of that of raw values.

darktable's profiles are for its own denoising: tools/noise/noiseprofile.c takes the diagonal details of one level of
Haar's wavelet, (a - b - c + d) / 4, of green that has been demosaicked, which smooths it. A quarter is due to the
wavelet. The share is what that program would measure after the demosaicking of Malvar et al. (see `Camera`), and 0.047
after a bilinear one; darktable's own methods were not tried.
"""
BLOCK = 16
"""Side of the blocks of a frame whose mean and variance are compared."""
ISO = 100
"""The ISO at which `Camera` states its noise."""


class NoiseCalibrationError(InputError):
    """A camera's noise cannot be determined."""


@dataclass(frozen=True)
class NoiseProfile:
    """Noise of raw values x in [0, 1] at one ISO, of variance shot * x + read."""

    shot: float
    read: float
    iso: float

    @property
    def stops(self) -> float:
        """The ISO as an intensity of `Camera`: stops above ISO 100."""
        return math.log2(self.iso / ISO)

    def camera(self) -> Camera:
        """This camera's noise model, around this ISO: photon noise grows with the gain, read noise with its square."""
        factor = ISO / self.iso
        return Camera(shot=self.shot * factor, read=self.read * factor**2)


def darktable_profile(model: str, iso: float, file: str | None = None) -> NoiseProfile:
    """The noise that darktable measured for a camera model, such as "Canon EOS 6D", scaled to `iso` from the nearest.

    It is that of raw values, by `DARKTABLE_SHARE`, and so its variance is known to about a factor of two. `file` is
    darktable's noiseprofiles.json; None: that of the installed darktable. The green channel is used, which white
    balance does not scale. Raises `NoiseCalibrationError` if there is no such file or model.
    """
    _require_iso(iso)
    found = next((Path(path) for path in ([file] if file else PROFILES) if Path(path).is_file()), None)
    if found is None:
        raise NoiseCalibrationError(
            f"{file or 'the noiseprofiles.json of darktable'} was not found: install darktable, or give its file with "
            "--profiles"
        )
    try:
        makers = json.loads(found.read_bytes())["noiseprofiles"]
        models = {
            f"{maker['maker']} {model['model']}": [
                (float(one["iso"]), float(one["a"][1]), float(one["b"][1]))
                for one in model["profiles"]
                # darktable does not offer these either.
                if not one.get("skip", False)
            ]
            for maker in makers
            for model in maker["models"]
            if not all(one.get("skip", False) for one in model["profiles"])
        }
    except (ValueError, LookupError, TypeError) as error:
        raise NoiseCalibrationError(f"{found} is not a file of darktable's noise profiles ({error})") from error
    named = [name for name in models if model.casefold() in (name.casefold(), name.partition(" ")[2].casefold())]
    if not named:
        similar = [name for name in models if model.casefold() in name.casefold()][:10]
        hint = f"similar ones: {', '.join(similar)}" if similar else "give maker and model, such as Canon EOS 6D"
        raise NoiseCalibrationError(f"{found} has no camera {model!r}; {hint}")
    measured, shot, read = min(models[named[0]], key=lambda one: abs(math.log(one[0] / iso)))
    gain = iso / measured
    return NoiseProfile(shot * gain / DARKTABLE_SHARE, max(0.0, read) * gain**2 / DARKTABLE_SHARE, iso)


def read_frames(location: str) -> list[NDArray[np.number[Any]]]:
    """The 16-bit grey images of a folder; raises `NoiseCalibrationError` if there are none."""
    frames = []
    for file in sorted(Path(location).glob("*")):
        if file.suffix.lower() in (".png", ".tif", ".tiff"):
            try:
                with Image.open(file, formats=("PNG", "TIFF")) as image:
                    frames.append(np.asarray(image) if image.mode.startswith("I") else np.zeros(0))
            except (OSError, ValueError) as error:
                raise NoiseCalibrationError(f"{file} cannot be read: {error}") from error
            if frames[-1].ndim != 2:
                raise NoiseCalibrationError(f"{file} is not a 16-bit grey image: give raw values, without demosaicking")
    if not frames:
        raise NoiseCalibrationError(f"{location} has no .tif, .tiff or .png files")
    return frames


def profile_of_frames(
    frames: Iterable[NDArray[np.number[Any]]], iso: float, black: float, white: float
) -> NoiseProfile:
    """Fit a profile to the noise of raw frames of something smooth and out of focus, such as a grey card.

    Frames are mosaics, (H, W), of linear values from `black` to `white`, all at this ISO; they should span dark to
    bright. The variance is computed in blocks of one colour of the mosaic, from differences between neighbors, so that
    uneven light does not count. Raises `NoiseCalibrationError` for fewer than 10 usable blocks.
    """
    _require_iso(iso)
    if not black < white:
        raise NoiseCalibrationError(f"--black must be below --white, but they are {black:g} and {white:g}")
    means, variances, highest = [], [], black
    for frame in frames:
        highest = max(highest, float(frame.max()))
        values = (frame[::2, 1::2].astype(np.float64) - black) / (white - black)
        height, width = (size // BLOCK * BLOCK for size in values.shape)
        blocks = values[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).swapaxes(1, 2)
        mean = blocks.mean(axis=(2, 3)).ravel()
        variance = (np.diff(blocks, axis=3) ** 2).mean(axis=(2, 3)).ravel() / 2
        # Neither black nor white, where noise is cut off.
        usable = (mean > 0.001) & (blocks.max(axis=(2, 3)).ravel() < 0.98)
        means.append(mean[usable])
        variances.append(variance[usable])
    mean, variance = np.concatenate(means or [np.zeros(0)]), np.concatenate(variances or [np.zeros(0)])
    if len(mean) < 10:
        raise NoiseCalibrationError(
            f"the frames have {len(mean)} usable blocks of {BLOCK}x{BLOCK} values, but at least 10 are needed: give "
            "frames that are neither black nor white, and the right --black and --white"
        )
    if highest - black < (white - black) / 2:
        logger.warning(
            "the brightest value of the frames is %g, less than half of white, %g: if they have 12 or 14 bits, give "
            "--white 4095 or 16383, or the noise will be too weak",
            highest,
            white,
        )
    if not variance.any():
        raise NoiseCalibrationError("the frames have no noise at all: give raw frames as the sensor measured them")
    # The error of a block's variance is proportional to it: without weights, bright blocks would decide alone.
    weight = 1 / (variance + variance.mean() / 10)
    (shot, read), _ = nnls(np.stack([mean * weight, weight], axis=1), variance * weight)
    if shot <= 0:
        raise NoiseCalibrationError(
            "the noise of the frames does not grow with brightness: give frames from dark to bright, in linear values"
        )
    return NoiseProfile(float(shot), float(read), iso)


def _require_iso(iso: float) -> None:
    """Raise `NoiseCalibrationError` for an ISO that `Camera` has no intensity for."""
    highest = ISO * 2**MOST_STOPS
    if not ISO <= iso <= highest:
        raise NoiseCalibrationError(f"--iso must be from {ISO} to {highest:,.0f}, but it is {iso:g}")
