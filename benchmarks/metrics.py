"""PSNR and SSIM: RayGAN's against scikit-image's, one photo at a time: `python benchmarks/metrics.py`."""

from __future__ import annotations

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from timing import fastest, machine, show

from raygan.data.samples import dead_leaves
from raygan.metrics import psnr, ssim

SIZE, COUNT = 400, 8
TARGETS = {torch.float64: 1.5, torch.float32: 3}


def main() -> None:
    """Print the table."""
    pixels = np.stack([dead_leaves(SIZE, 0, index) for index in range(COUNT)])
    rows = []
    for dtype, target in TARGETS.items():
        clean = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(dtype) / 255
        noisy = (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
        pairs = [(one.numpy(), other.numpy()) for one, other in zip(clean, noisy, strict=True)]
        # scikit-image computes in double precision for either type.
        for name, ours, theirs in (
            ("PSNR", psnr, lambda one, other: peak_signal_noise_ratio(one, other, data_range=1)),
            ("SSIM", ssim, lambda one, other: structural_similarity(one, other, data_range=1, channel_axis=0)),
        ):
            seconds = fastest(
                {
                    "scikit-image": lambda theirs=theirs, pairs=pairs: [theirs(*pair) for pair in pairs],
                    "RayGAN": lambda ours=ours, clean=clean, noisy=noisy: [
                        ours(clean[row : row + 1], noisy[row : row + 1]) for row in range(COUNT)
                    ],
                }
            )
            exact = [theirs(*(image.astype(np.float64) for image in pair)) for pair in pairs]
            apart = (ours(clean, noisy).double() - torch.tensor(exact)).abs().max().item()
            scikit, mine = (1000 * seconds[each] / COUNT for each in ("scikit-image", "RayGAN"))
            rows.append((name, str(dtype).removeprefix("torch."), scikit, mine, scikit / mine, f"≥ {target}", apart))
    show(
        f"Metrics: photos of {SIZE}×{SIZE}, one at a time, {torch.get_num_threads()} threads ({machine()})",
        ("metric", "precision", "scikit-image, ms", "RayGAN, ms", "times as fast", "target", "largest difference"),
        rows,
    )


if __name__ == "__main__":
    main()
