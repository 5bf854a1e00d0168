import numpy as np
import pytest
import torch
from raygan.noise.noise import LEVELS, Level, add_noise, level_intensity, sample_noise
from scipy import stats
from skimage.util import random_noise

from raygan.config.run import IntensityRange, NoiseConfig, NoiseKind
from raygan.config.section import with_values
from raygan.presets import PAPER_V1
from raygan.seeds import torch_generator

SKIMAGE = {
    "gaussian": lambda image, value, rng: random_noise(image, "gaussian", var=value, rng=rng),
    "salt_and_pepper": lambda image, value, rng: random_noise(image, "s&p", amount=value, rng=rng),
    "speckle": lambda image, value, rng: random_noise(image, "speckle", var=value, rng=rng),
}
KINDS_AND_INTENSITIES = [
    (kind, PAPER_V1.noise.range_of(kind), level) for kind in PAPER_V1.noise.kinds for level in LEVELS
]


def noisy_of(clean: torch.Tensor, kind: NoiseKind, intensity: float, seed: int = 0) -> torch.Tensor:
    count = len(clean)
    streams = [torch_generator("test", seed, row) for row in range(count)]
    return add_noise(clean, [kind] * count, torch.full((count,), intensity), streams)


@pytest.mark.parametrize(("kind", "intensity_range", "level"), KINDS_AND_INTENSITIES)
@pytest.mark.parametrize("brightness", [0.1, 0.5, 0.9])
def test_distribution_is_scikit_images(
    kind: NoiseKind, intensity_range: IntensityRange, level: Level, brightness: float
) -> None:
    intensity = level_intensity(intensity_range, level)
    clean = torch.full((16, 3, 128, 128), brightness)
    ours = noisy_of(clean, kind, intensity).double().numpy().ravel()
    theirs = SKIMAGE[kind](clean[:, 0].double().numpy().repeat(3, 0), intensity, np.random.default_rng(1)).ravel()
    assert len(ours) == len(theirs)
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    # Mean and deviation agree within five standard errors.
    error = 5 * theirs.std() / len(theirs) ** 0.5
    assert abs(ours.mean() - theirs.mean()) < 2**0.5 * error
    # Of the least salt, 7,900 values on a dark ground, the deviation has an error of 0.6 % in either.
    assert ours.std() == pytest.approx(theirs.std(), rel=0.03)


def test_moments_match_their_closed_forms_where_clipping_does_not_reach() -> None:
    clean = torch.full((8, 3, 128, 128), 0.5)
    gaussian = noisy_of(clean, "gaussian", 0.001) - clean
    speckle = noisy_of(clean, "speckle", 0.004) - clean
    pepper = noisy_of(clean, "salt_and_pepper", 0.06)
    assert gaussian.mean().item() == pytest.approx(0, abs=2e-4)
    assert gaussian.var().item() == pytest.approx(0.001, rel=0.02)
    assert speckle.var().item() == pytest.approx(0.25 * 0.004, rel=0.02)
    assert (pepper == 0).float().mean().item() == pytest.approx(0.03, rel=0.05)
    assert (pepper == 1).float().mean().item() == pytest.approx(0.03, rel=0.05)
    assert ((pepper == 0.5) | (pepper == 0) | (pepper == 1)).all()


def test_an_images_noise_depends_on_its_own_stream_alone() -> None:
    clean = torch.rand(4, 3, 64, 64, generator=torch_generator("clean"))
    kinds: list[NoiseKind] = ["gaussian", "speckle", "gaussian", "salt_and_pepper"]
    intensities = torch.tensor([0.01, 0.02, 0.03, 0.04])
    streams = [torch_generator("test", row) for row in range(4)]
    whole = add_noise(clean, kinds, intensities, streams)
    for row in range(4):
        part = slice(row, row + 1)
        # In another memory layout, too.
        image = clean[part].contiguous(memory_format=torch.channels_last)
        assert torch.equal(
            add_noise(image, kinds[part], intensities[part], [torch_generator("test", row)]), whole[part]
        )


def test_each_image_gets_its_own_kind_and_intensity() -> None:
    clean = torch.full((4, 3, 64, 64), 0.5)
    kinds: list[NoiseKind] = ["salt_and_pepper", "gaussian", "speckle", "gaussian"]
    noisy = add_noise(
        clean, kinds, torch.tensor([0.0, 0.0004, 0.0, 0.0016]), [torch_generator("test", row) for row in range(4)]
    )
    deviations = (noisy - clean).flatten(1).std(dim=1).tolist()
    assert deviations == pytest.approx([0, 0.02, 0, 0.04], rel=0.03)
    assert torch.equal(clean, torch.full((4, 3, 64, 64), 0.5))


def test_result_stays_in_the_unit_range() -> None:
    clean = torch.rand(3, 3, 32, 32, generator=torch_generator("test", 1))
    for kind in PAPER_V1.noise.kinds:
        noisy = noisy_of(clean, kind, 0.9)
        assert noisy.min() >= 0
        assert noisy.max() <= 1


def test_every_image_needs_a_stream() -> None:
    with pytest.raises(ValueError, match="shorter"):
        add_noise(torch.rand(2, 3, 8, 8), ["gaussian"] * 2, torch.full((2,), 0.1), [torch_generator("test")])


def test_same_seed_same_noise_other_seed_other_noise() -> None:
    clean = torch.rand(2, 3, 16, 16)
    assert torch.equal(noisy_of(clean, "gaussian", 0.05, seed=1), noisy_of(clean, "gaussian", 0.05, seed=1))
    assert not torch.equal(noisy_of(clean, "gaussian", 0.05, seed=1), noisy_of(clean, "gaussian", 0.05, seed=2))


def positions(policy: str, deviation: float = 1 / 6) -> np.ndarray:
    noise = with_values(PAPER_V1, {"noise/policy": policy, "noise/normal_deviation": deviation}).noise
    kinds, intensities = sample_noise(noise, 6000, torch_generator("test", 5))
    low = np.array([noise.range_of(kind).low for kind in kinds])
    high = np.array([noise.range_of(kind).high for kind in kinds])
    return (intensities.numpy() - low) / (high - low)


def test_uniform_policy_is_uniform_over_each_kinds_range() -> None:
    assert stats.kstest(positions("uniform"), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("deviation", [1 / 6, 0.5])
def test_normal_policy_is_a_normal_truncated_to_the_range(deviation: float) -> None:
    reference = stats.truncnorm(-0.5 / deviation, 0.5 / deviation, loc=0.5, scale=deviation)
    assert stats.kstest(positions("normal", deviation), reference.cdf).pvalue > 1e-3


def test_kinds_have_equal_odds_and_only_configured_ones_appear() -> None:
    kinds, _ = sample_noise(NoiseConfig(), 6000, torch_generator("test", 7))
    counts = [kinds.count(kind) for kind in NoiseConfig().kinds]
    assert sum(counts) == 6000
    assert stats.chisquare(counts).pvalue > 1e-3
    kinds, _ = sample_noise(NoiseConfig(kinds=("speckle",)), 50, torch_generator("test", 7))
    assert set(kinds) == {"speckle"}
