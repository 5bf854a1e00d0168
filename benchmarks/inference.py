"""`raygan denoise`: speed, memory and gain against non-local means: `python benchmarks/inference.py`.

Speed on an 8-bit photo of 512×512 with Gaussian noise of the paper's mean intensity; peak memory of the whole process
that denoises a file, by image size. OpenCV's filter is included if its package is installed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nlm
import numpy as np
import torch
from nlm import Pixels
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from timing import fastest, machine, show

from raygan.data.samples import EVALUATION_PHOTOS, sample_photos_folder
from raygan.inference.denoiser import Denoiser
from raygan.noise import Gaussian, add_noise
from raygan.seeds import torch_generator

MEGAPIXELS = (1, 4, 16, 64)
SCIKIT_IMAGE = "scikit-image's denoise_nl_means"


def contestants(deviation: float) -> dict[str, Callable[[Pixels], Pixels]]:
    """Functions of (H, W, 3) images. All but RayGAN are given the noise's standard deviation."""

    found: dict[str, Callable[[Pixels], Pixels]] = {SCIKIT_IMAGE: partial(nlm.scikit_image, deviation=255 * deviation)}
    if importlib.util.find_spec("cv2"):
        found["OpenCV's fastNlMeansDenoisingColored"] = partial(nlm.opencv, strength=0.8 * 255 * deviation)
    return {
        "RayGAN": Denoiser.from_pretrained(),
        "RayGAN, float32": Denoiser.from_pretrained(precision="float32"),
        "RayGAN, small": Denoiser.from_pretrained("small"),
    } | found


def peak_memory(noisy: Path, denoised: Path) -> tuple[float, float]:
    """MB and seconds of one `raygan denoise`."""
    code = (
        "import resource, sys, time; from raygan.cli import main; started = time.perf_counter();"
        "main(['denoise', *sys.argv[1:]]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter() - started)"
    )
    command = [sys.executable, "-c", code, str(noisy), str(denoised)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    megabytes, seconds = result.stdout.split()[-2:]
    return float(megabytes), float(seconds)


def main() -> None:
    """Print both tables."""
    path = sample_photos_folder(EVALUATION_PHOTOS) / "astronaut.png"
    clean = np.array(Image.open(path).convert("RGB"))
    variance = Gaussian().mean
    image = torch.from_numpy(clean).permute(2, 0, 1)[None].float() / 255
    noisy = add_noise(image, [Gaussian()], [variance], [torch_generator("benchmark")])
    pixels = (255 * noisy[0]).round().byte().permute(1, 2, 0).numpy()
    methods = contestants(variance**0.5)
    seconds = fastest({name: lambda method=method: method(pixels) for name, method in methods.items()}, rounds=2)
    size = clean.shape[0] * clean.shape[1] / 1e6
    show(
        f"Denoising: a photo of 512×512 ({machine()})",
        ("", "megapixels a second", "times scikit-image's", "PSNR, dB"),
        [
            (name, size / seconds[name], seconds[SCIKIT_IMAGE] / seconds[name], f"{score:.2f}")
            for name, score in {
                name: peak_signal_noise_ratio(clean, method(pixels), data_range=255) for name, method in methods.items()
            }.items()
        ],
    )
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for megapixels in MEGAPIXELS:
            side = round((1e6 * megapixels) ** 0.5)
            file = Path(place) / "noisy.jpg"
            repeats = -(-side // 512)
            Image.fromarray(np.tile(pixels, (repeats, repeats, 1))[:side, :side]).save(file)
            megabytes, taken = peak_memory(file, Path(place) / "denoised.jpg")
            rows.append((megapixels, megabytes, megapixels / taken))
    show("`raygan denoise` of a file", ("megapixels", "peak memory, MB", "megapixels a second"), rows)


if __name__ == "__main__":
    main()
