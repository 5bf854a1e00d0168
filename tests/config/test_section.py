import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from raygan.config.kinds import Generator, Noise
from raygan.config.run import AdamConfig, Config, DataConfig
from raygan.config.section import ConfigError, differing_values, field_docs, parse_value, with_values
from raygan.data.sources import PhotoFolder, Samples
from raygan.losses import MeanSquaredError, Vgg19Features
from raygan.models import PatchGAN, ResidualUNet, UNet
from raygan.noise import Gaussian, SaltAndPepper, Speckle
from raygan.presets import PAPER_V0, PAPER_V1, QUICK


@dataclass(frozen=True, kw_only=True)
class Grain(Noise):
    """A user's own noise, whose range has no default."""

    size: int = 2

    def add(self, clean: Tensor, intensity: float, generator: Any) -> Tensor:  # noqa: ARG002
        return clean


def test_with_values_changes_the_given_paths_only() -> None:
    changed = with_values(PAPER_V1, {"loss/adversarial_weight": 1, "noises/gaussian/high": 0.12})
    assert (changed.loss.adversarial_weight, changed.noises[0]) == (1, Gaussian(high=0.12))
    back = {"loss/adversarial_weight": 0.01, "noises/gaussian/high": 0.08}
    assert with_values(changed, back) == PAPER_V1


def test_with_values_validates_all_values_together() -> None:
    # Each alone would break low <= high.
    moved = with_values(PAPER_V1, {"noises/gaussian/low": 0.5, "noises/gaussian/high": 0.6})
    assert moved.noises[0] == Gaussian(low=0.5, high=0.6)


@pytest.mark.parametrize(
    "path", ["loss/lambda", "noises/pink/low", "noises/gaussian", "generator/blocks", "data/seed/low"]
)
def test_with_values_unknown_path_lists_the_valid_ones(path: str) -> None:
    with pytest.raises(ConfigError, match=f"no setting '{path}'") as caught:
        with_values(PAPER_V1, {path: 1})
    for known in ("loss/adversarial_weight", "noises/speckle/low", "generator", "generator/dropout"):
        assert f"\n  {known}\n" in str(caught.value)


@pytest.mark.parametrize("name", ["ResidualUNet", "residual_unet", "residualunet"])
def test_kind_by_name_keeps_shared_fields(name: str) -> None:
    unet = UNet(base_width=32, depth=4, residual=True, dropout=0.5)
    config = with_values(PAPER_V1, {"generator": unet})
    assert with_values(config, {"generator": name}).generator == ResidualUNet(base_width=32, depth=4, residual=True)
    # The kind that is there already keeps all its fields.
    assert with_values(config, {"generator": "UNet"}) == config


def test_kind_and_its_fields_change_in_one_call() -> None:
    values = {"generator/blocks": 3, "generator": "ResidualUNet", "generator/depth": 2, "discriminator": PatchGAN()}
    changed = with_values(PAPER_V1, values | {"discriminator/layers": 1})
    assert changed.generator == ResidualUNet(blocks=3, depth=2)
    assert changed.discriminator == PatchGAN(layers=1)
    chosen = with_values(PAPER_V1, {"noises": ["speckle", "gaussian"], "noises/speckle/high": 0.3})
    assert chosen.noises == (Speckle(high=0.3), Gaussian())
    # A noise that was not there has its own range, not that of another.
    assert with_values(with_values(chosen, {"noises": ["gaussian"]}), {"noises": ["speckle"]}).noises == (Speckle(),)


def test_noises_of_one_class_are_told_apart_by_name() -> None:
    config = with_values(PAPER_V1, {"noises": [Gaussian(), Gaussian(name="weak", high=0.01)]})
    assert with_values(config, {"noises/weak/high": 0.02}).noises == (Gaussian(), Gaussian(name="weak", high=0.02))
    assert with_values(config, {"noises": ["weak"]}).noises == (Gaussian(name="weak", high=0.01),)
    # Its exact name counts before its class, in any order.
    config = with_values(config, {"noises": config.noises[::-1]})
    assert with_values(config, {"noises": ["gaussian"]}).noises == (Gaussian(),)


def test_photo_source_is_a_name_or_a_location() -> None:
    assert with_values(PAPER_V1, {"data/photos": "samples"}).data.photos == Samples()
    for folder in ("s3://a/b", "coco/", "./coco"):
        assert with_values(PAPER_V1, {"data/photos": folder}).data.photos == PhotoFolder(location=folder)


