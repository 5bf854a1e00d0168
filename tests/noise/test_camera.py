"""The noise of cameras, and JPEG compression on tensors."""

import io

import numpy as np
import pytest
import torch
from conftest import shared
from PIL import Image
from torch import Tensor

from raygan.config.section import ConfigError
from raygan.noise import Camera
from raygan.noise.camera import Development, Draw, at_edges, demosaicked, mosaic, raw_noise, reduced
from raygan.noise.jpeg import compressed

CPU = torch.device("cpu")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo() -> Tensor:
    """Smooth colours, (3, 96, 128), without blacks or highlights."""
    random = torch.rand(1, 3, 4, 5, generator=stream()) * 0.6 + 0.2
    return torch.nn.functional.interpolate(random, (96, 128), mode="bicubic", align_corners=False)[0].clamp(0.1, 0.9)


@pytest.mark.parametrize("value", [0.15, 0.4, 0.7])
@pytest.mark.parametrize(("shot", "read"), [(1e-3, 1e-5), (1e-2, 2e-4)])
def test_raw_noise_has_the_variance_of_shot_and_read_noise(value: float, shot: float, read: float) -> None:
    raw = torch.full((1, 1000, 1000), value)
    noisy, mirrored = raw_noise(raw[None], torch.tensor([shot]), torch.tensor([read]), Draw([stream()], CPU))
    unclipped = (torch.minimum(noisy, mirrored) > 0) & (torch.maximum(noisy, mirrored) < 1)
    torch.testing.assert_close((noisy + mirrored)[unclipped], 2 * raw[None][unclipped])
    assert noisy.var().item() == pytest.approx(shot * value + read, rel=0.02)
    assert noisy.mean().item() == pytest.approx(value, abs=1e-3)


def test_development_undoes_the_way_to_raw() -> None:
    clean = photo()
    for seed in range(5):
        development = Development.drawn(Draw([stream(seed)], CPU))
        # Where the camera's colours are within its range.
        linear = torch.einsum("cd,dhw->chw", torch.linalg.inv(development.matrix[0]), clean**2.2)
        inside = ((linear > 0.01) & (linear < 0.85)).all(dim=0)
        [back] = development.to_srgb(development.to_raw(clean[None]))
        assert inside.float().mean() > 0.3
        torch.testing.assert_close(back[:, inside], clean[:, inside], rtol=0, atol=2e-3)
        grey = torch.full((1, 3, 2, 2), 0.4)
        torch.testing.assert_close(development.to_srgb(development.to_raw(grey)), grey, rtol=0, atol=2e-3)


@pytest.mark.parametrize("better", [True, False])
def test_demosaicking_keeps_what_was_measured_and_ramps(better: bool) -> None:
    rows, columns = torch.meshgrid(torch.linspace(0.2, 0.5, 16), torch.linspace(0, 0.4, 20), indexing="ij")
    colours = torch.stack([rows + columns, rows, rows + columns / 2])
    [found] = demosaicked(mosaic(colours[None]), torch.tensor([better]))
    inside = (slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inside], colours[inside], rtol=0, atol=1e-5 if not better else 2e-2)
    assert torch.equal(found[0, ::2, ::2], colours[0, ::2, ::2])
    assert torch.equal(found[1, ::2, 1::2], colours[1, ::2, 1::2])
    assert torch.equal(found[2, 1::2, 1::2], colours[2, 1::2, 1::2])
    grey = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(demosaicked(mosaic(grey), torch.tensor([better])), grey)


def test_the_better_demosaicking_is_better_on_a_grey_edge() -> None:
    """As Malvar et al. found: it corrects a colour by the gradient of the one that was measured."""
    edge = torch.sigmoid((torch.arange(32.0) - 15.5) / 0.7).expand(3, 32, 32) * 0.6 + 0.2
    both = demosaicked(mosaic(edge.expand(2, -1, -1, -1)), torch.tensor([True, False]))
    errors = (both - edge).abs().mean(dim=(1, 2, 3))
    assert errors[0] < 0.6 * errors[1]


def correlations(noise: Tensor) -> tuple[float, float]:
    """Between neighbors in a row, and between red and green."""
    centered = noise - noise.mean(dim=(1, 2), keepdim=True)
    variance = centered.square().mean()
    neighbors = (centered[:, :, 1:] * centered[:, :, :-1]).mean() / variance
    return float(neighbors), float(torch.corrcoef(centered[:2].flatten(1))[0, 1])


@pytest.mark.parametrize("value", [0.15, 0.4, 0.7])
def test_noise_keeps_the_brightness(value: float) -> None:
    """As in pairs whose clean photo is the mean of many noisy ones, even where a curve makes the noise lopsided."""
    clean = torch.full((3, 256, 256), value)
    noise = torch.stack([Camera(jpeg=0.0).add(clean, 6.0, stream(seed)) - clean for seed in range(4)])
    assert noise.std().item() > 0.003
    assert noise.mean().item() == pytest.approx(0, abs=0.02 * noise.std().item() + 2e-4)


def test_noise_is_correlated_and_grows_with_the_stops() -> None:
    clean = torch.full((3, 128, 128), 0.4)
    deviations, found = [], []
    for stops in (0.0, 3.5, 7.0):
        noises = [Camera().add(clean, stops, stream(seed)) - clean for seed in range(8)]
        deviations.append(np.mean([noise.std().item() for noise in noises]))
        found += [correlations(noise) for noise in noises if stops]
    assert 3 * deviations[0] < 1.5 * deviations[1] < deviations[2]
    neighbors, channels = np.mean(found, axis=0)
    # Both are near 0.7 in photos of real cameras; independent noise has none.
    assert neighbors > 0.3
    assert channels > 0.2


