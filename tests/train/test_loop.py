import functools
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from raygan.config.kinds import LEVELS, Noise
from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.crops import CachedCrops, validation_crops
from raygan.data.photos import Photos
from raygan.data.samples import dead_leaves
from raygan.models.cost import operations_per_pixel
from raygan.noise import Gaussian, SaltAndPepper
from raygan.presets import PAPER_V0
from raygan.seeds import derived_seed
from raygan.storage import Folder
from raygan.train.checkpoint import CheckpointError
from raygan.train.denoisers import DenoiserError, load_generator
from raygan.train.loop import DivergedError, Epoch, RunRecord, train
from raygan.train.validation import noisy_validation_crops, validate

CPU = torch.device("cpu")
ALL_OPTIONS: dict[str, object] = {
    "generator": "ResidualUNet",
    "generator/depth": 2,
    "generator/residual": True,
    "data/augmentation": "flips_and_rotations",
    "training/pixel_epochs": 2,
    "training/lr_schedule": "cosine",
    "training/warm_up_steps": 2,
    "training/average_decay": 0.5,
    "training/max_gradient_norm": 1.0,
    "training/precise_bn_batches": 2,
}


@functools.cache
def leaves(side: int = 96, count: int = 4) -> Photos:
    return Photos([str(index) for index in range(count)], [dead_leaves(side, 0, index) for index in range(count)])


class Run:
    """A run in a folder."""

    def __init__(self, config: Config, folder: Path, photos: Photos | None = None) -> None:
        self.config, self.folder = config, Folder(folder)
        self.photos = photos or leaves()
        self.epochs: list[Epoch] = []

    def train(self, epochs: int | None = None) -> "Run":
        """Start or resume it, and end after so many epochs, restored ones included, as a kill would."""
        crops = CachedCrops(self.photos, self.config.data, self.config.training)
        val_crops = validation_crops(self.photos, self.config.data)
        training = train(self.config, crops, val_crops, {}, record=RunRecord(self.folder, "run"))
        self.epochs = list(itertools.islice(training, epochs))
        return self

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [epoch.metrics for epoch in self.epochs]

    def training(self, epoch: int) -> dict[str, Any]:
        """The states in a checkpoint."""
        saved = io.BytesIO(self.folder.read(f"checkpoints/run/epoch-{epoch:04d}/training.pt"))
        states: dict[str, Any] = torch.load(saved, weights_only=True)
        return states

    def outcome(self, epoch: int) -> dict[str, object]:
        """All that training would continue from, and the denoiser, to the last bit; durations left out."""
        values: dict[str, object] = {}

        def flatten(path: str, value: object) -> None:
            if isinstance(value, dict | list):
                for name, part in value.items() if isinstance(value, dict) else enumerate(value):
                    flatten(f"{path}/{name}", part)
            elif not path.endswith("seconds"):
                values[path] = value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value)

        flatten("", self.training(epoch))
        weights = f"checkpoints/run/epoch-{epoch:04d}/denoiser/generator.safetensors"
        return values | {"denoiser": self.folder.read(weights)}


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished")


@functools.cache
def _finished(config: Config, folder: Path) -> Run:
    return Run(config, folder).train()


@pytest.fixture
def finished(tiny_config: Config, finished_folder: Path) -> Run:
    """A run of three epochs, trained once for all tests; they must not change it."""
    return _finished(tiny_config, finished_folder)


def test_every_epoch_has_all_metrics(finished: Run) -> None:
    assert [(epoch.metrics["epoch"], epoch.restored) for epoch in finished.epochs] == [(n, False) for n in (1, 2, 3)]
    tasks = [f"{noise.key}_{level}" for noise in finished.config.noises for level in LEVELS]
    assert len(tasks) == 9
    expected = {
        *("epoch", "val_psnr", "val_ssim", "val_psnr_noisy", "seconds", "train_seconds", "val_seconds"),
        *("best_epoch", "best_val_psnr", "best_val_ssim", "operations_per_pixel", "best_operations_per_pixel"),
        *("content_loss", "pixel_loss", "adversarial_loss", "generator_loss"),
        *("discriminator_loss", "discriminator_loss_clean", "discriminator_loss_denoised"),
        *("discriminator_accuracy_clean", "discriminator_accuracy_denoised"),
        *("generator_learning_rate", "discriminator_learning_rate"),
        *(f"val_{measure}_{task}" for measure in ("psnr", "ssim") for task in tasks),
    }
    for metrics in finished.metrics:
        assert set(metrics) == expected
        for measure in ("psnr", "ssim"):
            per_task = [metrics[f"val_{measure}_{task}"] for task in tasks]
            assert metrics[f"val_{measure}"] == pytest.approx(sum(per_task) / 9)
        losses = 0.1 * metrics["content_loss"] + 0.01 * metrics["adversarial_loss"]
        assert metrics["generator_loss"] == pytest.approx(losses, rel=1e-5)
        assert metrics["operations_per_pixel"] == operations_per_pixel(finished.config.generator)


