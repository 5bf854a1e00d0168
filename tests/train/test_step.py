import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.train.step import METRICS, PIXEL_METRICS, Gan, pixel_step, train_step


@pytest.fixture
def gan(tiny_config: Config) -> Gan:
    config = with_values(tiny_config, {"loss/content_weight": 0.7, "loss/adversarial_weight": 0.3})
    torch.manual_seed(0)
    generator, discriminator = config.generator.build(), config.discriminator.build(64)
    return Gan(
        generator=generator,
        discriminator=discriminator,
        frozen_discriminator=discriminator,
        generator_optimizer=torch.optim.SGD(generator.parameters(), lr=0.1),
        discriminator_optimizer=torch.optim.SGD(discriminator.parameters(), lr=0.1),
        content_loss=config.loss.content.build({}),
        config=config,
    )


def copy_of(gan: Gan, values: dict[str, object], *, discriminator_rate: float = 0.1) -> Gan:
    """A copy with its own weights and other values of the configuration."""
    generator, discriminator = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    return Gan(
        generator=generator,
        discriminator=discriminator,
        frozen_discriminator=discriminator,
        generator_optimizer=torch.optim.SGD(generator.parameters(), lr=0.1),
        discriminator_optimizer=torch.optim.SGD(discriminator.parameters(), lr=discriminator_rate),
        content_loss=gan.content_loss,
        config=with_values(gan.config, values),
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


def test_step_is_that_of_the_paper(gan: Gan) -> None:
    """The same step written out by hand: weights and losses agree."""
    clean, noisy = batch()
    generator, discriminator = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    one, zero = torch.ones(4), torch.zeros(4)
    bce = functional.binary_cross_entropy

    on_clean = bce(torch.sigmoid(discriminator(clean)), one)
    on_denoised = bce(torch.sigmoid(discriminator(generator(noisy).detach())), zero)
    descend(discriminator, on_clean + on_denoised)
    denoised = generator(noisy)
    content = (denoised - clean).square().mean()
    adversarial = bce(torch.sigmoid(discriminator(denoised)), one)
    descend(generator, 0.7 * content + 0.3 * adversarial)

    values = train_step(gan, clean, noisy)
    for ours, by_hand in ((gan.generator, generator), (gan.discriminator, discriminator)):
        for weight, expected in zip(ours.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)
    assert values["content_loss"].item() == pytest.approx(content.item(), rel=1e-5)
    assert values["adversarial_loss"].item() == pytest.approx(adversarial.item(), rel=1e-5)
    assert values["generator_loss"].item() == pytest.approx((0.7 * content + 0.3 * adversarial).item(), rel=1e-5)
    assert values["discriminator_loss_clean"].item() == pytest.approx(on_clean.item(), rel=1e-5)
    assert values["discriminator_loss_denoised"].item() == pytest.approx(on_denoised.item(), rel=1e-5)
    assert values["discriminator_loss"].item() == pytest.approx((on_clean + on_denoised).item(), rel=1e-5)


def test_pixel_step_moves_the_generator_alone(gan: Gan) -> None:
    clean, noisy = batch()
    generator, discriminator = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    loss = (generator(noisy) - clean).abs().mean()
    descend(generator, loss)
    values = pixel_step(gan, clean, noisy)
    for weight, expected in zip(gan.generator.parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)
    assert gan.discriminator.state_dict().keys() == discriminator.state_dict().keys()
    for name, value in gan.discriminator.state_dict().items():
        assert torch.equal(value, discriminator.state_dict()[name])
    assert tuple(values) == METRICS
    for name, value in values.items():
        assert value.item() == pytest.approx(loss.item() if name in PIXEL_METRICS else float("nan"), nan_ok=True)


def test_pixel_loss_joins_by_its_weight(gan: Gan) -> None:
    clean, noisy = batch()
    by_hand = (gan.generator(noisy) - clean).abs().mean().item()
    weighted = copy_of(gan, {"loss/pixel_weight": 2.0})
    values = {name: value.item() for name, value in train_step(weighted, clean, noisy).items()}
    assert tuple(values) == METRICS
    assert values["pixel_loss"] == pytest.approx(by_hand, rel=1e-5)
    total = 0.7 * values["content_loss"] + 0.3 * values["adversarial_loss"] + 2 * by_hand
    assert values["generator_loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("step", [pixel_step, train_step])
def test_long_gradient_is_clipped(gan: Gan, step: Any) -> None:
    """Gradient descent at rate 0.1 moves all weights together by a tenth of the gradient's length."""
    clean, noisy = batch()
    before = torch.nn.utils.parameters_to_vector(gan.generator.parameters()).detach().clone()
    moved = {}
    for longest in (None, 1e-3):
        own = copy_of(gan, {"training/max_gradient_norm": longest}, discriminator_rate=0.0)
        step(own, clean, noisy)
        moved[longest] = torch.nn.utils.parameters_to_vector(own.generator.parameters()) - before
    assert moved[None].norm().item() > 1e-3
    assert moved[1e-3].norm().item() == pytest.approx(1e-4, rel=1e-2)
    direction = functional.cosine_similarity(moved[None], moved[1e-3], dim=0)
    assert direction.item() == pytest.approx(1, abs=1e-3)


def test_accuracy_is_the_share_of_right_guesses(gan: Gan) -> None:
    class Brightness(nn.Module):
        """Takes bright images for clean."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.scale * (images.mean(dim=(1, 2, 3)) - 0.75)

    gan.discriminator = gan.frozen_discriminator = Brightness()
    clean = torch.cat([torch.ones(3, 3, 64, 64), torch.zeros(1, 3, 64, 64)])
    values = train_step(gan, clean, clean)
    # Three of four clean images are bright; the untrained generator's images are grey, so none is taken for clean.
    assert values["discriminator_accuracy_clean"].item() == 0.75
    assert values["discriminator_accuracy_denoised"].item() == 1.0


def test_frozen_discriminator_normalizes_as_configured(gan: Gan) -> None:
    """With "moving", the generator's pass is like an evaluation: it neither uses nor updates batch statistics."""
    clean, noisy = batch()
    for frozen_statistics, passes in (("batch", 3), ("moving", 2)):
        # Without a step, so that the generator's pass can be repeated.
        own = copy_of(gan, {"discriminator/frozen_statistics": frozen_statistics}, discriminator_rate=0.0)
        denoised = own.generator(noisy).detach()
        values = train_step(own, clean, noisy)
        counts = [int(value) for name, value in own.discriminator.named_buffers() if name.endswith("tracked")]
        assert counts == [passes] * 4
        if frozen_statistics == "moving":
            expected = functional.softplus(-own.discriminator.eval()(denoised)).mean()
            assert values["adversarial_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_bfloat16_steps_stay_close_to_float32(gan: Gan) -> None:
    clean, noisy = batch()
    results = {}
    for precision in ("float32", "bfloat16"):
        own = copy_of(gan, {"training/precision": precision})
        # Of several steps, so that weights converted for one step and kept for the next would show.
        results[precision] = [train_step(own, clean, noisy) for _ in range(4)]
        assert {weight.dtype for weight in own.generator.parameters()} == {torch.float32}
    for float32, bfloat16 in zip(*results.values(), strict=True):
        for name in ("content_loss", "discriminator_loss", "adversarial_loss"):
            assert bfloat16[name].item() == pytest.approx(float32[name].item(), rel=0.02)
            assert bfloat16[name].dtype == torch.float32
    assert results["float32"][-1] != results["bfloat16"][-1]


def test_pass_of_the_generator_leaves_no_gradient_in_the_discriminator(gan: Gan) -> None:
    clean, noisy = batch()
    generator, discriminator = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    scores = discriminator(clean), discriminator(generator(noisy).detach())
    loss = functional.softplus(-scores[0]).mean() + functional.softplus(scores[1]).mean()
    expected = torch.autograd.grad(loss, list(discriminator.parameters()))
    train_step(gan, clean, noisy)
    for weight, gradient in zip(gan.discriminator.parameters(), expected, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5)
