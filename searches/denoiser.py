"""The denoiser `baseline`: a residual U-Net trained with the pixel loss alone, as it is, or searched around.

`--photos FOLDER --evaluate-on FOLDER` trains it without a search, in 70 minutes on two cores; `--trials 20` first
searches for better learning rates and a better network shape.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raygan.cli import run_search
from raygan.presets import DENOISER
from raygan.search.experiment import Search

SEARCH = Search(
    name="denoiser",
    config=DENOISER,
    space={
        "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-3, log=True),
        "optimizers/generator/beta1": FloatDistribution(0.8, 0.95),
        "training/average_decay": CategoricalDistribution([0.0, 0.99, 0.995, 0.999]),
        "generator/base_width": IntDistribution(16, 64, step=8),
        "generator/blocks": IntDistribution(1, 3),
        "generator/unshuffle": CategoricalDistribution([1, 2]),
        "sampling": CategoricalDistribution(["UniformPolicy", "NormalPolicy"]),
    },
    first_points=[DENOISER],
    trials=0,
    trial_epochs=10,
)

if __name__ == "__main__":
    run_search(SEARCH)