def test_noise_is_of_the_order_of_real_pairs() -> None:
    """Correlations of the same sign and order as those of pairs of noisy and clean photos of three cameras."""
    real = []
    for noisy in sorted(shared("polyu/train/noisy").iterdir())[::6]:
        images = [Image.open(file).convert("RGB") for file in (noisy, noisy.parents[1] / "clean" / noisy.name)]
        first, second = (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images)
        real.append(correlations(first - second))
    clean = photo()
    simulated = [correlations(Camera().add(clean, 4.0, stream(seed)) - clean) for seed in range(12)]
    theirs, ours = np.mean(real, axis=0), np.mean(simulated, axis=0)
    print(f"neighbors, channels: real {theirs.round(2)}, simulated {ours.round(2)}")
    assert np.all(theirs > 0)
    assert np.all(ours > theirs / 3)


def test_flat_parts_keep_a_share_of_the_noise_and_strong_edges_all() -> None:
    clean = torch.full((2, 3, 64, 64), 0.4)
    clean[:, :, :, 32:] = 0.9
    left = at_edges(clean, torch.tensor([0.2, 0.7]))
    assert left.shape == (2, 1, 64, 64)
    assert left[:, 0, 32, 32].tolist() == [1, 1]
    torch.testing.assert_close(left[:, 0, :, :20], torch.tensor([0.2, 0.7])[:, None, None].expand(2, 64, 20))
    # Borders of the image are no edges.
    torch.testing.assert_close(left[:, 0, :, -20:], left[:, 0, :, :20])


def test_noise_of_a_batch_is_that_of_each_image() -> None:
    clean = torch.stack([photo(), photo().flip(2)])
    # JPEG's rounding can turn a last bit into a step of quantization.
    for noise, tolerance in ((Camera(jpeg=0.0), 1e-6), (Camera(jpeg=1.0), 1e-3)):
        batch = noise.add_to_batch(clean, [2.0, 6.0], [stream(1), stream(2)])
        for row, stops in enumerate((2.0, 6.0)):
            difference = batch[row] - noise.add(clean[row], stops, stream(row + 1))
            assert difference.abs().mean() < tolerance


def test_noise_is_repeatable_of_any_size_and_within_range() -> None:
    for size in ((3, 33, 47), (3, 64, 64)):
        clean = torch.rand(size, generator=stream())
        first, again, other = (Camera().add(clean, 5.0, stream(seed)) for seed in (1, 1, 2))
        assert first.shape == clean.shape
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert 0 <= first.min() <= first.max() <= 1


def test_smoothing_keeps_a_constant_and_smooths_colour_apart_from_brightness() -> None:
    def filtered(noise: Tensor, luma: float, chroma: float, kept: float = 1.0) -> Tensor:
        return reduced(noise[None], *torch.tensor([[luma], [chroma], [kept]]))[0]

    noise = torch.randn(3, 200, 200, generator=stream())
    constant = torch.full((3, 20, 20), 0.5)
    torch.testing.assert_close(filtered(constant, 1.0, 2.0), constant, rtol=0, atol=1e-5)
    torch.testing.assert_close(filtered(noise, 0.0, 0.0), noise, rtol=0, atol=1e-4)
    weights = torch.tensor((0.299, 0.587, 0.114))[:, None, None]
    brightness = [(weights * one).sum(dim=0).std() for one in (noise, filtered(noise, 0.0, 2.0))]
    assert brightness[1] == pytest.approx(brightness[0].item(), rel=0.02)
    grey = filtered(noise, 0.0, 0.0, kept=0.0)
    torch.testing.assert_close(grey, (weights * noise).sum(dim=0).expand(3, -1, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("quality", [30, 36, 75, 95])
@pytest.mark.parametrize("subsampled", [False, True])
def test_jpeg_is_that_of_pillow(quality: int, subsampled: bool) -> None:
    pixels = (photo() * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2 if subsampled else 0)
    theirs = np.array(Image.open(file)).astype(int)
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    [ours] = compressed(image[None], torch.tensor([float(quality)]), torch.tensor([subsampled]))
    difference = np.abs((ours * 255).round().int().permute(1, 2, 0).numpy() - theirs)
    # libjpeg computes in integers, so that a coefficient may fall to the other side of a step.
    assert difference.mean() < 0.8
    assert np.quantile(difference, 0.99) <= 6
    assert difference.mean() < 0.5 * np.abs(pixels.astype(int) - theirs).mean() + 0.3


@pytest.mark.parametrize("quality", [25, 50])
def test_jpeg_of_saturated_colours_is_that_of_pillow(quality: int) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[::3, :, 0], pixels[:, ::5, 2], pixels[20:30, 20:30] = 255, 255, 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    theirs = np.array(Image.open(file)).astype(int)
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    [ours] = compressed(image[None], torch.tensor([float(quality)]), torch.tensor([False]))
    difference = np.abs((ours * 255).round().int().permute(1, 2, 0).numpy() - theirs)
    # Without libjpeg's clipping of each plane, they would be 0.7 to 1, and 9 to 11.
    assert difference.mean() < 0.2
    assert np.quantile(difference, 0.99) <= 3


def test_stops_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="high <= 10"):
        Camera(high=11)
