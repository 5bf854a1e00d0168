import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.util import random_noise

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.crops import validation_crops
from raygan.data.photos import Photos
from raygan.data.samples import dead_leaves
from raygan.presets import PAPER_V1
from raygan.train.validation import noisy_validation_crops, validate

CPU = torch.device("cpu")
PHOTOS = Photos([str(index) for index in range(4)], [dead_leaves(96, 0, index) for index in range(4)])


def network(config: Config) -> torch.nn.Module:
    torch.manual_seed(3)
    return config.generator.build()


def test_scores_are_those_of_scikit_image(tiny_config: Config) -> None:
    generator = network(tiny_config)
    crops = validation_crops(PHOTOS, tiny_config.data)
    sums = validate(generator, crops, tiny_config, CPU, range(len(crops)))
    assert not generator.training
    for noise in tiny_config.noises:
        clean, noisy = noisy_validation_crops(crops, tiny_config, noise, "mean", range(len(crops)))
        with torch.no_grad():
            denoised = generator(noisy)
        pairs = [(c.double().numpy(), d.double().numpy()) for c, d in zip(clean, denoised, strict=True)]
        expected = sum(peak_signal_noise_ratio(c, d, data_range=1) for c, d in pairs)
        assert sums[f"psnr_{noise.key}_mean"].item() == pytest.approx(expected, abs=1e-6)
        expected = sum(structural_similarity(c, d, data_range=1, channel_axis=0) for c, d in pairs)
        assert sums[f"ssim_{noise.key}_mean"].item() == pytest.approx(expected, abs=1e-6)


def test_one_crop_without_noise_does_not_make_the_scores_infinite(tiny_config: Config) -> None:
    black = np.zeros((96, 96, 3), np.uint8)
    photos = Photos(["black", *PHOTOS.names], [black, *PHOTOS.pixels])
    crops = validation_crops(photos, tiny_config.data)
    sums = validate(network(tiny_config), crops, tiny_config, CPU, range(len(crops)))
    assert all(math.isfinite(one) for one in sums.values())
    assert sums["psnr_noisy"] / len(crops) < 60


def test_noise_has_the_three_levels_of_each_model() -> None:
    """The noisy input scores as scikit-image's noise of the paper's low, mean and high intensity does."""
    config = with_values(PAPER_V1, {"data/crop_size": 64, "data/val_crops": 12})
    crops = validation_crops(PHOTOS, config.data)
    sums = validate(torch.nn.Identity(), crops, config, CPU, range(len(crops)))
    random = np.random.default_rng(0)
    clean = crops.photos.numpy() / 255
    for key, mode, argument, intensities in (
        ("gaussian", "gaussian", "var", (0.005, 0.0425, 0.08)),
        ("salt_and_pepper", "s&p", "amount", (0.02, 0.045, 0.07)),
        ("speckle", "speckle", "var", (0.005, 0.1025, 0.2)),
    ):
        for level, intensity in zip(("low", "mean", "high"), intensities, strict=True):
            noisy = random_noise(clean, mode, rng=random, **{argument: intensity})
            expected = np.mean([peak_signal_noise_ratio(c, n, data_range=1) for c, n in zip(clean, noisy, strict=True)])
            assert sums[f"psnr_{key}_{level}"].item() / len(crops) == pytest.approx(expected, abs=0.3)


def test_dividing_crops_among_workers_changes_nothing(tiny_config: Config) -> None:
    generator = network(tiny_config)
    crops = validation_crops(PHOTOS, tiny_config.data)
    whole = validate(generator, crops, tiny_config, CPU, range(3))
    parts = [validate(generator, crops, tiny_config, CPU, range(rank, 3, 2)) for rank in range(2)]
    assert len(whole) == 21
    for name, total in whole.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(total.item(), rel=1e-6)


def test_pairs_are_scored_as_they_are_and_decide(tiny_config: Config) -> None:
    generator = network(tiny_config)
    noisy = Photos(PHOTOS.names, [pixels // 2 + 60 for pixels in PHOTOS.pixels])
    both = [np.concatenate(one, axis=2) for one in zip(PHOTOS.pixels, noisy.pixels, strict=True)]
    crops = validation_crops(PHOTOS, tiny_config.data, Photos(PHOTOS.names, both))
    sums = validate(generator, crops, tiny_config, CPU, range(len(crops)))
    assert crops.pairs is not None
    expected = dict.fromkeys(("psnr", "ssim", "psnr_noisy"), 0.0)
    for pair in crops.pairs.numpy():
        clean, shot = pair[:3] / 255, pair[3:] / 255
        with torch.no_grad():
            denoised = generator(torch.from_numpy(shot[None]).float())[0].double().numpy().clip(0, 1)
        expected["psnr"] += peak_signal_noise_ratio(clean, denoised, data_range=1)
        expected["ssim"] += structural_similarity(clean, denoised, data_range=1, channel_axis=0)
        expected["psnr_noisy"] += peak_signal_noise_ratio(clean, shot, data_range=1)
    assert {name: sums[name].item() for name in expected} == pytest.approx(expected, rel=1e-5)
    assert sums["psnr_pairs"] == sums["psnr"]
    without = validate(generator, validation_crops(PHOTOS, tiny_config.data), tiny_config, CPU, range(len(crops)))
    assert sums["psnr_gaussian_mean"] == without["psnr_gaussian_mean"]
    # What decides nothing is scored at one level.
    assert {name for name in sums if "gaussian" in name} == {"psnr_gaussian_mean", "ssim_gaussian_mean"}
    parts = [validate(generator, crops, tiny_config, CPU, range(rank, 3, 2)) for rank in range(2)]
    assert sum(part["psnr"].item() for part in parts) == pytest.approx(sums["psnr"].item(), rel=1e-6)


def test_noise_depends_on_the_data_seed_alone(tiny_config: Config) -> None:
    crops = validation_crops(PHOTOS, tiny_config.data)

    def noisy(**values: object) -> torch.Tensor:
        config = with_values(tiny_config, {path.replace("__", "/"): value for path, value in values.items()})
        return noisy_validation_crops(crops, config, config.noises[0], "high", range(3))[1]

    assert torch.equal(noisy(), noisy(training__seed=5, training__batch_size=8))
    assert not torch.equal(noisy(), noisy(data__seed=5))