@pytest.mark.parametrize("best_by", [None, "val_ssim"])
def test_best_epoch_is_by_the_configured_metric(tiny_config: Config, tmp_path: Path, best_by: str | None) -> None:
    found = Run(with_values(tiny_config, {"training/best_by": best_by, "training/epochs": 6}), tmp_path).train().metrics
    for count, metrics in enumerate(found, start=1):
        best = max(found[:count], key=lambda one: float(one[best_by or "val_psnr"]))
        assert metrics["best_epoch"] == best["epoch"]
        for measure in ("val_psnr", "val_ssim", "operations_per_pixel"):
            assert metrics[f"best_{measure}"] == best[measure]


def test_score_of_the_noisy_input_is_what_doing_nothing_would_get(finished: Run) -> None:
    config = finished.config
    crops = validation_crops(finished.photos, config.data)
    scores = []
    for noise in config.noises:
        for level in LEVELS:
            pairs = zip(*noisy_validation_crops(crops, config, noise, level, range(len(crops))), strict=True)
            scores += [peak_signal_noise_ratio(clean.numpy(), noisy.numpy(), data_range=1) for clean, noisy in pairs]
    assert [one["val_psnr_noisy"] for one in finished.metrics] == pytest.approx([np.mean(scores)] * 3, rel=1e-6)


def test_training_learns(tiny_config: Config, tmp_path: Path) -> None:
    longer = with_values(tiny_config, {"training/steps_per_epoch": 40, "generator/base_width": 8, "training/epochs": 4})
    first, *_, last = Run(longer, tmp_path).train().metrics
    assert last["content_loss"] < 0.4 * first["content_loss"]
    assert last["val_psnr"] > first["val_psnr"] + 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precise_statistics_are_means_over_the_last_batches_with_the_final_weights(
    tiny_config: Config, tmp_path: Path, precision: str
) -> None:
    """The references: moving averages of momentum 1 and 0.5, of weights that stay as they were at the end."""
    steps = {"training/steps_per_epoch": 2, "training/epochs": 1, "training/precision": precision}
    found, of_last, moving = (
        Run(with_values(tiny_config, steps | {"training/precise_bn_batches": count}), tmp_path / folder).train()
        for count, folder in ((2, "run"), (1, "of-last"), (0, "moving"))
    )

    def with_momentum(momentum: float) -> dict[str, torch.Tensor]:
        # A training starts from a generator that is its own, momentum included.
        start = Folder(tmp_path / f"start-{momentum}")
        run = with_values(found.config, {"generator/batch_norm_momentum": momentum})
        start.write("config.json", json.dumps(run.to_json()))
        start.write(
            "generator.safetensors", found.folder.read("checkpoints/run/epoch-0001/denoiser/generator.safetensors")
        )
        still = {"training/start_from": start.location, "optimizers/generator/learning_rate": 1e-12}
        config = with_values(run, still | {"training/precise_bn_batches": 0})
        return statistics_of(Run(config, tmp_path / str(momentum)).train())

    precise, last, half = statistics_of(found), with_momentum(1.0), with_momentum(0.5)
    assert precise
    for name, statistic in precise.items():
        first = 4 * half[name] - statistic - 2 * last[name]
        torch.testing.assert_close(statistic, (first + last[name]) / 2, rtol=1e-3, atol=1e-5)
        # Training itself is the same with each number of batches.
        torch.testing.assert_close(statistics_of(of_last)[name], last[name], rtol=1e-3, atol=1e-5)
    assert any((statistics_of(moving)[name] - precise[name]).abs().max() > 0.1 for name in precise)


