"""The sample set: images to train on without any data at hand, and real photos to judge by.

Training images are dead leaves (Lee, Mumford and Huang, 2001; as training data: Achddou et al., 2021): occluding
shapes of power-law sizes, here with natural colours, shading and textures of power-law spectra. Validation and
evaluation use the colour photos that scikit-image brings along; no photo serves both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from raygan.seeds import derived_seed

VALIDATION_PHOTOS = ("hubble_deep_field.jpg", "ihc.png", "retina.jpg", "rocket.jpg")
EVALUATION_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png")

_TEXTURES = 3
# Colours vary most in brightness, then from blue to orange, then from green to magenta.
_BLUE_ORANGE = np.array([0.7, 0.05, -0.7])
_GREEN_MAGENTA = np.array([-0.4, 0.8, -0.4])


def sample_photos_folder(names: tuple[str, ...]) -> Path:
    """The folder of the installed scikit-image that holds the named photos; `FileNotFoundError` if one lacks."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"the installed scikit-image lacks its photos {missing}; reinstall scikit-image")
    return folder


def dead_leaves(size: int, seed: int, index: int) -> NDArray[np.uint8]:
    """Image number `index` of the generated set `seed`: uint8, (size, size, 3).

    Shapes are drawn at twice the size and averaged down, which smooths their edges.
    """
    # Imported late: nothing else that `raygan denoise` needs imports it, and it takes a tenth of torch's time.
    from scipy import ndimage

    random = np.random.default_rng(derived_seed("dead leaves", seed, index))
    canvas = 2 * size
    labels, count = _occluding_shapes(canvas, random)
    colours = _natural_colours(count, random)

    row, column = np.mgrid[-1 : 1 : canvas * 1j, -1 : 1 : canvas * 1j].astype(np.float32)
    slopes = random.normal(0, 0.15, (2, count)).astype(np.float32)
    shading = slopes[0][labels] * row + slopes[1][labels] * column
    textures = np.stack([_power_law_texture(canvas, random) for _ in range(_TEXTURES)])
    strength = (random.exponential(0.04, count) * (random.random(count) < 0.75)).astype(np.float32)
    which = random.integers(_TEXTURES, size=count)
    texture = textures.reshape(_TEXTURES, -1)[which[labels].ravel(), np.arange(canvas * canvas)]
    shading += strength[labels] * texture.reshape(canvas, canvas)

    pixels = colours[labels] * (1 + shading)[..., None] + 0.2 * shading[..., None]
    blur = max(0.0, random.uniform(-1, 2))
    pixels = ndimage.gaussian_filter(pixels, (blur, blur, 0))
    pixels = pixels.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))
    return np.asarray(np.rint(255 * pixels.clip(0, 1)), dtype=np.uint8)


def _occluding_shapes(canvas: int, random: np.random.Generator) -> tuple[NDArray[np.int32], int]:
    """Which shape each pixel shows, (canvas, canvas), and how many shapes there are; later ones lie on top."""
    # Radii of density r^-3, which makes the image look alike at every scale, from an image's own smallest scale
    # (a meadow, a wall) up; enough of them to cover the image three times.
    smallest, largest = np.exp(random.uniform(np.log(5), np.log(canvas / 8))), canvas / 2
    mean_area = 2 * np.pi * smallest**2 * np.log(largest / smallest)
    count = int(3 * canvas**2 / mean_area)
    radii = (smallest**-2 + random.random(count) * (largest**-2 - smallest**-2)) ** -0.5
    centres = random.uniform(0, canvas, (count, 2))
    image = Image.new("I", (canvas, canvas), 0)
    draw = ImageDraw.Draw(image)
    for label, (radius, centre) in enumerate(zip(radii, centres, strict=True), start=1):
        draw.polygon([tuple(point) for point in centre + radius * _outline(random)], fill=label)
    return np.asarray(image, dtype=np.int32), count + 1


def _outline(random: np.random.Generator) -> NDArray[np.float64]:
    """Corners, (n, 2), of a shape of about unit radius: an ellipse, or a polygon of three to six corners."""
    ellipse = random.random() < 0.5
    corners = 24 if ellipse else random.integers(3, 7)
    angles = np.sort(random.uniform(0, 2 * np.pi, corners)) if not ellipse else np.linspace(0, 2 * np.pi, 25)[:-1]
    stretch = np.exp(random.normal(0, 0.4))
    points = np.stack([np.cos(angles) * stretch, np.sin(angles) / stretch], axis=1)
    turn = random.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(points @ rotation, dtype=np.float64)


def _natural_colours(count: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Colours, (count, 3): an image has its own mood, and its shapes vary around it."""
    brightness = random.beta(1.3, 1.5, count)
    warmth = random.normal(random.normal(0, 0.08), 0.12, count)
    tint = random.normal(random.normal(0, 0.03), 0.05, count)
    colours = brightness[:, None] + warmth[:, None] * _BLUE_ORANGE + tint[:, None] * _GREEN_MAGENTA
    return np.asarray(colours.clip(0, 1), dtype=np.float32)


def _power_law_texture(canvas: int, random: np.random.Generator) -> NDArray[np.float32]:
    """A field of unit variance, (canvas, canvas), whose amplitude falls as frequency^-slope."""
    slope = random.uniform(0.4, 1.6)
    vertical, horizontal = np.fft.fftfreq(canvas)[:, None], np.fft.rfftfreq(canvas)[None]
    # A stretched spectrum gives grain with a direction: grass, wood, cloth.
    stretch = np.exp(random.normal(0, 0.5))
    frequency = np.hypot(vertical * stretch, horizontal / stretch)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal((canvas, canvas))) * frequency**-slope
    texture = np.fft.irfft2(spectrum, s=(canvas, canvas))
    return np.asarray(texture / texture.std(), dtype=np.float32)
