import pytest
import torch
from torch import Tensor

from raygan.config.kinds import LEVELS, Noise
from raygan.evaluation.out_of_distribution import OUT_OF_DISTRIBUTION
from raygan.noise import Gaussian, SaltAndPepper, Speckle, add_noise
from raygan.seeds import torch_generator


@pytest.mark.parametrize("noise", OUT_OF_DISTRIBUTION, ids=lambda noise: noise.key)
def test_noise_is_repeatable_within_range_and_grows_with_the_level(noise: Noise) -> None:
    photo = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    clean = torch.nn.functional.interpolate(photo, 128, mode="bicubic").clamp(0, 1)

    def noisy(intensity: float) -> Tensor:
        return add_noise(clean, [noise], [intensity], [torch_generator("test")])

    images = [noisy(noise.intensity(level)) for level in LEVELS]
    assert torch.equal(images[0], noisy(noise.low))
    assert all(image.shape == clean.shape and image.min() >= 0 and image.max() <= 1 for image in images)
    errors = [(image - clean).square().mean().item() for image in images]
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("trained", [Gaussian(), SaltAndPepper(), Speckle()], ids=lambda noise: noise.key)
def test_stronger_noise_is_outside_the_range_of_training(trained: Noise) -> None:
    [stronger] = [noise for noise in OUT_OF_DISTRIBUTION if noise.key == f"stronger_{trained.key}"]
    assert type(stronger) is type(trained)
    assert stronger.low > trained.high