def statistics_of(run: Run) -> dict[str, torch.Tensor]:
    """The statistics of the generator's batch normalization after the first epoch."""
    return {name: value for name, value in run.training(1)["generator"].items() if "running" in name}


def test_same_configuration_same_result_to_the_last_bit(finished: Run, tmp_path: Path) -> None:
    again = Run(finished.config, tmp_path / "again").train()
    other = Run(with_values(finished.config, {"training/seed": 1}), tmp_path / "other").train()
    assert finished.outcome(3) == again.outcome(3)
    assert finished.outcome(3) != other.outcome(3)


@pytest.mark.parametrize("values", [{}, ALL_OPTIONS], ids=["paper", "all options"])
def test_resuming_continues_to_the_last_bit(tiny_config: Config, tmp_path: Path, values: dict[str, object]) -> None:
    config = with_values(tiny_config, values)
    whole, resumed = Run(config, tmp_path / "whole").train(), Run(config, tmp_path / "resumed")
    for start in (1, 2, 3):
        # Each start yields the epochs before, as they were, and trains one more.
        before = resumed.metrics
        resumed.train(start)
        assert [epoch.restored for epoch in resumed.epochs] == [True] * (start - 1) + [False]
        assert repr(resumed.metrics[:-1]) == repr(before)
    assert whole.outcome(3) == resumed.outcome(3)


