"""How noise intensities are drawn in training: uniform over their range, or normal around its mean.

The paper found that normal sampling fails at the strongest noise: look at the differences at high intensity.
"""

from raygan.cli import run_search
from raygan.presets import PAPER_V1
from raygan.search.experiment import Comparison

SEARCH = Comparison(
    name="noise-policy",
    config=PAPER_V1,
    arms={
        "uniform": {"sampling": "UniformPolicy"},
        "normal": {"sampling": "NormalPolicy"},
    },
)

if __name__ == "__main__":
    run_search(SEARCH)
