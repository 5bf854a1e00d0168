"""The paper's next steps: a PatchGAN discriminator against its single score, and noise 1.5 times as strong."""

from raygan.cli import run_search
from raygan.presets import PAPER_V1
from raygan.search.experiment import Comparison

STRONGER = {
    f"noises/{noise.key}/{end}": 1.5 * getattr(noise, end) for noise in PAPER_V1.noises for end in ("low", "high")
}

SEARCH = Comparison(
    name="discriminator",
    config=PAPER_V1,
    arms={
        "single_score": {"discriminator": "SingleScore"},
        "patch": {"discriminator": "PatchGAN"},
        "single_score-1.5x": {"discriminator": "SingleScore", **STRONGER},
        "patch-1.5x": {"discriminator": "PatchGAN", **STRONGER},
    },
)

if __name__ == "__main__":
    run_search(SEARCH)
