"""Fine-tune the denoiser `camera` on your own pairs of noisy and clean photos, in six minutes on two cores.

`raygan search finetune --pairs FOLDER`: the search varies the learning rate, the share of pairs in each batch, and the
noise of the rest; the best epoch of each run is kept. At the end, it reports whether the result is better than `camera`
on the held-out pairs.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from raygan.cli import run_search
from raygan.config.section import with_values
from raygan.noise import Camera
from raygan.presets import CAMERA
from raygan.search.experiment import Search

FINETUNE = with_values(
    CAMERA,
    {
        "data/photos": "samples",
        "data/evaluate_on": "samples",
        "data/train_photos": 200,
        "data/crop_size": 64,
        "data/val_crops": 32,
        "data/pairs_share": 0.75,
        "noises": (Camera(),),
        "optimizers/generator/learning_rate": 1e-4,
        "training/start_from": "camera",
        "training/steps_per_epoch": 50,
        "training/epochs": 6,
        "training/warm_up_steps": 20,
        "training/average_decay": 0.95,
    },
)

SEARCH = Search(
    name="finetune",
    config=FINETUNE,
    space={
        "optimizers/generator/learning_rate": FloatDistribution(2e-5, 5e-4, log=True),
        "data/pairs_share": CategoricalDistribution([0.5, 0.75, 1.0]),
        "noises/camera/high": FloatDistribution(3.0, 9.0),
    },
    first_points=[FINETUNE],
    trials=6,
    trial_epochs=3,
)

if __name__ == "__main__":
    run_search(SEARCH)
