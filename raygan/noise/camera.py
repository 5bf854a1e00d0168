"""The noise of a camera: in its raw values, carried through its processing to sRGB.

A clean sRGB photo is taken back to raw values with a camera drawn at random (Brooks et al., 2019, "Unprocessing images
for learned raw denoising"), gets noise there (Foi et al., 2008: variance a x + b), and is developed with and without
that noise. The difference, smoothed as cameras smooth noise, is added to the clean photo, which keeps its detail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raygan.config.kinds import Noise, require_range
from raygan.config.section import Fraction
from raygan.noise.jpeg import compressed

SHOT = 1e-4
"""Variance of the shot noise at white, at ISO 100: the lower end of Brooks et al.'s range."""
MOST_STOPS = 10.0
"""Stops above ISO 100 at most: ISO 102,400."""


@dataclass(frozen=True, kw_only=True)
class Camera(Noise):
    """A camera's noise, as it is in the sRGB photo; the intensity is in stops above ISO 100 (6: ISO 6400)."""

    low: float = 0.0
    high: float = 7.0
    jpeg: Fraction = 0.75
    """Share of the photos that are compressed as JPEG files, of quality 70 to 98."""

    def _check(self) -> None:
        require_range(self, most=MOST_STOPS)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        height, width = clean.shape[1:]
        # A mosaic has whole cells.
        padded = functional.pad(clean[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
        draw = _Draw(generator, clean.device)
        development = Development.drawn(draw)
        raw = mosaic(development.to_raw(padded))
        shot, read = noise_levels(intensity, draw)
        noisy = raw_noise(raw, shot, read, generator)
        better = draw.chance(0.5)
        developed = [development.to_srgb(demosaicked(values, better)) for values in (noisy, raw)]
        difference = smoothed(developed[0] - developed[1], luma=draw.uniform(0, 0.8), chroma=draw.uniform(1, 5))
        result = (clean + difference[:, :height, :width]).clamp(0, 1)
        file = compressed(result, draw.uniform(70, 98).round(), draw.chance(0.5))
        return torch.where(draw.chance(self.jpeg), file, result)


class _Draw:
    """Random scalars, on the image's device."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.generator, self.device = generator, device

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((), generator=self.generator, device=self.device)

    def normal(self) -> Tensor:
        return torch.randn((), generator=self.generator, device=self.device)

    def chance(self, probability: float) -> Tensor:
        return torch.rand((), generator=self.generator, device=self.device) < probability


def noise_levels(stops: float, draw: _Draw) -> tuple[Tensor, Tensor]:
    """Shot and read noise: the variance of a raw value x in [0, 1] is shot * x + read.

    Shot noise doubles with each stop; read noise follows it as in the cameras that Brooks et al. measured.
    """
    shot = SHOT * 2**stops
    read = torch.exp(2.18 * math.log(shot) + 1.2 + 0.26 * draw.normal())
    return torch.full_like(read, shot), read


def raw_noise(raw: Tensor, shot: Tensor, read: Tensor, generator: torch.Generator) -> Tensor:
    """Raw values with noise of variance shot * raw + read, clipped to [0, 1] as a sensor does."""
    normal = torch.randn(raw.shape, generator=generator, device=raw.device)
    return (raw + (shot * raw + read).sqrt() * normal).clamp(0, 1)


@dataclass(frozen=True)
class Development:
    """How a camera develops its colours to sRGB: white balance, colour matrix, gamma, tone curve."""

    gains: Tensor
    """White-balance gains of red, green and blue, (3, 1, 1)."""
    matrix: Tensor
    """From the camera's colours to linear sRGB, (3, 3); its rows sum to 1, so that grey stays grey."""

    @classmethod
    def drawn(cls, draw: _Draw) -> Development:
        """One of a plausible camera: gains as in Brooks et al., and a matrix that makes colours more vivid."""
        red, blue = draw.uniform(1.9, 2.4), draw.uniform(1.5, 1.9)
        rows = []
        for own in range(3):
            vivid, share = draw.uniform(0.3, 0.9), draw.uniform(0.3, 0.9)
            others = [-vivid * share, -vivid * (1 - share)]
            others.insert(own, 1 + vivid)
            rows.append(torch.stack(others))
        gains = torch.stack([red, torch.ones_like(red), blue])
        return cls(gains[:, None, None], torch.stack(rows))

    def to_raw(self, image: Tensor) -> Tensor:
        """The camera's linear colours of an sRGB image, both (3, H, W), in [0, 1]."""
        # The inverse of the tone curve 3 x² - 2 x³.
        linear = (0.5 - torch.sin(torch.asin((1 - 2 * image).clamp(-1, 1)) / 3)).clamp(min=1e-8) ** 2.2
        camera = torch.einsum("cd,dhw->chw", torch.linalg.inv(self.matrix), linear).clamp(0, 1)
        # Highlights stay white: dividing them by a gain would leave them grey (Brooks et al., section 3.3).
        bright = ((camera.mean(dim=0, keepdim=True) - 0.9).clamp(min=0) / 0.1) ** 2
        return camera * torch.maximum(bright + (1 - bright) / self.gains, 1 / self.gains)

    def to_srgb(self, camera: Tensor) -> Tensor:
        """The sRGB image of the camera's linear colours, both (3, H, W), in [0, 1]."""
        balanced = (camera * self.gains).clamp(0, 1)
        linear = torch.einsum("cd,dhw->chw", self.matrix, balanced).clamp(1e-8, 1)
        encoded = linear ** (1 / 2.2)
        return 3 * encoded**2 - 2 * encoded**3


def mosaic(colours: Tensor) -> Tensor:
    """The values that a Bayer sensor (RGGB) measures, (1, H, W), of colours, (3, H, W), of even height and width."""
    values = colours[1:2].clone()
    values[0, ::2, ::2] = colours[0, ::2, ::2]
    values[0, 1::2, 1::2] = colours[2, 1::2, 1::2]
    return values


def demosaicked(values: Tensor, better: Tensor) -> Tensor:
    """Colours, (3, H, W), from a mosaic, (1, H, W): bilinear, or `better` (Malvar et al., 2004)."""
    padded = functional.pad(values[None], (2, 2, 2, 2), mode="reflect")
    cross, rows, columns, diagonal = (
        torch.where(better, functional.conv2d(padded, malvar), functional.conv2d(padded, bilinear))[0, 0]
        for malvar, bilinear in zip(_kernels(_MALVAR, values), _kernels(_BILINEAR, values), strict=True)
    )
    own = values[0]
    red, green, blue = own.clone(), own.clone(), own.clone()
    green[::2, ::2], green[1::2, 1::2] = cross[::2, ::2], cross[1::2, 1::2]
    red[::2, 1::2], red[1::2, ::2], red[1::2, 1::2] = rows[::2, 1::2], columns[1::2, ::2], diagonal[1::2, 1::2]
    blue[1::2, ::2], blue[::2, 1::2], blue[::2, ::2] = rows[1::2, ::2], columns[::2, 1::2], diagonal[::2, ::2]
    return torch.stack([red, green, blue]).clamp(0, 1)


# 8 times the kernels, 5x5: green at red or blue; a colour at green, between its neighbors in the row, and in the
# column; red at blue and blue at red.
_BILINEAR = (
    ((0, 0, 0, 0, 0), (0, 0, 2, 0, 0), (0, 2, 0, 2, 0), (0, 0, 2, 0, 0), (0, 0, 0, 0, 0)),
    ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 4, 0, 4, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
    ((0, 0, 0, 0, 0), (0, 0, 4, 0, 0), (0, 0, 0, 0, 0), (0, 0, 4, 0, 0), (0, 0, 0, 0, 0)),
    ((0, 0, 0, 0, 0), (0, 2, 0, 2, 0), (0, 0, 0, 0, 0), (0, 2, 0, 2, 0), (0, 0, 0, 0, 0)),
)
_MALVAR = (
    ((0, 0, -1, 0, 0), (0, 0, 2, 0, 0), (-1, 2, 4, 2, -1), (0, 0, 2, 0, 0), (0, 0, -1, 0, 0)),
    ((0, 0, 0.5, 0, 0), (0, -1, 0, -1, 0), (-1, 4, 5, 4, -1), (0, -1, 0, -1, 0), (0, 0, 0.5, 0, 0)),
    ((0, 0, -1, 0, 0), (0, -1, 4, -1, 0), (0.5, 0, 5, 0, 0.5), (0, -1, 4, -1, 0), (0, 0, -1, 0, 0)),
    ((0, 0, -1.5, 0, 0), (0, 2, 0, 2, 0), (-1.5, 0, 6, 0, -1.5), (0, 2, 0, 2, 0), (0, 0, -1.5, 0, 0)),
)


def _kernels(eighths: tuple[tuple[tuple[float, ...], ...], ...], like: Tensor) -> list[Tensor]:
    return [torch.tensor(kernel, dtype=like.dtype, device=like.device)[None, None] / 8 for kernel in eighths]


def smoothed(noise: Tensor, luma: Tensor, chroma: Tensor) -> Tensor:
    """Noise, (3, H, W), after Gaussian filters of these standard deviations, in pixels, of its luma and its chroma.

    Cameras smooth colours more, since people see their noise as blotches, but hardly their blur.
    """
    weights = torch.tensor((0.299, 0.587, 0.114), device=noise.device)
    brightness = torch.einsum("c,chw->hw", weights, noise)[None]
    return _blurred(brightness, luma) + _blurred(noise - brightness, chroma)


def _blurred(planes: Tensor, deviation: Tensor, reach: int = 12) -> Tensor:
    places = torch.arange(-reach, reach + 1, device=planes.device)
    kernel = torch.softmax(-(places**2) / (2 * deviation**2 + 1e-6), dim=0)
    padded = functional.pad(planes[:, None], (reach, reach, reach, reach), mode="replicate")
    rows = functional.conv2d(padded, kernel.reshape(1, 1, 1, -1))
    return functional.conv2d(rows, kernel.reshape(1, 1, -1, 1))[:, 0]
