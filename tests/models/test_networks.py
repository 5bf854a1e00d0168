import pytest
import torch
from torch import nn

from raygan.config import DiscriminatorConfig, GeneratorConfig
from raygan.models.discriminator import DISCRIMINATORS, build_discriminator
from raygan.models.generator import GENERATORS, build_generator


def trainable(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def moving_statistics(network: nn.Module) -> int:
    return sum(buffer.numel() for name, buffer in network.named_buffers() if "running" in name)


def test_parameter_counts_are_the_papers() -> None:
    generator = build_generator(GeneratorConfig())
    discriminator = build_discriminator(DiscriminatorConfig(), crop_size=256)
    assert trainable(generator) == 29_247_491
    assert moving_statistics(generator) == 5_760
    assert trainable(discriminator) == 20_585_921
    assert moving_statistics(discriminator) == 2_304


def test_generator_keeps_shape_and_stays_in_the_unit_range() -> None:
    generator = build_generator(GeneratorConfig(base_width=4)).eval()
    noisy = torch.rand(2, 3, 128, 64)
    denoised = generator(noisy)
    assert denoised.shape == noisy.shape
    assert denoised.min() >= 0
    assert denoised.max() <= 1


def test_discriminator_gives_one_logit_an_image() -> None:
    discriminator = build_discriminator(DiscriminatorConfig(base_width=4), crop_size=128)
    assert discriminator(torch.rand(5, 3, 128, 128)).shape == (5,)


def test_patchgan_is_isolas() -> None:
    """The 70x70 PatchGAN of pix2pix on 3 channels, with biases: 30x30 scores for 256x256 pixels."""
    discriminator = build_discriminator(DiscriminatorConfig(architecture="patch"), crop_size=256)
    convolutions = [64 * 3 * 16 + 64, 128 * 64 * 16 + 128, 256 * 128 * 16 + 256, 512 * 256 * 16 + 512, 512 * 16 + 1]
    assert trainable(discriminator) == sum(convolutions) + 2 * (128 + 256 + 512)
    images = torch.rand(1, 3, 256, 256, requires_grad=True)
    scores = discriminator.eval()(images)
    assert scores.shape == (1, 1, 30, 30)
    # One score's gradient covers 70x70 pixels.
    scores[0, 0, 15, 15].backward()
    assert images.grad is not None
    touched = images.grad[0].abs().sum(dim=0).nonzero()
    assert (touched.max(dim=0).values - touched.min(dim=0).values + 1).tolist() == [70, 70]


def test_image_statistics_are_those_of_a_batch_of_one() -> None:
    torch.manual_seed(0)
    generator = build_generator(GeneratorConfig(base_width=4, inference_statistics="image"))
    noisy = torch.rand(3, 3, 64, 128)
    with torch.no_grad():
        # In training mode, batch norm takes the batch's own statistics.
        expected = torch.cat([generator.train()(image[None]) for image in noisy])
        torch.testing.assert_close(generator.eval()(noisy), expected)
        moving = build_generator(GeneratorConfig(base_width=4)).eval()
        moving.load_state_dict(generator.state_dict())
        assert (moving(noisy) - expected).abs().max() > 1e-3


def test_dropout_is_in_the_first_three_decoder_blocks_while_training() -> None:
    torch.manual_seed(0)
    generator = build_generator(GeneratorConfig(base_width=4, dropout=0.5))
    assert [module.p for module in generator.modules() if isinstance(module, nn.Dropout)] == [0.5, 0.5, 0.5, 0.0, 0.0]
    noisy = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(generator(noisy), generator(noisy))
        generator.eval()
        assert torch.equal(generator(noisy), generator(noisy))


def test_layers_are_the_papers() -> None:
    generator = build_generator(GeneratorConfig())
    shapes = [tuple(m.weight.shape) for m in generator.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert shapes == [
        (64, 3, 4, 4),
        (128, 64, 4, 4),
        (256, 128, 4, 4),
        (512, 256, 4, 4),
        (512, 512, 4, 4),
        (512, 512, 4, 4),
        # Transposed convolutions hold (in, out), and take the up-sampled with the skipped features.
        (512, 512, 4, 4),
        (1024, 512, 4, 4),
        (1024, 256, 4, 4),
        (512, 128, 4, 4),
        (256, 64, 4, 4),
        (128, 3, 4, 4),
    ]
    assert [m.num_features for m in generator.modules() if isinstance(m, nn.BatchNorm2d)] == [
        *(128, 256, 512, 512),
        *(512, 512, 256, 128, 64),
    ]
    # Keras's batch norm: momentum 0.99 is PyTorch's 0.01.
    assert {(m.momentum, m.eps) for m in generator.modules() if isinstance(m, nn.BatchNorm2d)} == {(0.01, 1e-3)}


def test_weights_start_from_the_configured_normal_distribution() -> None:
    generator = build_generator(GeneratorConfig(initial_deviation=0.05))
    weights = torch.cat([m.weight.flatten() for m in generator.modules() if isinstance(m, nn.Conv2d)])
    assert weights.mean().item() == pytest.approx(0, abs=1e-4)
    assert weights.std().item() == pytest.approx(0.05, rel=1e-2)


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_can_be_configured(name: str) -> None:
    assert isinstance(build_generator(GeneratorConfig(architecture=name, base_width=4)), GENERATORS[name])


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_every_discriminator_can_be_configured(name: str) -> None:
    config = DiscriminatorConfig(architecture=name, base_width=4)
    assert isinstance(build_discriminator(config, 64), DISCRIMINATORS[name])
