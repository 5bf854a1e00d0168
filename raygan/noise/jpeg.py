"""JPEG compression of tensors, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

# Tables K.1 and K.2 of the JPEG standard (ITU-T T.81).
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
    *(99, 99, 99, 99, 99, 99, 99, 99),
)
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def compressed(image: Tensor, quality: Tensor, subsampled: Tensor) -> Tensor:
    """An image, float32, (3, H, W), in [0, 1], as it comes back from a baseline JPEG file.

    `quality` is libjpeg's, 1 to 100; `subsampled` says whether chroma has half the resolution. Both are scalars on the
    image's device, which never has to wait for the CPU. Chroma is brought back bilinearly.
    """
    height, width = image.shape[1:]
    padded = functional.pad(image[None], (0, -width % 16, 0, -height % 16), mode="replicate")[0]
    colour = torch.tensor(_TO_YCBCR, device=image.device)
    # Rounded wherever libjpeg stores bytes.
    planes = torch.einsum("cd,dhw->chw", colour, (padded.clamp(0, 1) * 255).round()).round()
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    luminance = _quantized(planes[:1] - 128, _LUMINANCE, scale) + 128
    full = _quantized(planes[1:], _CHROMINANCE, scale)
    half = _quantized(functional.avg_pool2d(planes[1:], 2).round(), _CHROMINANCE, scale)
    doubled = functional.interpolate(half[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    decoded = torch.cat([luminance, torch.where(subsampled, doubled, full)])
    back = torch.einsum("cd,dhw->chw", torch.tensor(_TO_RGB, device=image.device), decoded)
    return (back.round().clamp(0, 255) / 255)[:, :height, :width]


def _quantized(planes: Tensor, table: tuple[int, ...], scale: Tensor) -> Tensor:
    """Planes, (C, H, W), after quantization of the cosine coefficients of their 8x8 blocks."""
    channels, height, width = planes.shape
    padded = functional.pad(planes[None], (0, -width % 8, 0, -height % 8), mode="replicate")[0]
    rows, columns = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = padded.reshape(channels, rows, 8, columns, 8).permute(0, 1, 3, 2, 4)
    cosines = _cosines(planes.device)
    base = torch.tensor(table, dtype=torch.float32, device=planes.device).reshape(8, 8)
    steps = ((base * scale + 50) / 100).floor().clamp(1, 255)
    coefficients = (cosines @ blocks @ cosines.T / steps).round() * steps
    restored = cosines.T @ coefficients @ cosines
    joined = restored.permute(0, 1, 3, 2, 4).reshape(channels, 8 * rows, 8 * columns)
    return joined[:, :height, :width].round()


def _cosines(device: torch.device) -> Tensor:
    """The orthonormal cosine transform of eight values."""
    frequencies, places = torch.arange(8.0, device=device)[:, None], torch.arange(8.0, device=device)
    cosines = torch.cos(math.pi / 8 * (places + 0.5) * frequencies) / 2
    cosines[0] /= math.sqrt(2)
    return cosines
