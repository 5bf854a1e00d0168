"""The whole system: its network, what that is trained against, how, and how noise intensities are drawn.

It starts from v1, with one level less, since crops are smaller than the paper's: 64×64, flipped and turned. What was
chosen by hand for the denoiser `baseline` is tried next. All trials get the same computation. `--max-parameters` and
`--max-operations` limit what the generator may cost; a limit below 16.7 million parameters or 323,000 operations per
pixel refuses one of the first points: remove it from `first_points`, or put a smaller one in.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raygan.cli import run_search
from raygan.config.section import with_values
from raygan.presets import DENOISER, PAPER_V1
from raygan.search.experiment import Search
from raygan.search.space import When

BASE = with_values(
    PAPER_V1,
    {
        "data/train_photos": 100_000,
        "data/val_photos": 50,
        "data/val_crops": 32,
        "data/crop_size": 64,
        "data/augmentation": "flips_and_rotations",
        "generator/depth": 5,
        "training/steps_per_epoch": 50,
        "training/epochs": 27,
        "training/warm_up_steps": 50,
        "training/max_gradient_norm": 1.0,
        "training/precision": "auto",
    },
)

SEARCH = Search(
    name="system",
    config=BASE,
    space={
        "generator": CategoricalDistribution(["UNet", "ResidualUNet"]),
        "generator/base_width": IntDistribution(16, 64, step=16),
        "generator/depth": IntDistribution(2, 5),
        "generator/blocks": When("generator", "ResidualUNet", IntDistribution(1, 3)),
        "generator/unshuffle": When("generator", "ResidualUNet", CategoricalDistribution([1, 2])),
        "generator/normalization": CategoricalDistribution(["batch", "none"]),
        "generator/residual": CategoricalDistribution([False, True]),
        "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "optimizers/generator/beta1": FloatDistribution(0.0, 0.95),
        "training/lr_schedule": CategoricalDistribution(["constant", "cosine", "wsd"]),
        "training/average_decay": CategoricalDistribution([0.0, 0.99, 0.995]),
        "training/batch_size": CategoricalDistribution([4, 8, 16]),
        "training/max_gradient_norm": FloatDistribution(0.03, 3.0, log=True),
        # None: the pixel loss alone, without a discriminator.
        "training/pixel_epochs": CategoricalDistribution([0, None]),
        "loss/pixel_weight": When("training/pixel_epochs", 0, CategoricalDistribution([0.0, 1.0, 10.0])),
        "loss/adversarial_weight": When("training/pixel_epochs", 0, FloatDistribution(1e-4, 1e-1, log=True)),
        "optimizers/discriminator/learning_rate": When(
            "training/pixel_epochs", 0, FloatDistribution(1e-4, 2e-2, log=True)
        ),
        "sampling": CategoricalDistribution(["UniformPolicy", "NormalPolicy"]),
        # Gaussian noise has odds of 1.
        "noises/salt_and_pepper/odds": FloatDistribution(0.5, 4.0, log=True),
        "noises/speckle/odds": FloatDistribution(0.25, 2.0, log=True),
    },
    first_points=[BASE, DENOISER],
    trials=40,
    trial_epochs=9,
    equal_compute=True,
    max_operations=1_000_000,
)

if __name__ == "__main__":
    run_search(SEARCH)
