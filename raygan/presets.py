"""Configurations with a name: the paper's systems, and what makes any run quick."""

from __future__ import annotations

from raygan.config.run import Config
from raygan.config.section import with_values

PAPER_V1 = Config()
"""The paper's current system."""

PAPER_V0 = with_values(
    PAPER_V1,
    {
        "loss/content": "mse",
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
        "generator/architecture": "residual_unet",
        "generator/base_width": 32,
        "generator/blocks": 1,
        "generator/depth": 3,
        "generator/normalization": "none",
        "generator/residual": True,
        "loss/content": "mse",
        "optimizers/generator/learning_rate": 5e-4,
        "optimizers/generator/beta1": 0.9,
        "training/steps_per_epoch": 1000,
        "training/epochs": 26,
        "training/pixel_epochs": None,
        "training/lr_schedule": "cosine",
        "training/warm_up_steps": 200,
        "training/average_decay": 0.995,
        "training/max_gradient_norm": 0.1,
        "training/precision": "bfloat16",
    },
)
"""Ours: a small residual U-Net, trained for PSNR alone in 70 minutes on two cores: the denoiser that is shipped."""

QUICK: dict[str, object] = {
    "data/photos": "samples",
    "data/evaluate_on": "samples",
    "data/train_photos": 200,
    "data/val_crops": 16,
    "data/crop_size": 64,
    "generator/base_width": 16,
    "generator/batch_norm_momentum": 0.1,
    "discriminator/base_width": 16,
    "discriminator/batch_norm_momentum": 0.1,
    "loss/content": "mse",
    "training/batch_size": 16,
    "training/steps_per_epoch": 60,
    "training/epochs": 12,
}
"""The values that shrink any run to minutes on two cores, with no data and no weights at hand."""
