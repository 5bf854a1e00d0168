import json
from pathlib import Path

import pytest
import torch
from raygan.models.generator import build_generator

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.study.storage import Folder
from raygan.train.checkpoint import Best, CheckpointError, load_checkpoint, load_denoiser, save_checkpoint

CPU = torch.device("cpu")
METRICS = {"epoch": 2, "val_psnr": 20.5}
BEST = {"epoch": 1, "val_psnr": 21.0}


@pytest.fixture
def saved(tiny_config: Config, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    best = Best.of(build_generator(tiny_config.generator), BEST)
    training = {"discriminator": {"weight": torch.ones(3)}}
    save_checkpoint(tmp_path / "saved", tiny_config, METRICS, best, training)
    return tmp_path / "saved"


def test_what_was_saved_is_loaded(saved: Path, tiny_config: Config) -> None:
    loaded = load_checkpoint(saved, tiny_config, CPU)
    assert loaded.epoch == 2
    assert loaded.best.metrics == BEST
    assert torch.equal(loaded.training["discriminator"]["weight"], torch.ones(3))
    torch.manual_seed(0)
    original = build_generator(tiny_config.generator).state_dict()
    assert loaded.best.weights.keys() == original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in loaded.best.weights.items())


def test_the_best_epoch_is_not_changed_by_later_ones(tiny_config: Config) -> None:
    generator = build_generator(tiny_config.generator)
    best = Best.of(generator, BEST)
    before = {name: tensor.clone() for name, tensor in best.weights.items()}
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in best.weights.items())


def test_files_are_open_formats(saved: Path, tiny_config: Config) -> None:
    assert json.loads((saved / "metrics.json").read_text()) == METRICS
    assert json.loads((saved / "denoiser" / "metrics.json").read_text()) == BEST
    assert Config.from_json(json.loads((saved / "config.json").read_text())) == tiny_config
    assert sorted(path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()) == [
        *("checksums.json", "config.json"),
        *("denoiser/config.json", "denoiser/generator.safetensors", "denoiser/metrics.json"),
        *("metrics.json", "training.pt"),
    ]


def test_a_denoiser_is_ready_to_use(saved: Path) -> None:
    generator, _ = load_denoiser(Folder(saved / "denoiser"))
    assert not generator.training
    assert generator(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


FILES = ["denoiser/generator.safetensors", "training.pt", "config.json", "metrics.json"]


@pytest.mark.parametrize("name", FILES)
def test_damage_is_noticed(saved: Path, tiny_config: Config, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"is damaged: {name}"):
        load_checkpoint(saved, tiny_config, CPU)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(saved: Path, tiny_config: Config, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        load_checkpoint(saved, tiny_config, CPU)


def test_an_incomplete_checkpoint_is_noticed(saved: Path, tiny_config: Config) -> None:
    (saved / "checksums.json").write_text('{"generator')
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load_checkpoint(saved, tiny_config, CPU)


def test_values_may_differ_where_they_are_said_to_vary(saved: Path, tiny_config: Config) -> None:
    path = "optimizers/generator/learning_rate"
    changed = with_values(tiny_config, {path: 0.5, "hardware/cpus_per_worker": 2, "data/cache": "memory"})
    with pytest.raises(CheckpointError, match=f"another configuration, which differs in {path}; start"):
        load_checkpoint(saved, changed, CPU)
    assert load_checkpoint(saved, changed, CPU, varying=[path]).epoch == 2


def test_an_interrupted_save_leaves_no_checkpoint(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(tmp_path / "new", tiny_config, METRICS, Best({}, {}), {})
    assert not (tmp_path / "new").exists()
