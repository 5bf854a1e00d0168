import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from raygan.models.generator import build_generator
from raygan.noise.noise import LEVELS
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.util import random_noise

from raygan.config.run import NOISE_KINDS, Config
from raygan.config.section import with_values
from raygan.data.crops import CachedCrops, Photos, validation_crops
from raygan.data.samples import dead_leaves
from raygan.presets import PAPER_V0, PAPER_V1
from raygan.study.storage import Folder
from raygan.train.checkpoint import CheckpointError, DenoiserError, load_denoiser
from raygan.train.loop import DivergedError, RunLog, train
from raygan.train.validation import noisy_validation_crops, validate

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def photos() -> Photos:
    return Photos([str(index) for index in range(4)], [dead_leaves(96, 0, index) for index in range(4)])


class Run:
    """Trains, keeping every epoch's metrics and checkpoint."""

    def __init__(self, photos: Photos, config: Config, folder: Path) -> None:
        self.photos, self.config, self.folder = photos, config, folder
        self.epochs: list[dict[str, float]] = []

    def keep(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        assert checkpoint is not None
        self.epochs.append(metrics)
        shutil.copytree(checkpoint, self.checkpoint(int(metrics["epoch"])))

    def checkpoint(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch}"

    def train(self, resume_from: Path | None = None) -> "Run":
        crops = CachedCrops(self.photos, self.config.data, self.config.training)
        val_crops = validation_crops(self.photos, self.config.data)
        log = RunLog("run", str(self.folder), {})
        train(self.config, crops, val_crops, None, self.keep, resume_from=resume_from, run_log=log)
        return self


def outcome(folder: Path) -> dict[str, object]:
    """All that training would go on from, and the denoiser, to the last bit."""
    values: dict[str, object] = {"denoiser": (folder / "denoiser" / "generator.safetensors").read_bytes()}

    def flatten(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                flatten(f"{prefix}/{name}", part)
        else:
            values[prefix] = value.numpy().tobytes() if isinstance(value, torch.Tensor) else value

    flatten("", torch.load(folder / "training.pt", weights_only=True))
    return values


def test_training_reports_every_epoch(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    epochs = Run(photos, tiny_config, tmp_path).train().epochs
    assert [metrics["epoch"] for metrics in epochs] == [1, 2, 3]
    expected = {
        *(
            "epoch",
            "val_psnr",
            "val_ssim",
            "val_psnr_noisy",
            "val_milliseconds",
            "seconds",
            "train_seconds",
            "val_seconds",
        ),
        *("best_epoch", "best_val_psnr", "best_val_ssim", "best_val_milliseconds"),
        *("content_loss", "pixel_loss", "adversarial_loss", "generator_loss"),
        *("discriminator_loss", "discriminator_loss_clean", "discriminator_loss_denoised"),
        *("discriminator_accuracy_clean", "discriminator_accuracy_denoised"),
        *("generator_learning_rate", "discriminator_learning_rate"),
        *(
            f"val_{measure}_{kind}_{level}"
            for measure in ("psnr", "ssim")
            for kind in ("gaussian", "salt_and_pepper", "speckle")
            for level in ("low", "mean", "high")
        ),
    }
    for metrics in epochs:
        assert set(metrics) == expected
        per_level = [metrics[f"val_psnr_{kind}_{level}"] for kind in NOISE_KINDS for level in ("low", "mean", "high")]
        assert metrics["val_psnr"] == pytest.approx(sum(per_level) / 9)
        assert metrics["generator_loss"] == pytest.approx(
            0.1 * metrics["content_loss"] + 0.01 * metrics["adversarial_loss"], rel=1e-5
        )
    best = max(epochs, key=lambda metrics: metrics["val_psnr"])
    assert epochs[-1]["best_epoch"] == best["epoch"]
    for measure in ("val_psnr", "val_ssim", "val_milliseconds"):
        assert epochs[-1][f"best_{measure}"] == best[measure]


def test_the_best_epoch_may_be_judged_by_ssim(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    config = with_values(tiny_config, {"training/best_by": "val_ssim", "training/epochs": 6})
    epochs = Run(photos, config, tmp_path).train().epochs
    best = max(epochs, key=lambda metrics: metrics["val_ssim"])
    assert (epochs[-1]["best_epoch"], epochs[-1]["best_val_ssim"]) == (best["epoch"], best["val_ssim"])


def test_the_noisy_inputs_score_is_what_doing_nothing_would_get(
    photos: Photos, tiny_config: Config, tmp_path: Path
) -> None:
    epochs = Run(photos, tiny_config, tmp_path).train().epochs
    crops = validation_crops(photos, tiny_config.data)
    scores = []
    for kind in NOISE_KINDS:
        for level in LEVELS:
            pairs = zip(*noisy_validation_crops(crops, tiny_config, kind, level, range(len(crops))), strict=True)
            scores += [peak_signal_noise_ratio(clean.numpy(), noisy.numpy(), data_range=1) for clean, noisy in pairs]
    assert [metrics["val_psnr_noisy"] for metrics in epochs] == pytest.approx([np.mean(scores)] * len(epochs), rel=1e-6)


def test_training_learns(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    longer = with_values(tiny_config, {"training/steps_per_epoch": 40, "generator/base_width": 8, "training/epochs": 4})
    epochs = Run(photos, longer, tmp_path).train().epochs
    assert epochs[-1]["content_loss"] < 0.4 * epochs[0]["content_loss"]
    assert epochs[-1]["val_psnr"] > epochs[0]["val_psnr"] + 2


def test_same_configuration_same_result_to_the_last_bit(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    first = Run(photos, tiny_config, tmp_path / "first").train()
    second = Run(photos, tiny_config, tmp_path / "second").train()
    other = Run(photos, with_values(tiny_config, {"training/seed": 1}), tmp_path / "other").train()
    assert outcome(first.checkpoint(3)) == outcome(second.checkpoint(3))
    assert outcome(first.checkpoint(3)) != outcome(other.checkpoint(3))


TWO_PHASES: dict[str, object] = {
    "generator/architecture": "residual_unet",
    "generator/depth": 2,
    "generator/residual": True,
    "data/augmentation": "flips_and_rotations",
    "training/pixel_epochs": 2,
    "training/lr_schedule": "cosine",
    "training/warm_up_steps": 2,
    "training/average_decay": 0.5,
    "training/max_gradient_norm": 1.0,
}


@pytest.mark.parametrize("values", [{}, TWO_PHASES])
@pytest.mark.parametrize("epoch", [1, 2])
def test_resuming_continues_to_the_last_bit(
    photos: Photos, tiny_config: Config, tmp_path: Path, epoch: int, values: dict[str, object]
) -> None:
    config = with_values(tiny_config, values)
    whole = Run(photos, config, tmp_path / "whole").train()
    resumed = Run(photos, config, tmp_path / "resumed").train(whole.checkpoint(epoch))
    assert [metrics["epoch"] for metrics in resumed.epochs] == list(range(epoch + 1, 4))
    assert outcome(whole.checkpoint(3)) == outcome(resumed.checkpoint(3))
    for name in ("val_psnr", "best_val_psnr", "best_epoch", "discriminator_loss"):
        assert resumed.epochs[-1][name] == whole.epochs[-1][name]


def test_the_discriminator_joins_after_the_pixel_epochs(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    run = Run(photos, with_values(tiny_config, TWO_PHASES), tmp_path).train()
    joined = [math.isfinite(metrics["discriminator_loss"]) for metrics in run.epochs]
    assert joined == [False, False, True]
    assert all(metrics["generator_loss"] == metrics["pixel_loss"] for metrics in run.epochs[:2])
    assert all(
        math.isfinite(metrics["content_loss"]) == after for metrics, after in zip(run.epochs, joined, strict=True)
    )
    discriminators = [
        torch.load(run.checkpoint(epoch) / "training.pt", weights_only=True)["discriminator"] for epoch in (1, 2, 3)
    ]
    for name, weights in discriminators[0].items():
        assert torch.equal(weights, discriminators[1][name])
    assert any(not torch.equal(weights, discriminators[2][name]) for name, weights in discriminators[0].items())
    steps = pd.read_csv(tmp_path / "steps" / "run.csv")
    assert steps["discriminator_loss"].isna().tolist() == (steps["epoch"] <= 2).tolist()


def test_the_generator_may_train_alone_in_all_epochs(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    run = Run(photos, with_values(tiny_config, TWO_PHASES | {"training/pixel_epochs": None}), tmp_path).train()
    assert all(math.isnan(metrics["discriminator_loss"]) for metrics in run.epochs)
    assert run.epochs[-1]["pixel_loss"] < run.epochs[0]["pixel_loss"]


def test_training_starts_from_a_denoiser(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    """With steps too small to change anything, it scores what that denoiser does."""
    values: dict[str, object] = {"generator/normalization": "none", "training/average_decay": 0.5}
    trained = Run(photos, with_values(tiny_config, values), tmp_path / "first").train()
    denoiser = str(trained.checkpoint(3) / "denoiser")
    still: dict[str, object] = {"optimizers/generator/learning_rate": 1e-12, "training/start_from": denoiser}
    goes_on = with_values(tiny_config, values | still)
    first = Run(photos, goes_on, tmp_path / "second").train().epochs[0]
    assert first["val_psnr"] == pytest.approx(trained.epochs[-1]["best_val_psnr"], abs=1e-4)
    other = with_values(goes_on, {"generator/base_width": 12})
    with pytest.raises(DenoiserError, match="whose generator is another: it differs in generator/base_width"):
        Run(photos, other, tmp_path / "other").train()


def test_the_moving_average_is_what_is_kept(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    """Of one step an epoch: the average of the weights after each, by its formula."""
    values = {"training/steps_per_epoch": 1, "training/average_decay": 0.75, "training/best_by": "val_psnr"}
    run = Run(photos, with_values(tiny_config, values), tmp_path).train()
    saved = [torch.load(run.checkpoint(epoch) / "training.pt", weights_only=True) for epoch in (1, 2, 3)]
    for name, third in saved[2]["generator"].items():
        average = saved[2]["average"][f"module.{name}"]
        if third.is_floating_point():
            first, second = (one["generator"][name] for one in saved[:2])
            torch.testing.assert_close(average, 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third)
    best = int(run.epochs[-1]["best_epoch"])
    generator, _ = load_denoiser(Folder(run.checkpoint(3) / "denoiser"))
    for name, weights in generator.state_dict().items():
        assert torch.equal(weights, saved[best - 1]["average"][f"module.{name}"])


def test_learning_rates_warm_up_and_follow_the_cosine(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    values: dict[str, object] = {"training/lr_schedule": "cosine", "training/warm_up_steps": 4}
    config = with_values(tiny_config, values)
    run = Run(photos, config, tmp_path).train()
    a_epoch = CachedCrops(photos, config.data, config.training).steps
    for number, metrics in enumerate(run.epochs, start=1):
        step = number * a_epoch - 1
        share = min(1, (step + 1) / 5) * 0.5 * (1 + math.cos(math.pi * step / (3 * a_epoch)))
        for network in ("generator", "discriminator"):
            rate = getattr(config.optimizers, network).learning_rate
            assert metrics[f"{network}_learning_rate"] == pytest.approx(share * rate)


def test_a_finished_run_resumes_to_nothing(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    whole = Run(photos, tiny_config, tmp_path / "whole").train()
    assert Run(photos, tiny_config, tmp_path / "again").train(whole.checkpoint(3)).epochs == []


def test_a_checkpoint_of_another_configuration_is_refused(photos: Photos, tiny_config: Config, tmp_path: Path) -> None:
    whole = Run(photos, tiny_config, tmp_path / "whole").train()
    changed = with_values(tiny_config, {"loss/adversarial_weight": 0.5})
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        Run(photos, changed, tmp_path / "changed").train(whole.checkpoint(1))


def test_checkpoints_hold_a_denoiser_that_scores_as_reported(
    photos: Photos, tiny_config: Config, tmp_path: Path
) -> None:
    run = Run(photos, tiny_config, tmp_path).train()
    generator, config = load_denoiser(Folder(run.checkpoint(3) / "denoiser"))
    assert config == tiny_config
    crops = validation_crops(photos, config.data)
    sums = validate(generator, crops, config, CPU, range(len(crops)))
    saved = json.loads((run.checkpoint(3) / "denoiser" / "metrics.json").read_text())
    best = max(run.epochs, key=lambda metrics: metrics["val_psnr"])
    assert saved == {name: value for name, value in best.items() if not name.startswith("best_")}
    for name, total in sums.items():
        if name != "milliseconds":
            assert total.item() / len(crops) == pytest.approx(saved[f"val_{name}"], abs=1e-9)


@pytest.mark.parametrize(
    ("values", "loss"),
    [
        ({"optimizers/generator/learning_rate": 1e30}, "content_loss is nan"),
        ({"optimizers/discriminator/learning_rate": 1e30}, "discriminator_loss_clean is"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(
    photos: Photos, tiny_config: Config, tmp_path: Path, values: dict[str, object], loss: str
) -> None:
    with pytest.raises(DivergedError, match=rf"diverged in epoch \d, by step \d: .*{loss}"):
        Run(photos, with_values(tiny_config, values), tmp_path).train()
    # The steps that led there are logged, the broken one included.
    steps = pd.read_csv(tmp_path / "steps" / "run.csv")
    assert not np.isfinite(steps[loss.split()[0]].iloc[-1])


def test_validation_scores_equal_scikit_images(photos: Photos, tiny_config: Config) -> None:
    torch.manual_seed(3)
    generator = build_generator(tiny_config.generator)
    crops = validation_crops(photos, tiny_config.data)
    sums = validate(generator, crops, tiny_config, CPU, range(len(crops)))
    for kind in tiny_config.noise.kinds:
        clean, noisy = noisy_validation_crops(crops, tiny_config, kind, "mean", range(len(crops)))
        with torch.no_grad():
            denoised = generator.eval()(noisy)
        pairs = [(c.double().numpy(), d.double().numpy()) for c, d in zip(clean, denoised, strict=True)]
        expected = sum(peak_signal_noise_ratio(c, d, data_range=1) for c, d in pairs)
        assert sums[f"psnr_{kind}_mean"].item() == pytest.approx(expected, abs=1e-6)
        expected = sum(structural_similarity(c, d, data_range=1, channel_axis=0) for c, d in pairs)
        assert sums[f"ssim_{kind}_mean"].item() == pytest.approx(expected, abs=1e-6)


def test_validation_noise_has_the_three_levels_of_each_kind(photos: Photos) -> None:
    """The noisy input scores as scikit-image's noise of the paper's low, mean and high intensity does."""
    config = with_values(PAPER_V1, {"data/crop_size": 64, "data/val_crops": 12})
    crops = validation_crops(photos, config.data)
    sums = validate(torch.nn.Identity(), crops, config, CPU, range(len(crops)))
    random = np.random.default_rng(0)
    clean = crops.numpy() / 255
    for kind, mode, argument, intensities in (
        ("gaussian", "gaussian", "var", (0.005, 0.0425, 0.08)),
        ("salt_and_pepper", "s&p", "amount", (0.02, 0.045, 0.07)),
        ("speckle", "speckle", "var", (0.005, 0.1025, 0.2)),
    ):
        for level, intensity in zip(("low", "mean", "high"), intensities, strict=True):
            noisy = random_noise(clean, mode, rng=random, **{argument: intensity})
            expected = np.mean([peak_signal_noise_ratio(c, n, data_range=1) for c, n in zip(clean, noisy, strict=True)])
            assert sums[f"psnr_{kind}_{level}"].item() / len(crops) == pytest.approx(expected, abs=0.3)


def test_dividing_validation_among_workers_changes_nothing(photos: Photos, tiny_config: Config) -> None:
    torch.manual_seed(3)
    generator = build_generator(tiny_config.generator)
    crops = validation_crops(photos, tiny_config.data)
    whole = validate(generator, crops, tiny_config, CPU, range(3))
    parts = [validate(generator, crops, tiny_config, CPU, range(rank, 3, 2)) for rank in range(2)]
    for name, total in whole.items():
        if name != "milliseconds":
            assert sum(part[name].item() for part in parts) == pytest.approx(total.item(), rel=1e-6)


@pytest.mark.alone
@pytest.mark.timeout(600)
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
    full = Photos([str(index) for index in range(8)], [dead_leaves(256, 0, index) for index in range(8)])
    run = Run(full, with_values(PAPER_V0, values), tmp_path).train()
    assert run.epochs[1]["content_loss"] < run.epochs[0]["content_loss"]
    generator, _ = load_denoiser(Folder(run.checkpoint(2) / "denoiser"))
    assert sum(weight.numel() for weight in generator.parameters()) == 29_247_491