def test_an_arm_without_values_of_its_own_differs_from_none() -> None:
    arms = {"base": {}, "cosine": {"training/lr_schedule": "cosine"}}
    renamed = {"plain": {}, "cosine": {"training/lr_schedule": "cosine"}}
    assert differing_values(arms, arms) == []
    assert differing_values(arms, renamed) == ["base", "plain"]


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        ("generator", "resnet", r"there is no Generator 'resnet'; there are .*ResidualUNet, .*UNet"),
        ("noises", ["pink"], r"there is no Noise 'pink'; there are .*Gaussian, .*SaltAndPepper, .*Speckle"),
        ("loss/content", "l1", r"there is no ContentLoss 'l1'; there are .*MeanSquaredError, .*Vgg19Features"),
        ("noises", ["grain"], r"Grain needs more than its name, give an instance: .*'low' and 'high'"),
    ],
)
def test_unusable_name_of_a_kind_is_explained(path: str, name: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_values(PAPER_V1, {path: name})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data/crop_size", 100, r"crop_size > 0 and a multiple of 32 must hold, but got crop_size=100"),
        ("data/crop_size", 96, r"multiple of the generator's stride must hold, but got crop_size=96, stride=64"),
        ("noises/gaussian/low", 1.0, r"0 <= low <= high must hold, but got low=1.0, high=0.08"),
        ("noises/salt_and_pepper/high", 1.5, r"high <= 1 must hold, but got high=1.5"),
        ("noises", ["gaussian", "gaussian"], r"noises not empty, with different names must hold"),
        ("noises", [], r"noises not empty"),
        ("noises", [UNet()], r"noises must be a tuple of Noise, but got \(UNet"),
        ("generator", Gaussian(), r"generator must be Generator, but got Gaussian"),
        ("optimizers/generator/beta1", 1.0, r"beta1 < 1 must hold, but got beta1=1.0"),
        ("optimizers/generator/learning_rate", float("nan"), r"learning_rate must be float, but got nan"),
        ("loss/content_weight", -1.0, r"content_weight >= 0"),
        ("generator/depth", 7, r"depth <= 6 must hold, but got depth=7"),
        ("generator/upsampling", "bilinear", r"upsampling must be one of 'transposed', 'resize', but got 'bilinear'"),
        ("generator/residual", 1, r"residual must be bool, but got 1"),
        ("discriminator", "Generator", r"there is no Discriminator 'Generator'"),
        ("training/batch_size", 2.5, r"batch_size must be int, but got 2.5"),
        ("training/batch_size", True, r"batch_size must be int, but got True"),
        ("training/steps_per_epoch", 0, r"steps_per_epoch >= 1"),
        ("hardware/gpus_per_worker", 1.5, r"0 < gpus_per_worker <= 1 must hold, but got"),
        ("hardware/workers", 3, r"multiple of hardware/workers must hold, but got batch_size=8, workers=3"),
    ],
)
def test_invalid_value_names_the_rule_and_the_value(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_values(PAPER_V1, {path: value})


@pytest.mark.parametrize(("layers", "rule"), [(0, "layers >= 1"), (5, "layers <= 4")])
def test_field_of_a_kind_is_validated_where_it_is_made(layers: int, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"{rule} must hold, but got layers={layers}"):
        PatchGAN(layers=layers)


def test_construction_keeps_values_as_given_and_refuses_other_types() -> None:
    adam = AdamConfig(learning_rate=1, beta1=0)
    assert [type(value) for value in (adam.learning_rate, adam.beta1, adam.beta2)] == [int, int, float]
    assert adam.to_json() == {"learning_rate": 1, "beta1": 0, "beta2": 0.999, "epsilon": 1e-7}
    with pytest.raises(ConfigError, match="noises must be a tuple of Noise"):
        dataclasses.replace(PAPER_V1, noises=[Gaussian()])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="crop_size must be int"):
        DataConfig(photos=Samples(), evaluate_on=Samples(), crop_size="256")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [
        with_values(PAPER_V0, QUICK | {"training/steps_per_epoch": 7, "data/photos": "a/b"}),
        with_values(PAPER_V1, {"noises": [SaltAndPepper(high=0.5), Grain(low=0, high=1, size=5)]}),
    ],
    ids=["package", "own class"],
)
def test_json_round_trip(config: Config) -> None:
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_json_names_the_class_of_a_kind() -> None:
    expected = {"class": "raygan.noise.paper.Gaussian", "low": 0.005, "high": 0.08, "odds": 1.0, "name": None}
    assert Gaussian().to_json() == expected
    assert Grain(low=0, high=1).to_json()["class"] == f"{__name__}.Grain"


