from typing import Any

import pytest
import torch
from torch import nn

from raygan.config.kinds import Generator
from raygan.inference.denoiser import denoise
from raygan.models import ResidualUNet, UNet


def test_unet_has_the_papers_layers() -> None:
    generator = UNet().build()
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
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.num_features for m in norms] == [*(128, 256, 512, 512), *(512, 512, 256, 128, 64)]
    # Keras's batch norm: momentum 0.99 is PyTorch's 0.01.
    assert {(m.momentum, m.eps) for m in norms} == {(0.01, 1e-3)}
    assert sum(weight.numel() for weight in generator.parameters()) == 29_247_491


def test_unet_stays_in_the_unit_range() -> None:
    denoised = UNet(base_width=4).build().eval()(torch.rand(2, 3, 128, 64))
    assert denoised.shape == (2, 3, 128, 64)
    assert denoised.min() >= 0
    assert denoised.max() <= 1


@pytest.mark.parametrize(
    ("config", "stride"),
    [
        *((UNet(base_width=2, depth=depth), 2**depth) for depth in range(2, 7)),
        (UNet(base_width=2, depth=3, upsampling="resize"), 8),
        *((ResidualUNet(base_width=2, depth=2, blocks=1, unshuffle=factor), 4 * factor) for factor in (1, 2, 4)),
        (ResidualUNet(base_width=2, depth=3, upsampling="resize"), 8),
    ],
)
def test_generator_takes_multiples_of_its_stride_and_padded_any_size(config: Generator, stride: int) -> None:
    assert config.stride == stride
    generator = config.build().eval()
    with torch.no_grad():
        assert generator(torch.rand(2, 3, stride, 3 * stride)).shape == (2, 3, stride, 3 * stride)
        assert denoise(generator, torch.rand(1, 3, 13, 70), stride).shape == (1, 3, 13, 70)


def test_resizing_needs_no_transposed_convolution() -> None:
    generator = UNet(base_width=4, upsampling="resize").build()
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in generator.modules())
    resized = [m for m in generator.modules() if isinstance(m, nn.Upsample)]
    assert [(m.scale_factor, m.mode) for m in resized] == [(2.0, "nearest")] * 6


@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize(("settings", "unshuffle"), [(UNet, {}), (ResidualUNet, {}), (ResidualUNet, {"unshuffle": 2})])
def test_residual_generator_starts_as_the_identity_and_learns(settings: Any, unshuffle: Any, upsampling: Any) -> None:
    torch.manual_seed(0)
    generator = settings(base_width=4, depth=3, upsampling=upsampling, residual=True, **unshuffle).build()
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


def test_residual_may_leave_the_unit_range_but_no_denoised_image_does() -> None:
    generator = UNet(base_width=4, depth=2, residual=True).build().eval()
    bias = generator.get_parameter("output.bias")
    # The network's own range is twice as wide: 0.5 is 0.25 here.
    nn.init.constant_(bias, 0.5)
    noisy = torch.tensor([0.0, 0.5, 0.9]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(generator(noisy)[0, :, 0, 0], torch.tensor([0.25, 0.75, 1.15]))
        torch.testing.assert_close(denoise(generator, noisy, 4)[0, :, 0, 0], torch.tensor([0.25, 0.75, 1.0]))


def test_image_statistics_are_those_of_a_batch_of_one() -> None:
    torch.manual_seed(0)
    generator = UNet(base_width=4, inference_statistics="image").build()
    noisy = torch.rand(3, 3, 64, 128)
    with torch.no_grad():
        # In training mode, batch norm takes the batch's own statistics.
        expected = torch.cat([generator.train()(image[None]) for image in noisy])
        torch.testing.assert_close(generator.eval()(noisy), expected)
        moving = UNet(base_width=4).build().eval()
        moving.load_state_dict(generator.state_dict())
        assert (moving(noisy) - expected).abs().max() > 1e-3


def test_dropout_is_in_the_first_three_decoder_blocks_while_training() -> None:
    torch.manual_seed(0)
    generator = UNet(base_width=4, dropout=0.5).build()
    assert [module.p for module in generator.modules() if isinstance(module, nn.Dropout)] == [0.5, 0.5, 0.5, 0.0, 0.0]
    noisy = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(generator(noisy), generator(noisy))
        generator.eval()
        assert torch.equal(generator(noisy), generator(noisy))


def test_weights_start_from_the_configured_normal_distribution() -> None:
    generator = UNet(initial_deviation=0.05).build()
    weights = torch.cat([m.weight.flatten() for m in generator.modules() if isinstance(m, nn.Conv2d)])
    assert weights.mean().item() == pytest.approx(0, abs=1e-4)
    assert weights.std().item() == pytest.approx(0.05, rel=1e-2)


def test_layers_at_full_resolution_compute_in_float32_when_evaluated() -> None:
    network = ResidualUNet(base_width=4, depth=2, blocks=1).build()
    seen: dict[str, torch.dtype] = {}
    for name in ("input.1", "encoder.0.0.layers.0", "encoder.1.0.layers.0", "decoder.0.0.layers.0", "output.0"):
        layer = network.get_submodule(name)
        layer.register_forward_hook(lambda _, __, result, name=name: seen.update({name: result.dtype}))
    for training in (True, False):
        network.train(training)
        with torch.autocast("cpu", torch.bfloat16):
            assert network(torch.rand(2, 3, 16, 16)).dtype == torch.float32
        full = torch.bfloat16 if training else torch.float32
        assert seen.pop("encoder.1.0.layers.0") == torch.bfloat16
        assert set(seen.values()) == {full}
