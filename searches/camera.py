"""Which noise to train on, for photos from real cameras: odds and ranges, with enlargement and learning rate.

`raygan search camera --photos FOLDER --pairs FOLDER` fine-tunes `synthetic`, and compares trials on pairs of noisy and
clean photos that are not used for training. It starts from `raygan.presets.CAMERA`, with which the denoiser `camera`
was trained.
"""

from optuna.distributions import FloatDistribution

from raygan.cli import run_search
from raygan.config.section import with_values
from raygan.presets import CAMERA
from raygan.search.experiment import Search

BASE = with_values(
    CAMERA,
    {
        "data/pairs_share": 0.0,
        "data/val_crops": 128,
    },
)

SEARCH = Search(
    name="camera",
    config=BASE,
    space={
        "noises/camera/odds": FloatDistribution(0.5, 20.0, log=True),
        "noises/camera/low": FloatDistribution(0.0, 5.0),
        "noises/camera/high": FloatDistribution(5.0, 9.0),
        "noises/camera/jpeg": FloatDistribution(0.0, 1.0),
        "noises/gaussian/odds": FloatDistribution(0.1, 2.0, log=True),
        "clean_share": FloatDistribution(0.0, 0.2),
        "data/min_enlargement": FloatDistribution(1.0, 2.5),
        "data/max_enlargement": FloatDistribution(2.5, 6.0),
        "optimizers/generator/learning_rate": FloatDistribution(3e-5, 1e-3, log=True),
    },
    first_points=[BASE],
    trials=20,
    trial_epochs=3,
)

if __name__ == "__main__":
    run_search(SEARCH)
