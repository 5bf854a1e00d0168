"""The paper's next steps: a PatchGAN discriminator against its single score, and noise 1.5 times as strong."""

from raygan.cli import run_search
from raygan.presets import PAPER_V1
from raygan.search.experiment import Comparison

STRONGER = {
    f"noise/{kind}/{end}": 1.5 * getattr(PAPER_V1.noise.range_of(kind), end)
    for kind in PAPER_V1.noise.kinds
    for end in ("low", "high")
}

SEARCH = Comparison(
    name="discriminator",
    config=PAPER_V1,
    arms={
        "single_score": {"discriminator/architecture": "single_score"},
        "patch": {"discriminator/architecture": "patch"},
        "single_score-1.5x": {"discriminator/architecture": "single_score", **STRONGER},
        "patch-1.5x": {"discriminator/architecture": "patch", **STRONGER},
    },
)

if __name__ == "__main__":
    run_search(SEARCH)
