"""The content loss: the pixels' mean squared error against VGG19's features, everything else as in v1.

VGG19 weights are needed, with --quick too: give --vgg19 FILE, or let torchvision's be downloaded.
"""

from raygan.cli import run_search
from raygan.presets import PAPER_V1
from raygan.search.experiment import Comparison

SEARCH = Comparison(
    name="content-loss",
    config=PAPER_V1,
    arms={
        "mse": {"loss/content": "MeanSquaredError"},
        "vgg19": {"loss/content": "Vgg19Features"},
    },
)

if __name__ == "__main__":
    run_search(SEARCH)
