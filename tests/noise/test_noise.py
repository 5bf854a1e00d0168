import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.util import random_noise

from raygan.config.kinds import LEVELS, Level, Noise, SamplingPolicy
from raygan.config.run import Config
from raygan.noise import Gaussian, NormalPolicy, SaltAndPepper, Speckle, UniformPolicy, add_noise, sample_noise
from raygan.presets import PAPER_V1
from raygan.seeds import torch_generator

NOISES = (Gaussian(), SaltAndPepper(), Speckle())
SKIMAGE: dict[str, Callable[..., Any]] = {
    "gaussian": lambda image, value, rng: random_noise(image, "gaussian", var=value, rng=rng),
    "salt_and_pepper": lambda image, value, rng: random_noise(image, "s&p", amount=value, rng=rng),
    "speckle": lambda image, value, rng: random_noise(image, "speckle", var=value, rng=rng),
}


def noisy_of(clean: torch.Tensor, noise: Noise, intensity: float, seed: int = 0) -> torch.Tensor:
    streams = [torch_generator("test", seed, row) for row in range(len(clean))]
    return add_noise(clean, [noise] * len(clean), [intensity] * len(clean), streams)


def test_levels_are_the_papers() -> None:
    assert PAPER_V1.noises == NOISES
    intensities = {noise.key: [noise.intensity(level) for level in LEVELS] for noise in NOISES}
    assert intensities == {
        "gaussian": pytest.approx([0.005, 0.0425, 0.08]),
        "salt_and_pepper": pytest.approx([0.02, 0.045, 0.07]),
        "speckle": pytest.approx([0.005, 0.1025, 0.2]),
    }


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.key)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("brightness", [0.1, 0.5, 0.9])
def test_distribution_is_scikit_images(noise: Noise, level: Level, brightness: float) -> None:
    intensity = noise.intensity(level)
    clean = torch.full((16, 3, 128, 128), brightness)
    ours = noisy_of(clean, noise, intensity).double().numpy().ravel()
    random = np.random.default_rng(1)
    theirs = SKIMAGE[noise.key](clean[:, 0].double().numpy().repeat(3, 0), intensity, random).ravel()
    assert len(ours) == len(theirs)
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    # Mean and deviation agree within five standard errors.
    error = 5 * theirs.std() / len(theirs) ** 0.5
    assert abs(ours.mean() - theirs.mean()) < 2**0.5 * error
    # Of the least salt, 7,900 values on a dark ground, the deviation has an error of 0.6 % in either.
    assert ours.std() == pytest.approx(theirs.std(), rel=0.03)


def test_moments_match_their_closed_forms_where_clipping_does_not_reach() -> None:
    clean = torch.full((8, 3, 128, 128), 0.5)
    gaussian = noisy_of(clean, Gaussian(), 0.001) - clean
    speckle = noisy_of(clean, Speckle(), 0.004) - clean
    pepper = noisy_of(clean, SaltAndPepper(), 0.06)
    assert gaussian.mean().item() == pytest.approx(0, abs=2e-4)
    assert gaussian.var().item() == pytest.approx(0.001, rel=0.02)
    assert speckle.var().item() == pytest.approx(0.25 * 0.004, rel=0.02)
    assert (pepper == 0).float().mean().item() == pytest.approx(0.03, rel=0.05)
    assert (pepper == 1).float().mean().item() == pytest.approx(0.03, rel=0.05)
    assert ((pepper == 0.5) | (pepper == 0) | (pepper == 1)).all()


def test_noise_of_an_image_depends_on_its_own_stream_alone() -> None:
    clean = torch.rand(4, 3, 64, 64, generator=torch_generator("clean"))
    noises = [Gaussian(), Speckle(), Gaussian(), SaltAndPepper()]
    intensities = [0.01, 0.02, 0.03, 0.04]
    whole = add_noise(clean, noises, intensities, [torch_generator("test", row) for row in range(4)])
    for row in range(4):
        part = slice(row, row + 1)
        # In another memory layout, too.
        image = clean[part].contiguous(memory_format=torch.channels_last)
        alone = add_noise(image, noises[part], intensities[part], [torch_generator("test", row)])
        assert torch.equal(alone, whole[part])
    assert not torch.equal(noisy_of(clean, Gaussian(), 0.05, seed=1), noisy_of(clean, Gaussian(), 0.05, seed=2))
    with pytest.raises(ValueError, match="each of 4 images"):
        add_noise(clean, noises, intensities, [torch_generator("test")])


def test_each_image_gets_its_own_noise_and_intensity() -> None:
    clean = torch.full((4, 3, 64, 64), 0.5)
    noises = [SaltAndPepper(), Gaussian(), Speckle(), Gaussian()]
    streams = [torch_generator("test", row) for row in range(4)]
    noisy = add_noise(clean, noises, [0.0, 0.0004, 0.0, 0.0016], streams)
    assert (noisy - clean).flatten(1).std(dim=1).tolist() == pytest.approx([0, 0.02, 0, 0.04], rel=0.03)
    assert torch.equal(clean, torch.full((4, 3, 64, 64), 0.5))


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.key)
def test_noisy_images_stay_in_the_unit_range(noise: Noise) -> None:
    noisy = noisy_of(torch.rand(3, 3, 32, 32, generator=torch_generator("test", 1)), noise, 0.9)
    assert (noisy.min().item(), noisy.max().item()) == (0, 1)


def mixture(*noises: Noise, policy: SamplingPolicy | None = None) -> Config:
    return dataclasses.replace(PAPER_V1, noises=noises, sampling=policy or UniformPolicy())


def positions(policy: SamplingPolicy) -> np.ndarray:
    noises, intensities = sample_noise(mixture(*NOISES, policy=policy), 6000, torch_generator("test", 5))
    drawn = zip(noises, intensities, strict=True)
    return np.array([(value - noise.low) / (noise.high - noise.low) for noise, value in drawn])


def test_uniform_policy_is_uniform_over_the_range_of_each_noise() -> None:
    assert stats.kstest(positions(UniformPolicy()), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("deviation", [1 / 6, 0.5])
def test_normal_policy_is_a_normal_truncated_to_the_range(deviation: float) -> None:
    reference = stats.truncnorm(-0.5 / deviation, 0.5 / deviation, loc=0.5, scale=deviation)
    assert stats.kstest(positions(NormalPolicy(deviation=deviation)), reference.cdf).pvalue > 1e-3


def test_noises_have_equal_odds_and_only_the_given_ones_appear() -> None:
    noises, _ = sample_noise(mixture(*NOISES), 6000, torch_generator("test", 7))
    counts = [noises.count(noise) for noise in NOISES]
    assert sum(counts) == 6000
    assert stats.chisquare(counts).pvalue > 1e-3
    unequal = mixture(Gaussian(odds=3), Speckle(odds=0.5), SaltAndPepper(odds=0.5))
    noises, _ = sample_noise(unequal, 6000, torch_generator("test", 7))
    assert [noises.count(noise) / 6000 for noise in unequal.noises] == pytest.approx([0.75, 0.125, 0.125], abs=0.02)
    noises, _ = sample_noise(mixture(Speckle()), 50, torch_generator("test", 7))
    assert set(noises) == {Speckle()}


def test_images_without_a_noise_stay_as_they_are() -> None:
    clean = torch.rand(4, 3, 16, 16, generator=torch_generator("clean"))
    streams = [torch_generator("test", row) for row in range(4)]
    noisy = add_noise(clean, [None, Gaussian(), None, Gaussian()], [0.05] * 4, streams)
    assert [torch.equal(one, other) for one, other in zip(noisy, clean, strict=True)] == [True, False, True, False]
