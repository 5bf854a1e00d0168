import json

import pytest

from raygan.config.run import Config, DataConfig, IntensityRange
from raygan.config.section import ConfigError, flat_values, parse_value, with_values
from raygan.presets import PAPER_ABLATION, PAPER_V0, PAPER_V1, QUICK

# The paper's table of settings, and what is the same for all three systems.
PAPER = {
    "data/train_photos": 1000,
    "data/val_photos": 100,
    "data/crop_size": 256,
    "noise/kinds": ("gaussian", "salt_and_pepper", "speckle"),
    "noise/gaussian/low": 0.005,
    "noise/gaussian/high": 0.08,
    "noise/salt_and_pepper/low": 0.02,
    "noise/salt_and_pepper/high": 0.07,
    "noise/speckle/low": 0.005,
    "noise/speckle/high": 0.2,
    "noise/policy": "uniform",
    "noise/normal_deviation": 1 / 6,
    "generator/architecture": "unet",
    "generator/base_width": 64,
    "generator/initial_deviation": 0.02,
    # Keras's defaults: momentum 0.99 is PyTorch's 0.01.
    "generator/batch_norm_momentum": 0.01,
    "generator/batch_norm_epsilon": 1e-3,
    "generator/dropout": 0.0,
    "generator/depth": 6,
    "generator/upsampling": "transposed",
    "generator/residual": False,
    "generator/normalization": "batch",
    "discriminator/architecture": "single_score",
    "discriminator/base_width": 64,
    "discriminator/initial_deviation": 0.02,
    "discriminator/batch_norm_momentum": 0.01,
    "discriminator/batch_norm_epsilon": 1e-3,
    "discriminator/normalization": "batch",
    "loss/feature_scale": "paper",
    "loss/content_weight": 0.1,
    "optimizers/generator/beta2": 0.999,
    "optimizers/generator/epsilon": 1e-7,
    "optimizers/discriminator/beta1": 0.9,
    "optimizers/discriminator/beta2": 0.999,
    "optimizers/discriminator/epsilon": 1e-7,
    "training/batch_size": 8,
    "training/steps_per_epoch": 125,
    "training/epochs": 30,
    "training/precision": "float32",
    # What it does not have.
    "data/augmentation": "none",
    "loss/pixel_weight": 0.0,
    "training/pixel_epochs": 0,
    "training/start_from": None,
    "training/lr_schedule": "constant",
    "training/warm_up_steps": 0,
    "training/average_decay": 0.0,
    "training/max_gradient_norm": None,
}
# v0, v1, ablation.
DIFFERING = {
    "loss/content": ("mse", "vgg19", "vgg19"),
    "loss/adversarial_weight": (0.001, 0.01, 0.001),
    "optimizers/discriminator/learning_rate": (0.007, 0.009, 0.009),
    "optimizers/generator/learning_rate": (0.0005, 0.005, 0.005),
    "optimizers/generator/beta1": (0.9, 0.5, 0.5),
}
# Where photos come from, how a run is seeded, what it runs on, and what the paper leaves open.
OURS = {
    *("data/photos", "data/evaluate_on", "data/val_crops", "data/seed", "training/seed", "loss/vgg19_weights"),
    *("generator/inference_statistics", "discriminator/frozen_statistics", "discriminator/patch_layers"),
    *("hardware/device", "hardware/workers", "hardware/cpus_per_worker", "hardware/gpus_per_worker"),
    *("data/cache", "hardware/reading_cpus_per_worker", "training/batch_statistics", "training/best_by"),
    *("generator/blocks", "generator/unshuffle"),
}


@pytest.mark.parametrize(("column", "system"), [(0, PAPER_V0), (1, PAPER_V1), (2, PAPER_ABLATION)])
def test_the_papers_systems_field_by_field(column: int, system: Config) -> None:
    values = {path: value for path, value in flat_values(system).items() if path not in OURS}
    assert values == PAPER | {path: row[column] for path, row in DIFFERING.items()}


def test_intensity_means_are_the_papers() -> None:
    noise = PAPER_V1.noise
    means = [noise.range_of(kind).mean for kind in noise.kinds]
    assert means == pytest.approx([0.0425, 0.045, 0.1025])


def test_json_round_trip_keeps_every_value() -> None:
    config = with_values(PAPER_V0, QUICK | {"training/steps_per_epoch": 7})
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_with_values_changes_only_what_it_is_given() -> None:
    changed = with_values(PAPER_V1, {"loss/adversarial_weight": 1, "noise/gaussian/high": 0.12})
    assert changed.loss.adversarial_weight == 1.0
    assert isinstance(changed.loss.adversarial_weight, float)
    back = {"loss/adversarial_weight": 0.01, "noise/gaussian/high": 0.08}
    assert with_values(changed, back) == PAPER_V1


