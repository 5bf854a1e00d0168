"""What the adversarial loss buys and costs: our denoiser, fine-tuned without one, at the paper's λd, and at others.

Every arm goes on from the denoiser that comes with RayGAN. "pixels" trains it as before; the others add VGG19's
features, in a unit that does not depend on whose weights they are, and against a PatchGAN discriminator λd. All train
for a single long epoch (`--quick`: eight short ones), since the best of several is chosen by PSNR, which an adversarial
loss costs. The discriminator has no batch norm: it would see clean and denoised batches apart, and take away of each
what tells them apart.
"""

from raygan.cli import run_search
from raygan.presets import DENOISER
from raygan.search.experiment import Comparison
from raygan.config.section import with_values

FINE_TUNING = {
    "training/start_from": "shipped",
    "training/epochs": 1,
    "training/steps_per_epoch": 4000,
    "training/pixel_epochs": 0,
    "optimizers/generator/learning_rate": 1e-4,
    "optimizers/discriminator/learning_rate": 3e-4,
    "optimizers/discriminator/beta1": 0.5,
    "discriminator/architecture": "patch",
    "discriminator/base_width": 32,
    "discriminator/normalization": "none",
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
        "0.01": {"loss/adversarial_weight": 0.01},
        "0.1": {"loss/adversarial_weight": 0.1},
        "1": {"loss/adversarial_weight": 1.0},
    },
    seeds=1,
)

if __name__ == "__main__":
    run_search(SEARCH)