def test_only_the_two_newest_checkpoints_are_kept_and_a_damaged_one_is_replaced(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = with_values(tiny_config, {"training/epochs": 4})
    whole, damaged = Run(config, tmp_path / "whole").train(), Run(config, tmp_path / "damaged").train(3)
    checkpoints = damaged.folder.child("checkpoints/run")
    assert {name.partition("/")[0] for name in checkpoints.files()} == {"epoch-0002", "epoch-0003"}
    checkpoints.write("epoch-0003/training.pt", checkpoints.read("epoch-0003/training.pt")[:-1])
    assert [epoch.restored for epoch in damaged.train().epochs] == [True, True, False, False]
    assert "epoch-0003, trying the one before: training.pt does not match" in caplog.text
    assert damaged.outcome(4) == whole.outcome(4)


def test_finished_run_trains_no_more(finished: Run) -> None:
    before = finished.outcome(3)
    again = Run(finished.config, Path(finished.folder.location)).train()
    assert again.epochs == [Epoch(metrics, restored=True) for metrics in finished.metrics]
    assert finished.outcome(3) == before


def test_checkpoint_of_another_configuration_is_refused(finished: Run) -> None:
    changed = with_values(finished.config, {"loss/adversarial_weight": 0.5})
    with pytest.raises(CheckpointError, match="another configuration, which differs in loss/adversarial_weight; start"):
        Run(changed, Path(finished.folder.location)).train()


def test_discriminator_joins_after_the_pixel_epochs(tiny_config: Config, tmp_path: Path) -> None:
    run = Run(with_values(tiny_config, ALL_OPTIONS), tmp_path)
    discriminators = [run.train(epoch).training(epoch)["discriminator"] for epoch in (1, 2, 3)]
    joined = [math.isfinite(metrics["discriminator_loss"]) for metrics in run.metrics]
    assert joined == [False, False, True]
    assert [math.isfinite(metrics["content_loss"]) for metrics in run.metrics] == joined
    assert all(metrics["generator_loss"] == metrics["pixel_loss"] for metrics in run.metrics[:2])
    for name, weights in discriminators[0].items():
        assert torch.equal(weights, discriminators[1][name])
    assert any(not torch.equal(weights, discriminators[2][name]) for name, weights in discriminators[0].items())
    steps = pd.read_csv(tmp_path / "steps" / "run.csv")
    assert steps["discriminator_loss"].isna().tolist() == (steps["epoch"] <= 2).tolist()


def test_generator_may_train_alone_in_all_epochs(tiny_config: Config, tmp_path: Path) -> None:
    found = Run(with_values(tiny_config, ALL_OPTIONS | {"training/pixel_epochs": None}), tmp_path).train().metrics
    assert all(math.isnan(metrics["discriminator_loss"]) for metrics in found)
    assert found[-1]["pixel_loss"] < found[0]["pixel_loss"]


def test_training_starts_from_a_denoiser(tiny_config: Config, tmp_path: Path) -> None:
    """With steps too small to change anything, it scores what that denoiser does."""
    values: dict[str, object] = {"generator/normalization": "none", "training/average_decay": 0.5}
    trained = Run(with_values(tiny_config, values), tmp_path / "first").train()
    denoiser = trained.folder.child("checkpoints/run/epoch-0003/denoiser").location
    still: dict[str, object] = {"optimizers/generator/learning_rate": 1e-12, "training/start_from": denoiser}
    tuned = with_values(tiny_config, values | still)
    first = Run(tuned, tmp_path / "second").train(1).metrics[0]
    assert first["val_psnr"] == pytest.approx(trained.metrics[-1]["best_val_psnr"], abs=1e-4)
    other = with_values(tuned, {"generator/base_width": 12})
    with pytest.raises(DenoiserError, match=r"training/start_from.*base_width=4.*base_width=12"):
        Run(other, tmp_path / "other").train()


def test_moving_average_is_what_is_kept(tiny_config: Config, tmp_path: Path) -> None:
    """Of one step per epoch: the average of the weights after each, by its formula."""
    values = {"training/steps_per_epoch": 1, "training/average_decay": 0.75}
    run = Run(with_values(tiny_config, values), tmp_path)
    saved = [run.train(epoch).training(epoch) for epoch in (1, 2, 3)]
    for name, third in saved[2]["generator"].items():
        average = saved[2]["average"][f"module.{name}"]
        if third.is_floating_point():
            first, second = (one["generator"][name] for one in saved[:2])
            torch.testing.assert_close(average, 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third)
    best = int(run.metrics[-1]["best_epoch"])
    generator, _ = load_generator(run.folder.child("checkpoints/run/epoch-0003/denoiser"))
    for name, weights in generator.state_dict().items():
        assert torch.equal(weights, saved[best - 1]["average"][f"module.{name}"])


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        # By hand: three epochs of three steps; the metrics have the last step's.
        ("cosine", [0.5 * (1 + math.cos(math.pi * step / 9)) for step in (2, 5, 8)]),
        ("wsd", [1, 1, 1 - math.sqrt((8 / 9 - 0.8) / 0.2)]),
    ],
)
def test_learning_rates_warm_up_and_follow_the_schedule(
    tiny_config: Config, tmp_path: Path, schedule: str, shares: list[float]
) -> None:
    values: dict[str, object] = {"training/lr_schedule": schedule, "training/warm_up_steps": 4}
    config = with_values(tiny_config, values)
    warmed_up = [min(1, (step + 1) / 5) for step in (2, 5, 8)]
    metrics = Run(config, tmp_path).train().metrics
    for network in ("generator", "discriminator"):
        rate = getattr(config.optimizers, network).learning_rate
        found = [one[f"{network}_learning_rate"] for one in metrics]
        assert found == pytest.approx([warm * share * rate for warm, share in zip(warmed_up, shares, strict=True)])


def test_denoiser_of_a_checkpoint_scores_as_reported(finished: Run) -> None:
    generator, config = load_generator(finished.folder.child("checkpoints/run/epoch-0003/denoiser"))
    assert config == finished.config
    crops = validation_crops(finished.photos, config.data)
    sums = validate(generator, crops, config, CPU, range(len(crops)))
    best = max(finished.metrics, key=lambda metrics: float(metrics["val_psnr"]))
    assert len(sums) == 21
    for name, total in sums.items():
        assert total.item() / len(crops) == pytest.approx(best[f"val_{name}"], abs=1e-9)


@pytest.mark.parametrize(
    ("values", "loss"),
    [
        ({"optimizers/generator/learning_rate": 1e30}, "content_loss is nan"),
        ({"optimizers/discriminator/learning_rate": 1e30}, "discriminator_loss_clean is"),
    ],
)
def test_loss_that_is_not_finite_ends_the_run_and_is_named(
    tiny_config: Config, tmp_path: Path, values: dict[str, object], loss: str
) -> None:
    with pytest.raises(DivergedError, match=rf"diverged in epoch \d, by step \d: .*{loss}"):
        Run(with_values(tiny_config, values), tmp_path).train()
    # The steps that led there are logged, the broken one included.
    steps = pd.read_csv(tmp_path / "steps" / "run.csv")
    assert not np.isfinite(steps[loss.split()[0]].iloc[-1])


