"""Noises beside the paper's and the camera's, and chains of noises."""

import numpy as np
import pytest
import torch
from torch import Tensor

from raygan.config.kinds import Noise
from raygan.config.section import ConfigError, flat_values, with_values
from raygan.noise import (
    Gaussian,
    GreyGaussian,
    Jpeg,
    NoiseChain,
    Poisson,
    PoissonGaussian,
    SaltAndPepper,
    SmoothGaussian,
    Speckle,
    add_noise,
)
from raygan.noise.jpeg import compressed
from raygan.presets import PAPER_V1
from raygan.seeds import torch_generator

GREY = torch.full((3, 512, 512), 0.5)


def added(noise: Noise, intensity: float) -> Tensor:
    """The difference from the clean image before clipping."""
    return noise.add(GREY, intensity, torch_generator("test")) - GREY


def test_poisson_noise_has_the_variance_of_counts() -> None:
    noise = added(Poisson(), 1 / 20)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert noise.var().item() == pytest.approx(0.5 / 20, rel=0.02)


def test_grey_noise_is_the_same_in_all_channels() -> None:
    noise = added(GreyGaussian(), 0.04)
    assert torch.equal(noise[:1].expand_as(noise), noise)
    assert noise.var().item() == pytest.approx(0.04, rel=0.02)


def test_smooth_noise_is_correlated_between_neighbors() -> None:
    """Adjacent 3x3 means share six of nine values."""
    inside = added(SmoothGaussian(), 0.04)[..., 1:-1, 1:-1]
    assert inside.var().item() == pytest.approx(0.04, rel=0.02)
    neighbors = np.corrcoef(inside[..., :-1].flatten(), inside[..., 1:].flatten())[0, 1]
    assert neighbors == pytest.approx(6 / 9, abs=0.01)


def test_a_mean_filter_of_another_size() -> None:
    inside = added(SmoothGaussian(size=5), 0.04)[..., 2:-2, 2:-2]
    assert inside.var().item() == pytest.approx(0.04, rel=0.03)
    assert np.corrcoef(inside[..., :-1].flatten(), inside[..., 1:].flatten())[0, 1] == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ConfigError, match="size odd must hold, but got size=4"):
        SmoothGaussian(size=4)


def test_poisson_gaussian_noise_adds_the_variances() -> None:
    noise = added(PoissonGaussian(read=0.004), 1 / 50)
    assert noise.var().item() == pytest.approx(0.5 / 50 + 0.004, rel=0.02)


def test_a_chain_adds_one_noise_after_the_other() -> None:
    chain = Gaussian() + SaltAndPepper()
    assert chain.key == "gaussian_then_salt_and_pepper"
    noisy = GREY + added(chain, 0.0)
    replaced = ((noisy == 0) | (noisy == 1)).float().mean().item()
    assert replaced == pytest.approx(0.02, rel=0.05)
    kept = noisy[(noisy > 0) & (noisy < 1)]
    assert kept.var().item() == pytest.approx(0.005, rel=0.02)
    strongest = GREY + added(chain, 1.0)
    assert ((strongest == 0) | (strongest == 1)).float().mean().item() > 0.07


def test_the_values_of_a_chain_have_paths_and_survive_json() -> None:
    chain = Gaussian() + Jpeg(low=90, high=60)
    config = with_values(PAPER_V1, {"noises": (chain,)})
    path = f"noises/{chain.key}/noises/jpeg/high"
    assert flat_values(config)[path] == 60
    changed = with_values(config, {path: 50, f"noises/{chain.key}/odds": 2.0})
    assert changed.noises == (NoiseChain(noises=(Gaussian(), Jpeg(low=90, high=50)), odds=2.0),)
    assert type(config).from_json(changed.to_json()) == changed
    with pytest.raises(ConfigError, match="with different names"):
        Gaussian() + Gaussian()
    with pytest.raises(ConfigError, match="no noise named pairs"):
        with_values(PAPER_V1, {"noises": (Gaussian(name="pairs"),)})


def test_longer_chains_are_flat_and_have_the_odds_of_their_first_noise() -> None:
    chain = Gaussian(odds=3) + SaltAndPepper() + Jpeg()
    assert chain == NoiseChain(noises=(Gaussian(odds=3), SaltAndPepper(), Jpeg()), odds=3)
    # One with a range or a name of its own stays a part.
    weak = NoiseChain(noises=(Gaussian(), Speckle()), high=0.5, name="weak")
    assert (weak + Jpeg()).noises == (weak, Jpeg())
    clean = torch.rand(2, 3, 32, 32, generator=torch_generator("clean"))
    batch = add_noise(clean, [chain, chain], [0.2, 0.8], [torch_generator("test", row) for row in range(2)])
    for row, position in enumerate((0.2, 0.8)):
        torch.testing.assert_close(batch[row], chain.add(clean[row], position, torch_generator("test", row)))


def test_jpeg_noise_is_compression_of_the_given_quality() -> None:
    clean = torch.rand(2, 3, 40, 50, generator=torch_generator("clean"))
    streams = [torch_generator("test", row) for row in range(2)]
    noisy = add_noise(clean, [Jpeg(), Jpeg(subsampled=0.0)], [25, 60], streams)
    expected = compressed(clean, torch.tensor([25.0, 60.0]), torch.tensor([True, False]))
    torch.testing.assert_close(noisy, expected)


@pytest.mark.parametrize(("kind", "low", "high"), [(Jpeg, 10, 40), (Poisson, 0, 0.1), (GreyGaussian, 0.2, 0.1)])
def test_invalid_ranges_are_refused(kind: type[Noise], low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="must hold, but got low="):
        kind(low=low, high=high)
