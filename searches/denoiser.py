"""The denoiser `baseline`: a residual U-Net trained with the pixel loss alone, as it is, or searched around.

`--photos FOLDER --evaluate-on FOLDER` trains it without a search, in 70 minutes on two cores; `--trials 20` first
searches for a better network shape and better training. `--trials 20 --warm-start studies/system` first tries the best
points of the wider search `system`.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raygan.cli import run_search
from raygan.presets import DENOISER
from raygan.search.experiment import Search

SEARCH = Search(
    name="denoiser",
    config=DENOISER,
    space={
        "optimizers/generator/learning_rate": FloatDistribution(2e-4, 3e-3, log=True),
        "optimizers/generator/beta1": FloatDistribution(0.0, 0.95),
        "training/lr_schedule": CategoricalDistribution(["constant", "cosine", "wsd"]),
        "training/warm_up_steps": CategoricalDistribution([0, 50, 200]),
        "training/max_gradient_norm": FloatDistribution(0.03, 1.0, log=True),
        "training/average_decay": CategoricalDistribution([0.0, 0.99, 0.995, 0.999]),
        "training/batch_size": CategoricalDistribution([4, 8, 16]),
        "generator/base_width": IntDistribution(16, 64, step=8),
        "generator/depth": IntDistribution(2, 4),
        "generator/blocks": IntDistribution(1, 3),
        "generator/unshuffle": CategoricalDistribution([1, 2]),
        "sampling": CategoricalDistribution(["UniformPolicy", "NormalPolicy"]),
        # Gaussian noise has odds of 1.
        "noises/salt_and_pepper/odds": FloatDistribution(0.5, 4.0, log=True),
        "noises/speckle/odds": FloatDistribution(0.25, 2.0, log=True),
    },
    first_points=[DENOISER],
    trials=0,
    trial_epochs=9,
    equal_compute=True,
    max_operations=2_000_000,
)

if __name__ == "__main__":
    run_search(SEARCH)