def test_training_without_a_record_writes_nothing(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_values(finished.config, {"noises": [Gaussian()]})
    crops = CachedCrops(finished.photos, config.data, config.training)
    [epoch] = itertools.islice(train(config, crops, validation_crops(finished.photos, config.data), {}), 1)
    assert epoch.metrics["val_psnr"] == pytest.approx(
        np.mean([epoch.metrics[f"val_psnr_gaussian_{level}"] for level in LEVELS])
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.alone
def test_the_papers_full_size(tmp_path: Path) -> None:
    """Unscaled networks, batches of 8 crops of 256x256: the content loss falls within a few steps."""
    values = {
        "training/steps_per_epoch": 3,
        # In its first steps the discriminator would outweigh the content loss.
        "loss/adversarial_weight": 0.0,
        "training/epochs": 2,
        "data/val_crops": 2,
        "hardware/cpus_per_worker": 2,
    }
    run = Run(with_values(PAPER_V0, values), tmp_path, leaves(256, 8)).train()
    assert run.metrics[1]["content_loss"] < run.metrics[0]["content_loss"]
    generator, _ = load_generator(run.folder.child("checkpoints/run/epoch-0002/denoiser"))
    assert sum(weight.numel() for weight in generator.parameters()) == 29_247_491


def test_training_on_pairs_removes_their_noise(tiny_config: Config, tmp_path: Path) -> None:
    """Real noise that no model describes: a pattern that is the same everywhere."""
    photos = leaves(count=6)
    stripes = np.where(np.arange(96)[:, None, None] % 8 < 4, 30, 0)
    noisy = [(np.minimum(pixels, 220) + stripes).astype(np.uint8) for pixels in photos.pixels]
    both = [np.concatenate(one, axis=2) for one in zip(photos.pixels, noisy, strict=True)]
    pairs = Photos(photos.names, both)
    values = {
        "generator": "ResidualUNet",
        "generator/base_width": 8,
        "generator/residual": True,
        "training/steps_per_epoch": 40,
        "training/pixel_epochs": None,
        "data/pairs_share": 0.5,
    }
    config = with_values(tiny_config, values)
    crops = CachedCrops(photos, config.data, config.training, pairs=pairs)
    val_crops = validation_crops(photos, config.data, pairs)
    *_, last = train(config, crops, val_crops, {}, record=RunRecord(Folder(tmp_path), "run"))
    metrics = last.metrics
    assert metrics["val_psnr"] == metrics["val_psnr_pairs"] > metrics["val_psnr_noisy"] + 3
    # Half of each batch has the configured noises.
    assert metrics["val_psnr_gaussian_mean"] > 14
    # The loss on pairs is that of their own noise.
    alone = with_values(config, {"data/pairs_share": 1.0, "training/epochs": 1, "training/steps_per_epoch": 1})
    crops = CachedCrops(photos, alone.data, alone.training, pairs=pairs)
    [epoch] = train(alone, crops, val_crops, {})
    [batch] = crops.batches(1)
    torch.manual_seed(derived_seed("initial weights", alone.training.seed))
    generator = alone.generator.build().train()
    torch.manual_seed(derived_seed("layers", alone.training.seed, 1, 0))
    with torch.no_grad():
        difference = generator(batch[:, 3:] / 255) - batch[:, :3] / 255
    assert epoch.metrics["pixel_loss"] == pytest.approx(difference.abs().mean().item(), rel=1e-4)


def test_crops_that_stay_clean_get_no_noise(tiny_config: Config, tmp_path: Path) -> None:
    """Then the loss does not depend on the kind of noise; otherwise, it does."""

    def loss(noise: Noise, clean_share: float) -> float:
        values = {"noises": (noise,), "clean_share": clean_share, "training/epochs": 1, "training/steps_per_epoch": 1}
        name = f"{noise.key}-{clean_share}"
        return float(Run(with_values(tiny_config, values), tmp_path / name).train().metrics[0]["generator_loss"])

    assert loss(Gaussian(), 1.0) == loss(SaltAndPepper(), 1.0)
    assert loss(Gaussian(), 0.0) != loss(SaltAndPepper(), 0.0)
