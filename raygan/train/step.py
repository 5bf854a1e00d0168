"""One step of GAN training. Nothing here needs Ray."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raygan.config.run import Precision
from raygan.losses import ContentLoss, adversarial_loss, pixel_loss

METRICS = (
    *("content_loss", "pixel_loss", "adversarial_loss", "generator_loss"),
    *("discriminator_loss_clean", "discriminator_loss_denoised", "discriminator_loss"),
    *("discriminator_accuracy_clean", "discriminator_accuracy_denoised"),
)
"""What a step measures; NaN where it has no part in the step."""
PIXEL_METRICS = ("pixel_loss", "generator_loss")
"""What a step of the generator alone measures."""


@dataclass
class Players:
    """Both networks, their optimizers and the losses' weights: all that a step works on.

    Either network may be wrapped for distributed training; `frozen_discriminator` is the discriminator without
    that wrapping, since the generator's pass must not wait for gradients that the discriminator will not get.
    """

    generator: nn.Module
    discriminator: nn.Module
    frozen_discriminator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    content_loss: ContentLoss
    content_weight: float
    adversarial_weight: float
    pixel_weight: float
    max_gradient_norm: float | None
    """See `TrainingConfig.max_gradient_norm`."""
    precision: Precision
    """See `TrainingConfig.precision`."""
    frozen_statistics: str
    """See `DiscriminatorConfig.frozen_statistics`."""


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context for forward passes; it must end before weights are updated, since it keeps those it converted."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def pixel_step(players: Players, clean: Tensor, noisy: Tensor) -> dict[str, Tensor]:
    """Update the generator alone, by the mean absolute difference of pixels; as `train_step` otherwise."""
    with autocast(clean.device, players.precision):
        denoised = players.generator(noisy)
    loss = pixel_loss(clean, denoised)
    _update(players.generator_optimizer, loss, players.max_gradient_norm)
    unknown = torch.full_like(loss, torch.nan).detach()
    return dict.fromkeys(METRICS, unknown) | dict.fromkeys(PIXEL_METRICS, loss.detach())


def train_step(players: Players, clean: Tensor, noisy: Tensor) -> dict[str, Tensor]:
    """Update the discriminator, then the generator, on one batch (paper, one step).

    `clean` and `noisy` are float32, (B, 3, S, S), in [0, 1]. Returns detached scalars on the batch's device: both
    networks' losses and their parts, and the discriminator's accuracy on clean and on denoised images.
    """
    players.discriminator.requires_grad_(True)
    with autocast(clean.device, players.precision):
        denoised = players.generator(noisy)
        clean_scores = players.discriminator(clean)
        denoised_scores = players.discriminator(denoised.detach())
    clean_loss = adversarial_loss(clean_scores, clean=True)
    denoised_loss = adversarial_loss(denoised_scores, clean=False)
    discriminator_loss = clean_loss + denoised_loss
    _update(players.discriminator_optimizer, discriminator_loss, players.max_gradient_norm)

    players.discriminator.requires_grad_(False)
    players.frozen_discriminator.train(players.frozen_statistics == "batch")
    with autocast(clean.device, players.precision):
        content = players.content_loss(clean, denoised)
        scores = players.frozen_discriminator(denoised)
    players.frozen_discriminator.train()
    adversarial = adversarial_loss(scores, clean=True)
    generator_loss = players.content_weight * content + players.adversarial_weight * adversarial
    pixels = pixel_loss(clean, denoised)
    if players.pixel_weight:
        generator_loss = generator_loss + players.pixel_weight * pixels
    _update(players.generator_optimizer, generator_loss, players.max_gradient_norm)

    return {
        "content_loss": content.detach(),
        "pixel_loss": pixels.detach(),
        "adversarial_loss": adversarial.detach(),
        "generator_loss": generator_loss.detach(),
        "discriminator_loss_clean": clean_loss.detach(),
        "discriminator_loss_denoised": denoised_loss.detach(),
        "discriminator_loss": discriminator_loss.detach(),
        "discriminator_accuracy_clean": (clean_scores > 0).float().mean(),
        "discriminator_accuracy_denoised": (denoised_scores <= 0).float().mean(),
    }


def _update(optimizer: torch.optim.Optimizer, loss: Tensor, max_gradient_norm: float | None) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if max_gradient_norm is not None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, max_gradient_norm)
    optimizer.step()
