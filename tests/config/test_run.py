"""The complete configurations: the paper's settings, and the rules that hold between parts."""

import pytest

from raygan.config.run import Config
from raygan.config.section import ConfigError, flat_values, with_values
from raygan.models import ResidualUNet
from raygan.presets import DENOISER, PAPER_ABLATION, PAPER_V0, PAPER_V1, quick

# The paper's table of settings, and what is the same for all three systems.
PAPER = {
    "data/train_photos": 1000,
    "data/val_photos": 100,
    "data/crop_size": 256,
    "noises": ("gaussian", "salt_and_pepper", "speckle"),
    "noises/gaussian/low": 0.005,
    "noises/gaussian/odds": 1.0,
    "noises/gaussian/high": 0.08,
    "noises/salt_and_pepper/low": 0.02,
    "noises/salt_and_pepper/odds": 1.0,
    "noises/salt_and_pepper/high": 0.07,
    "noises/speckle/low": 0.005,
    "noises/speckle/odds": 1.0,
    "noises/speckle/high": 0.2,
    "sampling": "UniformPolicy",
    "generator": "UNet",
    "generator/base_width": 64,
    "generator/initial_deviation": 0.02,
    # Keras's defaults: momentum 0.99 is PyTorch's 0.01.
    "generator/batch_norm_momentum": 0.01,
    "generator/batch_norm_epsilon": 1e-3,
    "generator/dropout": 0.0,
    "generator/depth": 6,
    "generator/upsampling": "transposed",
    "generator/residual": False,
    "generator/normalization": "batch",
    "discriminator": "SingleScore",
    "discriminator/base_width": 64,
    "discriminator/initial_deviation": 0.02,
    "discriminator/batch_norm_momentum": 0.01,
    "discriminator/batch_norm_epsilon": 1e-3,
    "discriminator/normalization": "batch",
    "loss/content_weight": 0.1,
    "optimizers/generator/beta2": 0.999,
    "optimizers/generator/epsilon": 1e-7,
    "optimizers/discriminator/beta1": 0.9,
    "optimizers/discriminator/beta2": 0.999,
    "optimizers/discriminator/epsilon": 1e-7,
    "training/batch_size": 8,
    "training/halve_batch": False,
    "training/steps_per_epoch": 125,
    "training/epochs": 30,
    "training/precision": "float32",
    "data/pairs": None,
    "data/min_enlargement": 1.0,
    "data/max_enlargement": 1.0,
    "data/pairs_share": 0.5,
    "clean_share": 0.0,
    # What it does not have.
    "data/augmentation": "none",
    "loss/pixel_weight": 0.0,
    "training/pixel_epochs": 0,
    "training/start_from": None,
    "training/lr_schedule": "constant",
    "training/warm_up_steps": 0,
    "training/average_decay": 0.0,
    "training/precise_bn_batches": 0,
    "training/max_gradient_norm": None,
}
# v0, v1, ablation.
DIFFERING = {
    "loss/content": ("MeanSquaredError", "Vgg19Features", "Vgg19Features"),
    "loss/adversarial_weight": (0.001, 0.01, 0.001),
    "optimizers/discriminator/learning_rate": (0.007, 0.009, 0.009),
    "optimizers/generator/learning_rate": (0.0005, 0.005, 0.005),
    "optimizers/generator/beta1": (0.9, 0.5, 0.5),
}
# Where photos come from, how a run is seeded, what it runs on, and what the paper leaves open.
OURS = {
    *("data/photos", "data/evaluate_on", "data/val_crops", "data/seed", "data/cache", "training/seed"),
    "data/max_megapixels",
    *("generator/inference_statistics", "discriminator/frozen_statistics", "loss/content/weights"),
    *("hardware/device", "hardware/workers", "hardware/cpus_per_worker", "hardware/gpus_per_worker"),
    *("hardware/reading_cpus_per_worker", "training/batch_statistics", "training/best_by"),
    *(f"noises/{name}/name" for name in ("gaussian", "salt_and_pepper", "speckle")),
}


@pytest.mark.parametrize(("column", "system"), [(0, PAPER_V0), (1, PAPER_V1), (2, PAPER_ABLATION)])
def test_paper_systems_field_by_field(column: int, system: Config) -> None:
    values = {path: value for path, value in flat_values(system).items() if path not in OURS}
    scale = {} if system is PAPER_V0 else {"loss/content/scale": "paper"}
    assert values == PAPER | scale | {path: row[column] for path, row in DIFFERING.items()}


def test_workers_of_one_run_do_not_share_a_gpu() -> None:
    assert with_values(PAPER_V1, {"hardware/gpus_per_worker": 0.25}).hardware.gpus_per_worker == 0.25
    with pytest.raises(
        ConfigError, match=r"gpus_per_worker 1 where workers > 1 must hold, but got gpus_per_worker=0.5, workers=2"
    ):
        with_values(PAPER_V1, {"hardware/gpus_per_worker": 0.5, "hardware/workers": 2})


def test_quick_shrinks_a_run_but_no_network_whose_weights_are_given() -> None:
    small = quick(PAPER_V1)
    assert (small.data.photos.key, small.loss.content.key, small.data.crop_size) == ("Samples", "MeanSquaredError", 64)
    assert (small.generator.base_width, small.training.epochs) == (16, 12)  # type: ignore[attr-defined]
    tuned = quick(with_values(DENOISER, {"training/start_from": "baseline"}))
    assert tuned.generator == DENOISER.generator
    assert tuned.training.epochs == 12
    assert isinstance(quick(DENOISER).generator, ResidualUNet)
    shorter = quick(with_values(DENOISER, {"training/epochs": 2, "training/steps_per_epoch": 7}))
    assert (shorter.training.epochs, shorter.training.steps_per_epoch) == (2, 7)
    coarse = ResidualUNet(depth=6, unshuffle=2)
    assert quick(with_values(DENOISER, {"generator": coarse, "data/crop_size": 128})).data.crop_size == 128
