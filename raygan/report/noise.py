"""A picture of what a camera's noise does to a photo, with its variance curve."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageDraw

from raygan.config.run import MAX_MEGAPIXELS
from raygan.data.photos import SMALLEST_EVALUATED, decode_photo
from raygan.data.sources import PhotosError
from raygan.noise.calibration import NoiseProfile
from raygan.seeds import torch_generator
from raygan.storage import split_file

SIDE = 512
"""Largest width and height of the part of the photo that is shown, in pixels."""
HEIGHT, MARGIN = 300, 60
"""Height and margin of the curve, in pixels."""


def noise_picture(file: str, profile: NoiseProfile, output: str) -> None:
    """Draw the middle of a clean photo, without and with the camera's noise, and the variance curve of raw values.

    Raises `PhotosError` if the photo cannot be used, and `StorageError` if the picture cannot be written.
    """
    target, name = split_file(output)
    target.require_writable()
    photo, problem, _ = decode_photo(*split_file(file), SMALLEST_EVALUATED, MAX_MEGAPIXELS)
    if problem:
        raise PhotosError(f"{file} is {problem}: give a clean RGB photo")
    width, height = min(SIDE, photo.width), min(SIDE, photo.height)
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    shown = photo.crop((left, top, left + width, top + height))
    clean = torch.from_numpy(np.array(shown)).permute(2, 0, 1).float() / 255
    noisy = profile.camera().add(clean, profile.stops, torch_generator("noise picture"))
    pixels = (noisy.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.new("RGB", (max(2 * width, 600), height + HEIGHT), "white")
    picture.paste(shown, (0, 0))
    picture.paste(Image.fromarray(pixels), (width, 0))
    _draw_curve(ImageDraw.Draw(picture), profile, picture.width, height)
    content = io.BytesIO()
    picture.save(content, "PNG")
    target.write(name, content.getvalue())


def _draw_curve(draw: ImageDraw.ImageDraw, profile: NoiseProfile, width: int, top: int) -> None:
    left, right, upper, lower = MARGIN, width - MARGIN, top + MARGIN, top + HEIGHT - MARGIN
    most = profile.shot + profile.read
    draw.line([(left, upper), (left, lower), (right, lower)], "black", 2)
    values = [profile.shot * x + profile.read for x in (0.0, 1.0)]
    ends = [(x, lower - (lower - upper) * value / most) for x, value in zip((left, right), values, strict=True)]
    draw.line(ends, "teal", 3)
    title = f"variance of raw values x at ISO {profile.iso:g}: {profile.shot:.3g} x + {profile.read:.3g}"
    draw.text((left, top + MARGIN // 3), title, "black")
    draw.text((left, lower + 8), "x = 0", "black")
    draw.text((right - 30, lower + 8), "x = 1", "black")
    draw.text((4, upper), f"{most:.2g}", "black")
