"""Which noise to train on, for the photos of real cameras: odds and ranges, with the learning rate and the network.

`raygan search camera --photos FOLDER --pairs FOLDER` compares trials on pairs of noisy and clean photos that nothing is
trained on. Without pairs, validation is on simulated noise. The denoiser `camera` was trained with the values that
`raygan.presets.CAMERA` has, from the weights of `synthetic`.
"""

from optuna.distributions import FloatDistribution, IntDistribution

from raygan.cli import run_search
from raygan.config.section import with_values
from raygan.presets import CAMERA
from raygan.search.experiment import Search

SCRATCH = with_values(CAMERA, {"training/start_from": None, "data/pairs_share": 0.0})

SEARCH = Search(
    name="camera",
    config=SCRATCH,
    space={
        "noises/camera/odds": FloatDistribution(0.5, 20.0, log=True),
        "noises/camera/high": FloatDistribution(3.0, 9.0),
        "noises/camera/jpeg": FloatDistribution(0.0, 1.0),
        "noises/gaussian/odds": FloatDistribution(0.1, 2.0, log=True),
        "clean_share": FloatDistribution(0.0, 0.2),
        "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-3, log=True),
        "generator/base_width": IntDistribution(16, 48, step=8),
        "generator/blocks": IntDistribution(1, 3),
    },
    first_points=[SCRATCH],
    trials=20,
    trial_epochs=9,
)

if __name__ == "__main__":
    run_search(SEARCH)
