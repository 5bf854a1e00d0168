"""The networks' architecture, with the rates and the weight that suit it, from the paper's v1 on.

What a denoiser may cost is bounded by the trainable parameters of its generator, `--max-parameters 40000000`, or by
its milliseconds a crop, `--max-milliseconds 300`; the paper's has 29,247,491 parameters. A tighter bound than that
refuses the paper's network as the first point: take it out of `first_points`, or put a smaller one in.
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
        "generator/architecture": CategoricalDistribution(["unet", "residual_unet"]),
        "generator/blocks": When("generator/architecture", "residual_unet", IntDistribution(1, 3)),
        "generator/depth": IntDistribution(2, 6),
        "generator/upsampling": CategoricalDistribution(["transposed", "resize"]),
        "generator/residual": CategoricalDistribution([False, True]),
        "generator/normalization": CategoricalDistribution(["batch", "none"]),
        "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "discriminator/architecture": CategoricalDistribution(["single_score", "patch"]),
        "discriminator/patch_layers": When("discriminator/architecture", "patch", IntDistribution(1, 4)),
        "optimizers/discriminator/learning_rate": FloatDistribution(1e-4, 2e-2, log=True),
        "loss/adversarial_weight": FloatDistribution(1e-4, 1e-1, log=True),
    },
    first_points=[PAPER_V1],
    trials=100,
    trial_epochs=30,
)

if __name__ == "__main__":
    run_search(SEARCH)
