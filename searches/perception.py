"""What the adversarial loss gains and costs: the denoiser `baseline`, fine-tuned with several adversarial weights.

"pixels" continues with the pixel loss; the other arms add VGG19 features, in a unit that does not depend on the
weights' convention, and an adversarial loss against a PatchGAN discriminator. All train for a single long epoch
(`--quick`: eight short ones), since the best of several is chosen by PSNR, which an adversarial loss costs. The
discriminator has no batch normalization, which would normalize clean and denoised batches separately and so remove what
distinguishes them.
"""

from raygan.cli import run_search
from raygan.config.section import with_values
from raygan.losses import Vgg19Features
from raygan.models import PatchGAN
from raygan.presets import DENOISER
from raygan.search.experiment import Comparison

FINE_TUNING = {
    "training/start_from": "baseline",
    "training/epochs": 1,
    "training/steps_per_epoch": 4000,
    "training/pixel_epochs": 0,
    "optimizers/generator/learning_rate": 1e-4,
    "optimizers/discriminator/learning_rate": 3e-4,
    "optimizers/discriminator/beta1": 0.5,
    "discriminator": PatchGAN(base_width=32, normalization="none"),
    "loss/content": Vgg19Features(scale="relative"),
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
