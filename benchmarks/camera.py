"""Denoisers against filters on the noise of real cameras, in pairs: `python benchmarks/camera.py PAIRS [DENOISER ...]`.

Each filter gets the strength that is best on these very pairs, which favours the filters. OpenCV's non-local means and
BM3D are included where their packages (opencv-python-headless, bm3d) are installed. BM3D takes minutes for a pair of
512×512 pixels: `--crop 128` measures the middle 128×128 pixels of each.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

import nlm
import numpy as np
from nlm import Pixels
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from timing import show

from raygan.config.run import MAX_MEGAPIXELS
from raygan.data.photos import decode_photo
from raygan.data.sources import PairFolder
from raygan.inference.denoiser import Denoiser

Filter = Callable[[Pixels, float], Pixels]
"""Takes a noisy image and a strength, in 8-bit levels."""
STRENGTHS = {"scikit-image's NLM": (2, 3, 4, 6), "OpenCV's NLM": (2, 3, 4, 5, 6, 8), "BM3D": (5, 7, 10, 14)}


def filters() -> dict[str, Filter]:
    """Filters whose packages are installed."""

    known: dict[str, Filter] = {"scikit-image's NLM": nlm.scikit_image}
    if importlib.util.find_spec("cv2"):
        known["OpenCV's NLM"] = nlm.opencv
    if importlib.util.find_spec("bm3d"):
        import bm3d

        def transformed(noisy: Pixels, strength: float) -> Pixels:
            return np.rint(255 * bm3d.bm3d_rgb(noisy / 255, strength / 255).clip(0, 1)).astype(np.uint8)

        known["BM3D"] = transformed
    return known


def scores(clean: Pixels, denoised: Pixels) -> tuple[float, float]:
    """PSNR in dB, and SSIM."""
    return (
        float(peak_signal_noise_ratio(clean, denoised)),
        float(structural_similarity(clean, denoised, channel_axis=2)),
    )


def middle(pixels: Pixels, crop: int | None) -> Pixels:
    """The middle `crop`×`crop` pixels of an image, or all of it."""
    if crop is None:
        return pixels
    top, left = ((side - crop) // 2 for side in pixels.shape[:2])
    return pixels[top : top + crop, left : left + crop]


def main() -> None:
    """Print a table: means over the pairs, and on how many of them the last denoiser beats each method."""
    parser = argparse.ArgumentParser(description="Denoisers against filters on pairs of noisy and clean photos.")
    parser.add_argument("pairs", metavar="PAIRS", help="folder with noisy/ and clean/")
    parser.add_argument("denoisers", metavar="DENOISER", nargs="*", default=["synthetic", "camera"])
    parser.add_argument("--crop", type=int, help="side of the middle part that is measured (default: all)")
    options = parser.parse_args()
    folder, pairs = PairFolder(location=options.pairs).find()
    names = options.denoisers
    denoisers = {name: Denoiser.from_pretrained(name, precision="float32") for name in names}
    known = filters()
    table: dict[str, list[tuple[float, float]]] = {}
    for noisy_name, clean_name in pairs:
        images: list[Image.Image] = []
        for name in (noisy_name, clean_name):
            image, problem, _ = decode_photo(folder, name, 16, MAX_MEGAPIXELS)
            assert not problem, f"{name}: {problem}"
            images.append(image)
        noisy, clean = (middle(np.asarray(image), options.crop) for image in images)
        table.setdefault("noisy", []).append(scores(clean, noisy))
        for name, method in known.items():
            for strength in STRENGTHS[name]:
                found = scores(clean, method(noisy, strength))
                table.setdefault(f"{name}, strength {strength}", []).append(found)
        for name, denoiser in denoisers.items():
            table.setdefault(name, []).append(scores(clean, denoiser(noisy)))
    means = {name: float(np.mean([psnr for psnr, _ in found])) for name, found in table.items()}
    best = {name: max((key for key in means if key.startswith(name)), key=means.__getitem__) for name in known}
    shown = ["noisy", *best.values(), *names]
    judged = np.array(table[names[-1]])[:, 0]
    rows = []
    for name in shown:
        psnr, ssim = np.array(table[name]).T
        wins = "" if name == names[-1] else f"{(judged > psnr).sum()} of {len(judged)}"
        rows.append((name, f"{psnr.mean():.2f}", f"{ssim.mean():.4f}", f"{(judged - psnr).mean():+.2f}", wins))
    columns = ("", "PSNR, dB", "SSIM", f"{names[-1]}'s gain, dB", f"{names[-1]} is better on")
    show(f"{len(pairs)} pairs, 8 bits", columns, rows)


if __name__ == "__main__":
    main()
