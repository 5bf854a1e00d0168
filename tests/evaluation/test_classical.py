import numpy as np
import pytest
import torch
from skimage.filters import median as skimage_median

from raygan.evaluation import classical
from raygan.evaluation.classical import FILTERS, filtered, undo_clipping


def test_median_is_that_of_scikit_image() -> None:
    noisy = torch.rand(1, 3, 20, 30)
    expected = [skimage_median(channel, np.ones((3, 3)), mode="reflect") for channel in noisy[0].numpy()]
    assert np.array_equal(filtered("median", noisy)[0].numpy(), np.array(expected))


def test_decision_median_changes_extreme_values_alone() -> None:
    noisy = torch.linspace(0.2, 0.8, 90).reshape(1, 3, 5, 6)
    # One black value, a white area that the smallest window does not leave, and a corner.
    noisy[0, 0, 2, 2] = 0
    noisy[0, 1, 1:4, 1:4] = 1
    noisy[0, 2, 0, 0] = 0
    filtered_image = filtered("decision_median", noisy)
    unchanged = (noisy != 0) & (noisy != 1)
    assert torch.equal(filtered_image[unchanged], noisy[unchanged])
    plane = noisy[0].numpy()
    window = np.delete(plane[0, 1:4, 1:4].ravel(), 4)
    assert filtered_image[0, 0, 2, 2] == pytest.approx(np.median(window))
    ring = np.pad(plane[1], 2, mode="reflect")[2:7, 2:7]
    assert filtered_image[0, 1, 2, 2] == pytest.approx(np.median(ring[ring != 1]))
    corner = np.pad(plane[2], 1, mode="reflect")[:3, :3]
    assert filtered_image[0, 2, 0, 0] == pytest.approx(np.median(corner[corner != 0]))


def test_decision_median_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = torch.rand(1, 3, 40, 50).mul(2).sub(0.5).clamp(0, 1)
    whole = filtered("decision_median", noisy)
    monkeypatch.setattr(classical, "AT_ONCE", 7)
    assert torch.equal(filtered("decision_median", noisy), whole)


def test_decision_median_keeps_an_image_of_extremes_alone() -> None:
    noisy = torch.ones(1, 3, 9, 9)
    assert torch.equal(filtered("decision_median", noisy), noisy)


@pytest.mark.parametrize("name", [name for name in FILTERS if name != "decision_median"])
@pytest.mark.parametrize("deviation", [0.1, 0.25])
def test_every_filter_denoises(name: str, deviation: float) -> None:
    """Each removes at least 3 dB of Gaussian noise from an image that is smooth except for one edge."""
    ramp = torch.linspace(0.2, 0.5, 96)
    clean = (ramp[:, None] + 0.3 * (ramp > 0.35)).expand(1, 3, 96, 96)
    noisy = clean + deviation * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    before, after = ((image - clean).square().mean().log10() for image in (noisy, filtered(name, noisy)))
    assert 10 * (before - after) > 3


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_a_flat_image(name: str) -> None:
    flat = torch.full((1, 3, 32, 32), 0.5)
    torch.testing.assert_close(filtered(name, flat), flat, rtol=0, atol=1e-3)


@pytest.mark.parametrize("deviation", [0.07, 0.2, 0.28])
def test_undoing_clipping_inverts_the_mean_of_clipped_noise(deviation: float) -> None:
    """Against the mean of a million drawn values."""
    clean = torch.tensor([0, 0.03, 0.2, 0.5, 0.8, 1])
    drawn = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    means = torch.stack([(value + deviation * drawn).clamp(0, 1).mean() for value in clean])
    assert (means - clean).abs().max() > 0.3 * deviation
    torch.testing.assert_close(undo_clipping(means, deviation), clean, rtol=0, atol=2e-3)
    # What no mean can be.
    assert undo_clipping(torch.tensor([-0.1, 0.0, 1.0, 1.1]), deviation).tolist() == [0, 0, 1, 1]


def test_undoing_clipping_keeps_values_that_weak_noise_does_not_clip() -> None:
    values = torch.linspace(0.05, 0.95, 50).reshape(1, 1, 5, 10)
    torch.testing.assert_close(undo_clipping(values, 0.01), values, rtol=0, atol=1e-6)


def test_undoing_clipping_gains_on_dark_and_bright_areas() -> None:
    clean = torch.linspace(0, 1, 96).expand(1, 3, 96, 96)
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    biased = filtered("nonlocal_means", noisy)
    before, after = ((image - clean).square().mean().log10() for image in (biased, undo_clipping(biased, 0.2)))
    assert 10 * (before - after) > 3