def test_values_are_checked_together() -> None:
    # Each alone would break low <= high.
    moved = with_values(PAPER_V1, {"noise/gaussian/low": 0.5, "noise/gaussian/high": 0.6})
    assert moved.noise.gaussian == IntensityRange(low=0.5, high=0.6)


def test_unknown_path_lists_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'loss/lambda'") as caught:
        with_values(PAPER_V1, {"loss/lambda": 1})
    assert "\n  loss/adversarial_weight\n" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data/crop_size", 100, r"crop_size > 0 and a multiple of 32 must hold, but got crop_size=100"),
        ("noise/gaussian/low", 1.0, r"0 <= low <= high must hold, but got low=1.0, high=0.08"),
        ("noise/kinds", ["gaussian", "gaussian"], r"without repeats"),
        ("noise/kinds", ["poisson"], r"kinds must be one of 'gaussian', 'salt_and_pepper', 'speckle'"),
        ("noise/policy", "gamma", r"policy must be one of 'uniform', 'normal', but got 'gamma'"),
        ("optimizers/generator/beta1", 1.0, r"0 <= beta1 < 1 must hold, but got beta1=1.0"),
        ("optimizers/generator/learning_rate", float("nan"), r"learning_rate must be float, but got nan"),
        ("loss/content_weight", -1.0, r"content_weight >= 0"),
        ("generator/depth", 1, r"2 <= depth <= 6 must hold, but got depth=1"),
        ("generator/depth", 7, r"2 <= depth <= 6 must hold, but got depth=7"),
        ("generator/upsampling", "bilinear", r"upsampling must be one of 'transposed', 'resize', but got 'bilinear'"),
        ("generator/residual", 1, r"residual must be bool, but got 1"),
        ("discriminator/patch_layers", 0, r"1 <= patch_layers <= 4 must hold, but got patch_layers=0"),
        ("discriminator/patch_layers", 5, r"1 <= patch_layers <= 4 must hold, but got patch_layers=5"),
        ("training/batch_size", 2.5, r"batch_size must be int, but got 2.5"),
        ("training/batch_size", True, r"batch_size must be int, but got True"),
        ("training/steps_per_epoch", 0, r"steps_per_epoch >= 1"),
        ("hardware/gpus_per_worker", 1.5, r"gpus_per_worker whole, or 0 < gpus_per_worker < 1 must hold, but got"),
        ("hardware/gpus_per_worker", 0.0, r"but got gpus_per_worker=0.0"),
        ("data/crop_size", 96, r"multiple of generator's stride must hold, but got crop_size=96, stride=64"),
        ("hardware/workers", 3, r"multiple of hardware/workers must hold, but got batch_size=8, workers=3"),
    ],
)
def test_wrong_values_name_the_rule_and_the_value(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_values(PAPER_V1, {path: value})


def test_workers_of_one_run_do_not_share_a_gpu() -> None:
    assert with_values(Config(), {"hardware/gpus_per_worker": 0.25}).hardware.gpus_per_worker == 0.25
    with pytest.raises(ConfigError, match=r"whole where workers > 1 must hold, but got gpus_per_worker=0.5, workers=2"):
        with_values(Config(), {"hardware/gpus_per_worker": 0.5, "hardware/workers": 2})


def test_construction_checks_types_too() -> None:
    with pytest.raises(ConfigError, match="crop_size must be int"):
        DataConfig(crop_size="256")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("training/steps_per_epoch", "none", None),
        ("training/steps_per_epoch", "12", 12),
        ("loss/content_weight", "1e-3", 0.001),
        ("loss/vgg19_weights", "vgg.npz", "vgg.npz"),
        ("noise/kinds", "gaussian,speckle", ("gaussian", "speckle")),
        ("noise/policy", "normal", "normal"),
        ("data/photos", "123", "123"),
        ("generator/residual", "true", True),
        ("generator/residual", "False", False),
    ],
)
def test_command_line_text_becomes_a_typed_value(path: str, text: str, value: object) -> None:
    assert parse_value(PAPER_V1, path, text) == value


@pytest.mark.parametrize(
    ("path", "text"),
    [("training/epochs", "many"), ("training/epochs", "1.5"), ("loss/content", "l1"), ("generator/residual", "yes")],
)
def test_command_line_text_of_the_wrong_type_is_refused(path: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_value(PAPER_V1, path, text)


def test_json_with_unknown_entries_is_refused() -> None:
    with pytest.raises(ConfigError, match="epoch_count"):
        Config.from_json({"training": {"epoch_count": 3}})
