"""The noise of a camera: in its raw values, carried through its processing to sRGB.

A clean sRGB photo is taken back to raw values with a camera drawn at random (Brooks et al., 2019, "Unprocessing images
for learned raw denoising"), gets noise there (Foi et al., 2008: variance a x + b), and is developed with and without
that noise. The difference, smoothed as cameras smooth noise, is added to the clean photo, which keeps its detail.

Images are batches, (B, C, H, W); parameters have one value per image, (B,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raygan.config.kinds import Noise, require_range
from raygan.config.section import NonNegative, Positive, Share
from raygan.noise.jpeg import compressed, to_rgb, to_ycbcr

STRONG_EDGE = 0.12
"""Mean gradient, per two pixels, at and above which cameras leave all noise."""
MOST_STOPS = 10.0
"""Stops above ISO 100 at most: ISO 102,400."""


@dataclass(frozen=True, kw_only=True)
class Camera(Noise):
    """A camera's noise, as it is in the sRGB photo; the intensity is in stops above ISO 100 (6: ISO 6400)."""

    low: float = 0.0
    high: float = 8.0
    shot: Positive = 1e-4
    """Variance of the shot noise at white and ISO 100, which doubles with each stop. The default is the lower end of
    Brooks et al.'s range, as of a small sensor."""
    read: NonNegative | None = None
    """Variance of the read noise at ISO 100, which quadruples with each stop. None: drawn at random, to match
    the shot noise as in the cameras that Brooks et al. measured."""
    jpeg: Share = 0.75
    """Share of the photos that are compressed as JPEG files, of quality 70 to 98."""

    def _check(self) -> None:
        require_range(self, most=MOST_STOPS)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        return self.add_to_batch(clean[None], [intensity], [generator])[0]

    def add_to_batch(
        self, clean: Tensor, intensities: Sequence[float], generators: Sequence[torch.Generator]
    ) -> Tensor:
        """See `Noise.add_to_batch`."""
        height, width = clean.shape[2:]
        # A mosaic has whole cells.
        padded = functional.pad(clean, (0, width % 2, 0, height % 2), mode="replicate")
        draw = Draw(generators, clean.device)
        development = Development.drawn(draw)
        raw = mosaic(development.to_raw(padded))
        shot, read = self._noise_levels(torch.tensor(intensities, device=clean.device), draw)
        # Half the difference between a noise and its mirror image has a mean of 0: brightness stays, as in pairs whose
        # clean photo is the mean of many noisy ones.
        both = torch.cat(raw_noise(raw, shot, read, draw))
        noisy, mirrored = development.to_srgb(demosaicked(both, draw.chance(0.5).repeat(2))).chunk(2)
        luma, chroma, kept = draw.uniform(0, 1.2), draw.uniform(1, 6), draw.uniform(0.4, 1)
        difference = reduced((noisy - mirrored) / 2, luma, chroma, kept) * at_edges(padded, draw.uniform(0.3, 1))
        result = (clean + difference[..., :height, :width]).clamp(0, 1)
        file = compressed(result, draw.uniform(70, 98).round(), draw.chance(0.5))
        return torch.where(_per_image(draw.chance(self.jpeg)), file, result)

    def _noise_levels(self, stops: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Shot and read noise: the variance of a raw value x in [0, 1] is shot * x + read."""
        shot = self.shot * 2**stops
        drawn = torch.exp(2.18 * shot.log() + 1.2 + 0.26 * draw.normal())
        return shot, drawn if self.read is None else self.read * 4**stops


class Draw:
    """Random numbers, one per image, from each image's own generator, on the images' device."""

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self.generators, self.device = generators, device

    def uniform(self, low: float, high: float) -> Tensor:
        """Numbers uniform in [low, high), (B,)."""
        drawn = [torch.rand((), generator=generator, device=self.device) for generator in self.generators]
        return low + (high - low) * torch.stack(drawn)

    def normal(self, shape: tuple[int, ...] = ()) -> Tensor:
        """Standard normal numbers, (B, *shape)."""
        return torch.stack([torch.randn(shape, generator=one, device=self.device) for one in self.generators])

    def chance(self, probability: float) -> Tensor:
        """True with the given probability, (B,)."""
        return self.uniform(0, 1) < probability


def raw_noise(raw: Tensor, shot: Tensor, read: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Raw values plus and minus noise of variance shot * raw + read, both clipped to [0, 1] as a sensor does."""
    noise = (_per_image(shot) * raw + _per_image(read)).sqrt() * draw.normal(tuple(raw.shape[1:]))
    return (raw + noise).clamp(0, 1), (raw - noise).clamp(0, 1)


@dataclass(frozen=True)
class Development:
    """How cameras develop their colours to sRGB: white balance, colour matrix, gamma, tone curve."""

    gains: Tensor
    """White-balance gains of red, green and blue, (B, 3, 1, 1)."""
    matrix: Tensor
    """From the camera's colours to linear sRGB, (B, 3, 3); its rows sum to 1, so that grey stays grey."""

    @classmethod
    def drawn(cls, draw: Draw) -> Development:
        """Plausible cameras: gains as in Brooks et al., and matrices that make colours more vivid."""
        red, blue = draw.uniform(1.9, 2.4), draw.uniform(1.5, 1.9)
        rows = []
        for own in range(3):
            vivid, share = draw.uniform(0.3, 0.9), draw.uniform(0.3, 0.9)
            others = [-vivid * share, -vivid * (1 - share)]
            others.insert(own, 1 + vivid)
            rows.append(torch.stack(others, dim=1))
        gains = torch.stack([red, torch.ones_like(red), blue], dim=1)
        return cls(gains[:, :, None, None], torch.stack(rows, dim=1))

    def to_raw(self, images: Tensor) -> Tensor:
        """The cameras' linear colours of sRGB images, both (B, 3, H, W), in [0, 1]."""
        # The inverse of the tone curve 3 x² - 2 x³.
        linear = (0.5 - torch.sin(torch.asin((1 - 2 * images).clamp(-1, 1)) / 3)).clamp(min=1e-8) ** 2.2
        camera = _colours(torch.linalg.inv(self.matrix), linear).clamp(0, 1)
        # Highlights stay white: dividing them by a gain would leave them grey (Brooks et al., section 3.3).
        bright = ((camera.mean(dim=1, keepdim=True) - 0.9).clamp(min=0) / 0.1) ** 2
        return camera * torch.maximum(bright + (1 - bright) / self.gains, 1 / self.gains)

    def to_srgb(self, camera: Tensor) -> Tensor:
        """The sRGB images of the cameras' linear colours, both (k * B, 3, H, W), in [0, 1]: k images per camera."""
        repeats = len(camera) // len(self.gains)
        balanced = (camera * self.gains.repeat(repeats, 1, 1, 1)).clamp(0, 1)
        encoded = _colours(self.matrix.repeat(repeats, 1, 1), balanced).clamp(1e-8, 1) ** (1 / 2.2)
        return 3 * encoded**2 - 2 * encoded**3


def mosaic(colours: Tensor) -> Tensor:
    """The values that a Bayer sensor (RGGB) measures, (B, 1, H, W), of colours, (B, 3, H, W); H and W are even."""
    values = colours[:, 1:2].clone()
    values[:, 0, ::2, ::2] = colours[:, 0, ::2, ::2]
    values[:, 0, 1::2, 1::2] = colours[:, 2, 1::2, 1::2]
    return values


def demosaicked(values: Tensor, better: Tensor) -> Tensor:
    """Colours, (B, 3, H, W), from mosaics, (B, 1, H, W): bilinear, or, where `better`, by Malvar et al. (2004)."""
    kernels = torch.where(better[:, None, None, None], _kernels(_MALVAR, values), _kernels(_BILINEAR, values))
    padded = functional.pad(values, (2, 2, 2, 2), mode="reflect").transpose(0, 1)
    found = functional.conv2d(padded, kernels.flatten(0, 1)[:, None], groups=len(values))
    cross, rows, columns, diagonal = found.reshape(len(values), 4, *values.shape[2:]).unbind(dim=1)
    own = values[:, 0]
    red, green, blue = own.clone(), own.clone(), own.clone()
    even, odd = slice(0, None, 2), slice(1, None, 2)
    for colour, row, column, interpolated in (
        *((green, even, even, cross), (green, odd, odd, cross)),
        *((red, even, odd, rows), (red, odd, even, columns), (red, odd, odd, diagonal)),
        *((blue, odd, even, rows), (blue, even, odd, columns), (blue, even, even, diagonal)),
    ):
        colour[:, row, column] = interpolated[:, row, column]
    return torch.stack([red, green, blue], dim=1).clamp(0, 1)


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


def _kernels(eighths: tuple[tuple[tuple[float, ...], ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(eighths, dtype=like.dtype, device=like.device) / 8


def reduced(noise: Tensor, luma: Tensor, chroma: Tensor, kept: Tensor) -> Tensor:
    """Noise, (B, 3, H, W), as cameras reduce it: more in colours, where people see noise, but hardly see blur.

    `luma` and `chroma` are the standard deviations of Gaussian filters, in pixels; `kept` is the share of the chroma's
    amplitude that is left.
    """
    blurred = _blurred(to_ycbcr(noise), torch.stack([luma, chroma, chroma], dim=1))
    return to_rgb(blurred * torch.stack([torch.ones_like(kept), kept, kept], dim=1)[:, :, None, None])


def at_edges(clean: Tensor, flat: Tensor) -> Tensor:
    """How much noise a camera leaves, (B, 1, H, W): the share `flat` in flat parts, all of it at strong edges.

    Cameras average noise away where this blurs nothing. In pairs of noisy and clean photos from three cameras (the
    training part of PolyU), the noise in flat parts had a third of the standard deviation of that at edges.
    """
    brightness = functional.avg_pool2d(to_ycbcr(clean)[:, :1], 3, 1, 1, count_include_pad=False)
    across = functional.pad(brightness[..., 2:] - brightness[..., :-2], (1, 1, 0, 0))
    down = functional.pad(brightness[:, :, 2:] - brightness[:, :, :-2], (0, 0, 1, 1))
    gradient = functional.avg_pool2d(across.abs() + down.abs(), 7, 1, 3, count_include_pad=False)
    return _per_image(flat) + (1 - _per_image(flat)) * (gradient / STRONG_EDGE).clamp(0, 1)


def _blurred(planes: Tensor, deviations: Tensor, reach: int = 12) -> Tensor:
    """Planes, (B, C, H, W), after Gaussian filters with the given deviations, (B, C)."""
    places = torch.arange(-reach, reach + 1, device=planes.device)
    kernels = torch.softmax(-(places**2) / (2 * deviations.flatten()[:, None] ** 2 + 1e-6), dim=1)
    count = len(kernels)
    padded = functional.pad(planes, (reach, reach, reach, reach), mode="replicate").flatten(0, 1)[None]
    rows = functional.conv2d(padded, kernels.reshape(count, 1, 1, -1), groups=count)
    return functional.conv2d(rows, kernels.reshape(count, 1, -1, 1), groups=count).reshape(planes.shape)


def _colours(matrices: Tensor, images: Tensor) -> Tensor:
    return torch.einsum("bcd,bdhw->bchw", matrices, images)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
