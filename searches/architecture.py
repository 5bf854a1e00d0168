"""The architecture of the networks, together with learning rates and the adversarial weight, starting from v1.

`--max-parameters 40000000` and `--max-operations 300000` limit what the generator may cost. The paper's has 29,247,491
trainable parameters and takes 181,000 operations per pixel; a tighter limit refuses it as the first point: remove it
from `first_points`, or put a smaller one in.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raygan.cli import run_search
from raygan.presets import PAPER_V1
from raygan.search.experiment import Search
from raygan.search.space import When

SEARCH = Search(
    name="architecture",
    config=PAPER_V1,
    space={
        # From --quick's width to one and a half times the paper's.
        "generator/base_width": IntDistribution(16, 96, step=8),
        "generator": CategoricalDistribution(["UNet", "ResidualUNet"]),
        "generator/blocks": When("generator", "ResidualUNet", IntDistribution(1, 3)),
        "generator/depth": IntDistribution(2, 6),
        "generator/upsampling": CategoricalDistribution(["transposed", "resize"]),
        "generator/residual": CategoricalDistribution([False, True]),
        "generator/normalization": CategoricalDistribution(["batch", "none"]),
        "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "discriminator": CategoricalDistribution(["SingleScore", "PatchGAN"]),
        "discriminator/layers": When("discriminator", "PatchGAN", IntDistribution(1, 4)),
        "optimizers/discriminator/learning_rate": FloatDistribution(1e-4, 2e-2, log=True),
        "loss/adversarial_weight": FloatDistribution(1e-4, 1e-1, log=True),
    },
    first_points=[PAPER_V1],
    trials=100,
    trial_epochs=30,
)

if __name__ == "__main__":
    run_search(SEARCH)
