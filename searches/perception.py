"""What the adversarial loss buys and costs: our denoiser, fine-tuned without one, at the paper's λd, and at others.

Every arm goes on from the denoiser that comes with RayGAN. "pixels" trains it as before; the others add VGG19's
features, in a unit that does not depend on whose weights they are, and against a PatchGAN discriminator λd.
"""

from raygan.cli import run_search
from raygan.presets import DENOISER
from raygan.search.experiment import Comparison
from raygan.section import with_values

FINE_TUNING = {
    "training/start_from": "shipped",
    "training/epochs": 4,
    "training/pixel_epochs": 0,
    "optimizers/generator/learning_rate": 1e-4,
    "optimizers/discriminator/learning_rate": 1e-4,
    "optimizers/discriminator/beta1": 0.5,
    "discriminator/architecture": "patch",
    "discriminator/base_width": 32,
    "loss/content": "vgg19",
    "loss/feature_scale": "relative",
    "loss/pixel_weight": 1.0,
}

SEARCH = Comparison(
    name="perception",
    config=with_values(DENOISER, FINE_TUNING),
    arms={
        "pixels": {"training/pixel_epochs": None},
        "0": {"loss/adversarial_weight": 0.0},
        "0.001": {"loss/adversarial_weight": 0.001},
        "0.003": {"loss/adversarial_weight": 0.003},
        "0.01": {"loss/adversarial_weight": 0.01},
        "0.03": {"loss/adversarial_weight": 0.03},
    },
    seeds=1,
)

if __name__ == "__main__":
    run_search(SEARCH)
