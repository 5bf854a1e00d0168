import dataclasses
from typing import Any

import pytest
import torch
from raygan.inference.tiles import denoise
from raygan.models.discriminator import DISCRIMINATORS, build_discriminator
from raygan.models.generator import GENERATORS, build_generator
from torch import nn

from raygan.config.run import DiscriminatorConfig, GeneratorConfig
from raygan.models.cost import milliseconds, parameters


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


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_patchs_size_follows_from_the_layers(layers: int, patch: int) -> None:
    config = DiscriminatorConfig(architecture="patch", patch_layers=layers, base_width=2)
    discriminator = build_discriminator(config, crop_size=256).eval()
    images = torch.rand(1, 3, 256, 256, requires_grad=True)
    scores = discriminator(images)
    side = 256 // 2**layers - 2
    assert scores.shape == (1, 1, side, side)
    scores[0, 0, side // 2, side // 2].backward()
    assert images.grad is not None
    touched = images.grad[0].abs().sum(dim=0).nonzero()
    assert (touched.max(dim=0).values - touched.min(dim=0).values + 1).tolist() == [patch, patch]


def test_patchgan_widens_up_to_eight_times() -> None:
    config = DiscriminatorConfig(architecture="patch", patch_layers=4, base_width=2)
    layers = [m for m in build_discriminator(config, 64).modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.stride[0]) for m in layers] == [(2, 2), (4, 2), (8, 2), (16, 2), (16, 1), (1, 1)]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        # By layers: 3 to 4, 4 to 8, 8 to 16 channels; 16 to 8, 8 + 8 to 4, 4 + 4 to 3, with biases and batch norm.
        ({}, 196 + (520 + 16) + 2064 + (2056 + 16) + (1028 + 8) + 387),
        ({"normalization": "none"}, 196 + 520 + 2064 + 2056 + 1028 + 387),
        ({"upsampling": "resize"}, 196 + (520 + 16) + 2064 + (1160 + 16) + (580 + 8) + 219),
    ],
)
def test_a_shallow_generators_parameters_counted_by_hand(options: dict[str, Any], count: int) -> None:
    config = GeneratorConfig(base_width=4, depth=3, **options)
    assert trainable(build_generator(config)) == parameters(config) == count


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize("depth", range(2, 7))
def test_every_depth_keeps_shapes(depth: int, upsampling: Any, residual: bool) -> None:
    generator = build_generator(
        GeneratorConfig(base_width=2, depth=depth, upsampling=upsampling, residual=residual)
    ).eval()
    assert generator.stride == 2**depth
    noisy = torch.rand(2, 3, generator.stride, 3 * generator.stride)
    assert generator(noisy).shape == noisy.shape
    with torch.no_grad():
        # Photos of any size are padded to its stride.
        assert denoise(generator, torch.rand(1, 3, 13, 70)).shape == (1, 3, 13, 70)


def test_a_residual_unets_parameters_counted_by_hand() -> None:
    """Widths 4, 8, 16: a block of each, down and up again, between 2x2 convolutions down and 4x4 ones up."""
    config = GeneratorConfig(architecture="residual_unet", base_width=4, depth=2, blocks=1, normalization="none")
    blocks = {width: 2 * (9 * width**2 + width) for width in (4, 8, 16)}
    down = (4 * 4 * 8 + 8) + (4 * 8 * 16 + 16)
    up = (16 * 16 * 8 + 8) + (16 * 8 * 4 + 4)
    count = (27 * 4 + 4) + (9 * 4 * 3 + 3) + 2 * blocks[4] + 2 * blocks[8] + blocks[16] + down + up
    assert trainable(build_generator(config)) == parameters(config) == count
    # Batch norm has two values a channel, after each of a block's convolutions.
    normalised = dataclasses.replace(config, normalization="batch")
    assert parameters(normalised) == count + 4 * (4 + 8 + 16 + 8 + 4)
    # At half resolution, four pixels' values come in and go out together.
    assert parameters(dataclasses.replace(config, unshuffle=2)) == count + 9 * 9 * 4 + 9 * 4 * 9 + 9
    assert parameters(dataclasses.replace(config, blocks=3)) == count + 2 * (2 * blocks[4] + 2 * blocks[8] + blocks[16])


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize("unshuffle", [1, 2, 4])
def test_a_residual_unet_takes_any_size(unshuffle: int, upsampling: Any, residual: bool) -> None:
    config = GeneratorConfig(
        architecture="residual_unet",
        base_width=2,
        depth=2,
        blocks=1,
        unshuffle=unshuffle,
        upsampling=upsampling,
        residual=residual,
    )
    generator = build_generator(config).eval()
    assert generator.stride == 4 * unshuffle
    noisy = torch.rand(1, 3, 13, 70)
    denoised = denoise(generator, noisy)
    assert denoised.shape == noisy.shape
    assert torch.equal(denoised, noisy) == residual


def test_resizing_needs_no_transposed_convolution() -> None:
    generator = build_generator(GeneratorConfig(base_width=4, upsampling="resize"))
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in generator.modules())
    resized = [m for m in generator.modules() if isinstance(m, nn.Upsample)]
    assert [(m.scale_factor, m.mode) for m in resized] == [(2.0, "nearest")] * 6


@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize("architecture", GENERATORS)
def test_a_residual_generator_starts_as_the_identity_and_learns(architecture: Any, upsampling: Any) -> None:
    torch.manual_seed(0)
    config = GeneratorConfig(architecture=architecture, base_width=4, depth=3, upsampling=upsampling, residual=True)
    generator = build_generator(config)
    noisy, clean = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(generator(noisy), noisy, rtol=0, atol=0)
    torch.testing.assert_close(generator.eval()(noisy), noisy, rtol=0, atol=0)
    generator.train()
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = (generator(noisy) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_residual_may_leave_the_unit_range_but_no_denoised_image_does() -> None:
    generator = build_generator(GeneratorConfig(base_width=4, depth=2, residual=True)).eval()
    bias = generator.output.bias
    assert isinstance(bias, nn.Parameter)
    # The network's own range is twice as wide: 0.5 is 0.25 here.
    nn.init.constant_(bias, 0.5)
    noisy = torch.tensor([0.0, 0.5, 0.9]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(generator(noisy)[0, :, 0, 0], torch.tensor([0.25, 0.75, 1.15]))
        torch.testing.assert_close(denoise(generator, noisy)[0, :, 0, 0], torch.tensor([0.25, 0.75, 1.0]))


def test_a_generators_time_grows_with_its_width() -> None:
    narrow, wide = (milliseconds(GeneratorConfig(base_width=width), 64, "cpu") for width in (2, 64))
    assert 0 < narrow < wide


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
