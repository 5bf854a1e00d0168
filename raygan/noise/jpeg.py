"""JPEG compression as noise, on tensors on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raygan.config.kinds import Noise
from raygan.config.section import Share, require

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


@dataclass(frozen=True, kw_only=True)
class Jpeg(Noise):
    """JPEG compression; the intensity is libjpeg's quality, where lower is stronger."""

    low: float = 40
    high: float = 10
    subsampled: Share = 1.0
    """Share of the images whose chroma has half the resolution, as in most JPEG files."""

    def _check(self) -> None:
        require("1 <= high <= low <= 100", 1 <= self.high <= self.low <= 100, low=self.low, high=self.high)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        return self.add_to_batch(clean[None], [intensity], [generator])[0]

    def add_to_batch(
        self, clean: Tensor, intensities: Sequence[float], generators: Sequence[torch.Generator]
    ) -> Tensor:
        """See `Noise.add_to_batch`."""
        drawn = torch.stack([torch.rand((), generator=generator, device=clean.device) for generator in generators])
        return compressed(clean, torch.tensor(intensities, device=clean.device).floor(), drawn < self.subsampled)


def to_ycbcr(images: Tensor) -> Tensor:
    """Luma and chroma, (B, 3, H, W), of RGB images, as JFIF defines them, but with chroma centred on 0."""
    return torch.einsum("cd,bdhw->bchw", torch.tensor(_TO_YCBCR, device=images.device), images)


def to_rgb(planes: Tensor) -> Tensor:
    """The inverse of `to_ycbcr`."""
    return torch.einsum("cd,bdhw->bchw", torch.tensor(_TO_RGB, device=planes.device), planes)


def compressed(images: Tensor, quality: Tensor, subsampled: Tensor) -> Tensor:
    """Images, float32, (B, 3, H, W), in [0, 1], as they come back from baseline JPEG files.

    `quality` is libjpeg's, 1 to 100; `subsampled` says whether chroma has half the resolution. Both have one value per
    image, (B,), on the images' device. Chroma is upsampled bilinearly.
    """
    height, width = images.shape[2:]
    padded = functional.pad(images, (0, -width % 16, 0, -height % 16), mode="replicate")
    # Rounded wherever libjpeg stores bytes.
    planes = to_ycbcr((padded.clamp(0, 1) * 255).round()).round()
    # libjpeg computes with integers.
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    luminance = _quantized(planes[:, :1] - 128, _LUMINANCE, scale) + 128
    full = _quantized(planes[:, 1:], _CHROMINANCE, scale)
    half = _quantized(functional.avg_pool2d(planes[:, 1:], 2).round(), _CHROMINANCE, scale)
    doubled = functional.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
    chrominance = torch.where(subsampled[:, None, None, None], doubled, full)
    decoded = to_rgb(torch.cat([luminance, chrominance], dim=1))
    return (decoded.round().clamp(0, 255) / 255)[..., :height, :width]


def _quantized(planes: Tensor, table: tuple[int, ...], scale: Tensor) -> Tensor:
    """Planes, (B, C, H, W), of whole blocks, after quantization of the cosine coefficients of their 8x8 blocks."""
    batch, channels, height, width = planes.shape
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    cosines = _cosines(planes.device)
    base = torch.tensor(table, dtype=torch.float32, device=planes.device).reshape(8, 8)
    steps = ((base * scale[:, None, None, None, None, None] + 50) / 100).floor().clamp(1, 255)
    coefficients = (cosines @ blocks @ cosines.T / steps).round() * steps
    restored = (cosines.T @ coefficients @ cosines).transpose(3, 4)
    # As bytes, which have been centered at 0.
    return restored.reshape(planes.shape).round().clamp(-128, 127)


def _cosines(device: torch.device) -> Tensor:
    """The orthonormal cosine transform of eight values."""
    frequencies, places = torch.arange(8.0, device=device)[:, None], torch.arange(8.0, device=device)
    cosines = torch.cos(math.pi / 8 * (places + 0.5) * frequencies) / 2
    cosines[0] /= math.sqrt(2)
    return cosines
