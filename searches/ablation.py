"""What each part of the denoiser `baseline` gains: without it, or with the paper's in its place, everything else equal.

Each arm trains for 4 epochs; the denoiser itself was trained for 26.
"""

from raygan.cli import run_search
from raygan.config.section import with_values
from raygan.presets import DENOISER
from raygan.search.experiment import Comparison

SEARCH = Comparison(
    name="ablation",
    config=with_values(DENOISER, {"training/epochs": 4}),
    arms={
        "all": {},
        "no-average": {"training/average_decay": 0.0},
        "constant-rate": {"training/lr_schedule": "constant"},
        "no-warm-up": {"training/warm_up_steps": 0},
        "gradients-unbounded": {"training/max_gradient_norm": None},
        "no-flips": {"data/augmentation": "none"},
        "not-residual": {"generator/residual": False},
        "batch-norm": {"generator/normalization": "batch"},
        "resized": {"generator/upsampling": "resize"},
        "half-resolution": {"generator/unshuffle": 2, "generator/depth": 2, "generator/base_width": 64},
        "two-blocks": {"generator/blocks": 2},
        "crops-of-128": {"data/crop_size": 128},
    },
    seeds=1,
)

if __name__ == "__main__":
    run_search(SEARCH)