OWN = """
import json
from dataclasses import dataclass
from raygan.config.kinds import Noise

@dataclass(frozen=True, kw_only=True)
class Fog(Noise):
    low: float = 0.1
    high: float = 0.3
    size: int = 2

    def add(self, clean, intensity, generator):
        return clean

if __name__ == "__main__":
    print(json.dumps(Fog(size=7).to_json()))
"""


def test_json_of_a_class_in_a_program_is_read_where_it_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "own_search.py").write_text(OWN)
    written = subprocess.check_output([sys.executable, str(tmp_path / "own_search.py")], text=True)
    expected = {"class": "own_search.Fog", "low": 0.1, "high": 0.3, "odds": 1.0, "name": None, "size": 7}
    assert json.loads(written) == expected
    read = f"from raygan.config.kinds import Noise; print(Noise.from_json({json.loads(written)}))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert "Fog(" in subprocess.check_output([sys.executable, "-c", read], text=True, env=environment)
    message = r"class own_search.Fog, which cannot be imported .* the folder of own_search.py on PYTHONPATH"
    with pytest.raises(ConfigError, match=message):
        Noise.from_json(json.loads(written))


@pytest.mark.parametrize(
    ("base", "values", "message"),
    [
        (Generator, {"class": "raygan.noise.paper.Gaussian"}, "raygan.noise.paper.Gaussian, which is not a Generator"),
        (Generator, {"class": "builtins.dict"}, "builtins.dict, which is not a Generator"),
        (Generator, {"class": "raygan.models.generators.VNet"}, "VNet, which cannot be imported"),
        (Generator, {}, "cannot be read"),
        (Noise, {"class": "raygan.noise.paper.Gaussian", "sigma": 1}, r"Gaussian has no \['sigma'\]"),
        (Config, {"training": {"epoch_count": 3}}, "epoch_count"),
        (Config, {}, "missing"),
    ],
)
def test_json_that_cannot_be_read_is_refused(base: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        base.from_json(values)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("training/steps_per_epoch", "none", None),
        ("training/steps_per_epoch", "null", None),
        ("training/steps_per_epoch", "12", 12),
        ("loss/content_weight", "1e-3", 0.001),
        ("loss/content_weight", ".001", 0.001),
        ("loss/content_weight", "1.e-3", 0.001),
        ("loss/content/weights", "vgg.npz", "vgg.npz"),
        ("generator/residual", "true", True),
        ("generator/residual", "False", False),
        ("data/photos", "123", PhotoFolder(location="123")),
        ("data/photos", "Samples", Samples()),
        ("generator", "residual_unet", ResidualUNet()),
        ("loss/content", "MeanSquaredError", MeanSquaredError()),
        ("loss/content", "vgg19_features", Vgg19Features()),
        ("noises", "speckle,gaussian", (Speckle(), Gaussian())),
        ("noises", "SaltAndPepper", (SaltAndPepper(),)),
    ],
)
def test_parse_value_gives_what_with_values_takes(path: str, text: str, value: object) -> None:
    found: Any = with_values(PAPER_V1, {path: parse_value(PAPER_V1, path, text)})
    for name in path.split("/"):
        found = getattr(found, name)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("training/epochs", "many"),
        ("training/epochs", "1.5"),
        ("training/epochs", "-" * 5000 + "1"),
        ("training/epochs", "none"),
        ("generator/residual", "yes"),
        ("generator/residual", "1"),
        ("generator/upsampling", "bilinear"),
        ("loss/content", "l1"),
        ("generator", "none"),
        ("noises", "gaussian,pink"),
        ("noises/pink/low", "0.1"),
    ],
)
def test_parse_value_refuses_text_of_another_type(path: str, text: str) -> None:
    with pytest.raises(ConfigError, match=r"pink|" + text):
        parse_value(PAPER_V1, path, text)


def test_field_docs_include_those_of_base_classes() -> None:
    docs = field_docs(UNet)
    assert docs["dropout"] == "Dropout rate of the first three decoder blocks in training (0.5 in the pix2pix code)."
    assert docs["base_width"] == "Channels of the first layer; all other widths are multiples of it."
