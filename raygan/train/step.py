"""One step of GAN training. Nothing here needs Ray."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raygan.config.run import Config, Precision
from raygan.losses import adversarial_loss, pixel_loss

METRICS = (
    "content_loss",
    "pixel_loss",
    "adversarial_loss",
    "generator_loss",
    "discriminator_loss_clean",
    "discriminator_loss_denoised",
    "discriminator_loss",
    "discriminator_accuracy_clean",
    "discriminator_accuracy_denoised",
)
"""What a step measures; NaN for what has no part in it."""
PIXEL_METRICS = ("pixel_loss", "generator_loss")
"""What a step with the pixel loss alone measures."""


@dataclass
class Gan:
    """Both networks, their optimizers and the losses: all that a step works on.

    Either network may be wrapped for distributed training; `frozen_discriminator` is the discriminator without that
    wrapper, since the generator's pass must not wait for gradients that the discriminator will not get.
    """

    generator: nn.Module
    discriminator: nn.Module
    frozen_discriminator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    content_loss: nn.Module
    config: Config
    """Weights of the losses, gradient clipping, precision."""


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context for forward passes; it must end before weights are updated, since it caches converted weights."""
    enabled = precision == "bfloat16" or (precision == "auto" and computes_in_bfloat16(device.type))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


@functools.cache
def computes_in_bfloat16(device: str) -> bool:
    """Whether a device of this type, on this machine, has instructions for bfloat16; others emulate it, slowly."""
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def pixel_step(gan: Gan, clean: Tensor, noisy: Tensor) -> dict[str, Tensor]:
    """Update the generator alone, with the pixel loss; otherwise like `train_step`."""
    with autocast(clean.device, gan.config.training.precision):
        denoised = gan.generator(noisy)
    loss = pixel_loss(clean, denoised)
    _update(gan.generator_optimizer, loss, gan.config.training.max_gradient_norm)
    unknown = torch.full_like(loss, torch.nan).detach()
    return dict.fromkeys(METRICS, unknown) | dict.fromkeys(PIXEL_METRICS, loss.detach())


def train_step(gan: Gan, clean: Tensor, noisy: Tensor) -> dict[str, Tensor]:
    """Update the discriminator, then the generator, on one batch (paper, one step).

    `clean` and `noisy` are float32, (B, 3, S, S), in [0, 1]. Returns detached scalars on the batch's device: both
    networks' losses and their parts, and the discriminator's accuracy on clean and on denoised images.
    """
    gan.discriminator.requires_grad_(True)
    with autocast(clean.device, gan.config.training.precision):
        denoised = gan.generator(noisy)
        clean_scores = gan.discriminator(clean)
        denoised_scores = gan.discriminator(denoised.detach())
    clean_loss = adversarial_loss(clean_scores, clean=True)
    denoised_loss = adversarial_loss(denoised_scores, clean=False)
    discriminator_loss = clean_loss + denoised_loss
    _update(gan.discriminator_optimizer, discriminator_loss, gan.config.training.max_gradient_norm)

    gan.discriminator.requires_grad_(False)
    gan.frozen_discriminator.train(gan.config.discriminator.frozen_statistics == "batch")
    with autocast(clean.device, gan.config.training.precision):
        content = gan.content_loss(clean, denoised)
        scores = gan.frozen_discriminator(denoised)
    gan.frozen_discriminator.train()
    adversarial = adversarial_loss(scores, clean=True)
    loss = gan.config.loss
    generator_loss = loss.content_weight * content + loss.adversarial_weight * adversarial
    pixels = pixel_loss(clean, denoised)
    if loss.pixel_weight:
        generator_loss = generator_loss + loss.pixel_weight * pixels
    _update(gan.generator_optimizer, generator_loss, gan.config.training.max_gradient_norm)

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
