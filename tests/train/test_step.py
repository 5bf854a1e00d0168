import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from raygan.config import Config
from raygan.losses import build_content_loss
from raygan.models.discriminator import build_discriminator
from raygan.models.generator import build_generator
from raygan.train.step import Players, train_step


@pytest.fixture
def players(tiny_config: Config) -> Players:
    torch.manual_seed(0)
    generator = build_generator(tiny_config.generator)
    discriminator = build_discriminator(tiny_config.discriminator, 64)
    return Players(
        generator=generator,
        discriminator=discriminator,
        frozen_discriminator=discriminator,
        generator_optimizer=torch.optim.SGD(generator.parameters(), lr=0.1),
        discriminator_optimizer=torch.optim.SGD(discriminator.parameters(), lr=0.1),
        content_loss=build_content_loss(tiny_config.loss, None),
        content_weight=0.7,
        adversarial_weight=0.3,
        precision="float32",
        frozen_statistics="batch",
    )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    clean = torch.rand(4, 3, 64, 64, generator=random)
    return clean, (clean + 0.2 * torch.randn(clean.shape, generator=random)).clamp(0, 1)


def descend(network: nn.Module, loss: torch.Tensor, rate: float = 0.1) -> None:
    """Plain gradient descent, written out."""
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    with torch.no_grad():
        for weight, gradient in zip(network.parameters(), gradients, strict=True):
            weight -= rate * gradient


def test_step_is_the_papers(players: Players) -> None:
    """The same step written out by hand: weights and losses agree."""
    clean, noisy = batch()
    generator, discriminator = copy.deepcopy(players.generator), copy.deepcopy(players.discriminator)
    one, zero = torch.ones(4), torch.zeros(4)
    bce = functional.binary_cross_entropy

    on_clean = bce(torch.sigmoid(discriminator(clean)), one)
    on_denoised = bce(torch.sigmoid(discriminator(generator(noisy).detach())), zero)
    descend(discriminator, on_clean + on_denoised)
    denoised = generator(noisy)
    content = (denoised - clean).square().mean()
    adversarial = bce(torch.sigmoid(discriminator(denoised)), one)
    descend(generator, 0.7 * content + 0.3 * adversarial)

    values = train_step(players, clean, noisy)
    for ours, by_hand in ((players.generator, generator), (players.discriminator, discriminator)):
        for weight, expected in zip(ours.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)
    assert values["content_loss"].item() == pytest.approx(content.item(), rel=1e-5)
    assert values["adversarial_loss"].item() == pytest.approx(adversarial.item(), rel=1e-5)
    assert values["generator_loss"].item() == pytest.approx((0.7 * content + 0.3 * adversarial).item(), rel=1e-5)
    assert values["discriminator_loss_clean"].item() == pytest.approx(on_clean.item(), rel=1e-5)
    assert values["discriminator_loss_denoised"].item() == pytest.approx(on_denoised.item(), rel=1e-5)
    assert values["discriminator_loss"].item() == pytest.approx((on_clean + on_denoised).item(), rel=1e-5)


def test_accuracy_counts_right_guesses(players: Players) -> None:
    class Brightness(nn.Module):
        """Takes bright images for clean."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.scale * (images.mean(dim=(1, 2, 3)) - 0.75)

    players.discriminator = players.frozen_discriminator = Brightness()
    clean = torch.cat([torch.ones(3, 3, 64, 64), torch.zeros(1, 3, 64, 64)])
    values = train_step(players, clean, clean)
    # Three of four clean images are bright; the untrained generator's images are grey, so none is taken for clean.
    assert values["discriminator_accuracy_clean"].item() == 0.75
    assert values["discriminator_accuracy_denoised"].item() == 1.0


def test_the_frozen_discriminator_normalises_as_configured(players: Players) -> None:
    """With "moving", the generator's pass is like an evaluation: it neither uses nor updates batch statistics."""
    clean, noisy = batch()
    for frozen_statistics, passes in (("batch", 3), ("moving", 2)):
        own = copy.deepcopy(players)
        own.frozen_discriminator = own.discriminator
        own.frozen_statistics = frozen_statistics
        # Without a step, so that the generator's pass can be repeated.
        own.discriminator_optimizer = torch.optim.SGD(own.discriminator.parameters(), lr=0.0)
        denoised = own.generator(noisy).detach()
        values = train_step(own, clean, noisy)
        counts = [int(value) for name, value in own.discriminator.named_buffers() if name.endswith("tracked")]
        assert counts == [passes] * 4
        if frozen_statistics == "moving":
            expected = functional.softplus(-own.discriminator.eval()(denoised)).mean()
            assert values["adversarial_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_bfloat16_steps_stay_close_to_float32(players: Players) -> None:
    clean, noisy = batch()
    results = {}
    for precision in ("float32", "bfloat16"):
        own = copy.deepcopy(players)
        own.frozen_discriminator, own.precision = own.discriminator, precision
        own.generator_optimizer = torch.optim.SGD(own.generator.parameters(), lr=0.1)
        own.discriminator_optimizer = torch.optim.SGD(own.discriminator.parameters(), lr=0.1)
        # Of several steps, so that weights converted for one step and kept for the next would show.
        results[precision] = [train_step(own, clean, noisy) for _ in range(4)]
        assert {weight.dtype for weight in own.generator.parameters()} == {torch.float32}
    for float32, bfloat16 in zip(*results.values(), strict=True):
        for name in ("content_loss", "discriminator_loss", "adversarial_loss"):
            assert bfloat16[name].item() == pytest.approx(float32[name].item(), rel=0.02)
            assert bfloat16[name].dtype == torch.float32
    assert results["float32"][-1] != results["bfloat16"][-1]


def test_the_generators_pass_leaves_no_gradient_in_the_discriminator(players: Players) -> None:
    clean, noisy = batch()
    generator, discriminator = copy.deepcopy(players.generator), copy.deepcopy(players.discriminator)
    scores = discriminator(clean), discriminator(generator(noisy).detach())
    loss = functional.softplus(-scores[0]).mean() + functional.softplus(scores[1]).mean()
    expected = torch.autograd.grad(loss, list(discriminator.parameters()))
    train_step(players, clean, noisy)
    for weight, gradient in zip(players.discriminator.parameters(), expected, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5)
