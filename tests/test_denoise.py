import pytest
import torch
from raygan.inference.tiles import denoise
from raygan.models.generator import build_generator
from torch import Tensor, nn

from raygan.config.run import GeneratorConfig


class Recorder(nn.Module):
    """Gives back what it gets, and remembers it."""

    stride = 64

    def forward(self, noisy: Tensor) -> Tensor:
        self.seen = noisy
        return noisy


@pytest.mark.parametrize("size", [(64, 128), (65, 100), (321, 481), (40, 70), (1, 1), (2, 200), (33, 64)])
def test_any_size_is_padded_by_reflection_and_cut_back(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    network = Recorder()
    assert torch.equal(denoise(network, images), images)
    height, width = network.seen.shape[-2:]
    assert height % 64 == width % 64 == 0
    assert height - size[0] < 64
    assert width - size[1] < 64


def test_padding_is_torchs_reflection_where_that_exists() -> None:
    images = torch.rand(1, 3, 100, 90)
    network = Recorder()
    denoise(network, images)
    assert torch.equal(network.seen, nn.functional.pad(images, (0, 38, 0, 28), mode="reflect"))


def test_a_multiple_of_the_stride_is_the_generators_own_result() -> None:
    generator = build_generator(GeneratorConfig(base_width=4)).eval()
    images = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        assert torch.equal(denoise(generator, images), generator(images))
