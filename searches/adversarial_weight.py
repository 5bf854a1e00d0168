"""The paper's ablation: the adversarial weight λd at 0.01 (v1) against 0.001, everything else as in v1."""

from raygan.cli import run_search
from raygan.presets import PAPER_V1
from raygan.search.experiment import Comparison

SEARCH = Comparison(
    name="adversarial-weight",
    config=PAPER_V1,
    arms={
        "0.01": {"loss/adversarial_weight": 0.01},
        "0.001": {"loss/adversarial_weight": 0.001},
    },
)

if __name__ == "__main__":
    run_search(SEARCH)
