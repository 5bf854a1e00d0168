import pytest
import torch
from torch import nn

from raygan.config.section import ConfigError, with_values
from raygan.models import PatchGAN, SingleScore
from raygan.presets import PAPER_V1


def trainable(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_single_score_has_the_papers_size_and_one_logit_per_image() -> None:
    discriminator = SingleScore().build(crop_size=256)
    assert trainable(discriminator) == 20_585_921
    assert sum(one.numel() for name, one in discriminator.named_buffers() if "running" in name) == 2_304
    assert SingleScore(base_width=4).build(crop_size=128)(torch.rand(5, 3, 128, 128)).shape == (5,)


def test_patchgan_has_the_parameters_of_pix2pix() -> None:
    """Isola et al. (2017) on 3 channels, with biases."""
    convolutions = [64 * 3 * 16 + 64, 128 * 64 * 16 + 128, 256 * 128 * 16 + 256, 512 * 256 * 16 + 512, 512 * 16 + 1]
    count = sum(convolutions) + 2 * (128 + 256 + 512)
    assert trainable(PatchGAN().build(crop_size=256)) == count == 2_766_529


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_patch_size_follows_from_the_layers(layers: int, patch: int) -> None:
    discriminator = PatchGAN(layers=layers, base_width=2).build(crop_size=256).eval()
    images = torch.rand(1, 3, 256, 256, requires_grad=True)
    scores = discriminator(images)
    side = 256 // 2**layers - 2
    assert scores.shape == (1, 1, side, side)
    # The gradient of one score covers one patch.
    scores[0, 0, side // 2, side // 2].backward()
    assert images.grad is not None
    touched = images.grad[0].abs().sum(dim=0).nonzero()
    assert (touched.max(dim=0).values - touched.min(dim=0).values + 1).tolist() == [patch, patch]


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_patchgan_has_scores_for_its_smallest_crops(layers: int) -> None:
    discriminator = PatchGAN(layers=layers, base_width=2)
    least = discriminator.smallest_crop
    assert discriminator.build(least)(torch.zeros(1, 3, least, least)).numel() == 1
    values = {"discriminator": PatchGAN(layers=4), "data/crop_size": 32, "generator/depth": 4}
    with pytest.raises(ConfigError, match=r"at least the discriminator's smallest must hold, but got crop_size=32"):
        with_values(PAPER_V1, values)


def test_patchgan_widens_up_to_eight_times() -> None:
    layers = [m for m in PatchGAN(layers=4, base_width=2).build(64).modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.stride[0]) for m in layers] == [(2, 2), (4, 2), (8, 2), (16, 2), (16, 1), (1, 1)]


@pytest.mark.parametrize("settings", [SingleScore, PatchGAN])
def test_without_normalization_there_is_none_and_the_same_convolutions(settings: type[SingleScore | PatchGAN]) -> None:
    with_norm = settings(base_width=4).build(64)
    without = settings(base_width=4, normalization="none").build(64)
    norms = [m for m in with_norm.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(isinstance(m, nn.BatchNorm2d) for m in without.modules())
    assert trainable(without) == trainable(with_norm) - sum(2 * m.num_features for m in norms)
