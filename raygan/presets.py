"""Complete configurations: the paper's systems, our denoisers, and the values that make any run quick."""

from __future__ import annotations

import math
from typing import Any

from raygan.config.run import Config, DataConfig, LossConfig
from raygan.config.section import flat_values, with_values
from raygan.data.sources import Bsd300, Coco
from raygan.losses import MeanSquaredError, Vgg19Features
from raygan.models import ResidualUNet, SingleScore, UNet
from raygan.noise import Camera, Gaussian, GreyGaussian, Jpeg, SaltAndPepper, Speckle, UniformPolicy

PAPER_V1 = Config(
    data=DataConfig(photos=Coco(), evaluate_on=Bsd300()),
    noises=(Gaussian(), SaltAndPepper(), Speckle()),
    sampling=UniformPolicy(),
    generator=UNet(),
    discriminator=SingleScore(),
    loss=LossConfig(content=Vgg19Features()),
)
"""The paper's current system."""

PAPER_V0 = with_values(
    PAPER_V1,
    {
        "loss/content": MeanSquaredError(),
        "loss/adversarial_weight": 0.001,
        "optimizers/discriminator/learning_rate": 0.007,
        "optimizers/generator/learning_rate": 0.0005,
        "optimizers/generator/beta1": 0.9,
    },
)
"""The paper's first system, with a pixel content loss."""

PAPER_ABLATION = with_values(PAPER_V1, {"loss/adversarial_weight": 0.001})
"""The paper's ablation: v1 with a weaker adversarial loss."""

DENOISER = with_values(
    PAPER_V1,
    {
        "data/train_photos": 100_000,
        "data/val_photos": 50,
        "data/val_crops": 64,
        "data/crop_size": 64,
        "data/augmentation": "flips_and_rotations",
        "generator": ResidualUNet(base_width=32, blocks=1, depth=3, normalization="none", residual=True),
        "loss/content": MeanSquaredError(),
        "optimizers/generator/learning_rate": 5e-4,
        "optimizers/generator/beta1": 0.9,
        "training/steps_per_epoch": 1000,
        "training/epochs": 26,
        "training/pixel_epochs": None,
        "training/lr_schedule": "cosine",
        "training/warm_up_steps": 200,
        "training/average_decay": 0.995,
        "training/max_gradient_norm": 0.1,
        "training/precision": "auto",
    },
)
"""A small residual U-Net trained with the pixel loss alone: the denoiser `baseline`."""

CAMERA = with_values(
    DENOISER,
    {
        "noises": (
            # Of weaker noise, most of a real photo would be taken for detail.
            Camera(odds=2.5, low=3.9, high=6.2, jpeg=0.8),
            Gaussian(odds=0.52),
            Gaussian(low=0.0004, high=0.02) + Jpeg(low=95, high=70, subsampled=0.75),
            GreyGaussian(odds=0.5),
        ),
        "clean_share": 0.12,
        "data/min_enlargement": 1.7,
        "data/max_enlargement": 4.0,
        "generator/blocks": 2,
        "optimizers/generator/learning_rate": 1.8e-4,
        "training/start_from": "synthetic",
        # Longer training removes less of the noise of real cameras, which is unlike the simulated one.
        "training/steps_per_epoch": 80,
        "training/epochs": 3,
        "training/warm_up_steps": 40,
        "training/average_decay": 0.97,
    },
)
"""The denoiser `camera`: `synthetic`, fine-tuned on the noise of cameras, and on other noise that photos have."""

QUICK: dict[str, Any] = {
    "data/photos": "samples",
    "data/evaluate_on": "samples",
    "data/train_photos": 200,
    "data/val_crops": 16,
    "data/crop_size": 64,
    "generator/base_width": 16,
    "generator/batch_norm_momentum": 0.1,
    "discriminator/base_width": 16,
    "discriminator/batch_norm_momentum": 0.1,
    "loss/content": MeanSquaredError(),
    "training/batch_size": 16,
    "training/steps_per_epoch": 60,
    "training/epochs": 12,
}
"""Values that shrink a run to minutes on two cores, with no data and no weights at hand."""


def quick(config: Config) -> Config:
    """The configuration with the values of `QUICK` that it has paths for.

    A generator whose weights are given (`training/start_from`) keeps its shape, and a content loss that needs no
    weights stays. What is shorter already stays as it is.
    """
    known = flat_values(config)
    # A generator with many levels needs larger crops.
    shrunk = QUICK | {"data/crop_size": math.lcm(64, config.generator.stride)}
    for path in ("training/steps_per_epoch", "training/epochs"):
        shrunk[path] = min(one for one in (QUICK[path], known[path]) if one is not None)
    kept = ["generator/"] if config.training.start_from is not None else []
    kept += ["loss/content"] if config.loss.content.weights_source is None else []
    values = {path: value for path, value in shrunk.items() if path in known and not path.startswith(tuple(kept))}
    return with_values(config, values)
