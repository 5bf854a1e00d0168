"""The paper's first system (v0: a pixel content loss, other rates and weights) against its current one (v1)."""

from raygan.cli import run_search
from raygan.config.section import flat_values
from raygan.presets import PAPER_V0, PAPER_V1
from raygan.search.experiment import Comparison

V0, V1 = flat_values(PAPER_V0), flat_values(PAPER_V1)

SEARCH = Comparison(
    name="v0",
    config=PAPER_V1,
    arms={
        "v0": {path: value for path, value in V0.items() if value != V1[path]},
        "v1": {},
    },
)

if __name__ == "__main__":
    run_search(SEARCH)
