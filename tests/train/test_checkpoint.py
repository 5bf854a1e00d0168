import json
from pathlib import Path

import pytest
import torch

from raygan.config import Config
from raygan.models.generator import build_generator
from raygan.storage import Folder
from raygan.train.checkpoint import CheckpointError, Progress, load_checkpoint, load_denoiser, save_checkpoint

CPU = torch.device("cpu")
METRICS = {"epoch": 2, "val_psnr": 20.5}


@pytest.fixture
def saved(tiny_config: Config, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    generator = build_generator(tiny_config.generator)
    training = {"discriminator": {"weight": torch.ones(3)}}
    save_checkpoint(tmp_path / "saved", tiny_config, METRICS, Progress(2, 1, 21.0), generator, training)
    return tmp_path / "saved"


def test_what_was_saved_is_loaded(saved: Path, tiny_config: Config) -> None:
    torch.manual_seed(1)
    generator = build_generator(tiny_config.generator)
    progress, training = load_checkpoint(saved, tiny_config, generator, CPU)
    assert progress == Progress(epoch=2, best_epoch=1, best_val_psnr=21.0)
    assert torch.equal(training["discriminator"]["weight"], torch.ones(3))
    torch.manual_seed(0)
    original = build_generator(tiny_config.generator).state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in generator.state_dict().items())


def test_files_are_open_formats(saved: Path, tiny_config: Config) -> None:
    assert json.loads((saved / "metrics.json").read_text()) == METRICS
    assert Config.from_json(json.loads((saved / "config.json").read_text())) == tiny_config
    assert sorted(path.name for path in saved.iterdir()) == [
        *("checksums.json", "config.json", "generator.safetensors", "metrics.json", "training.pt")
    ]


def test_a_denoiser_is_ready_to_use(saved: Path) -> None:
    generator, _ = load_denoiser(Folder(saved))
    assert not generator.training
    assert generator(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("name", ["generator.safetensors", "training.pt", "config.json", "metrics.json"])
def test_damage_is_noticed(saved: Path, tiny_config: Config, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"is damaged: {name}"):
        load_checkpoint(saved, tiny_config, build_generator(tiny_config.generator), CPU)


@pytest.mark.parametrize("name", ["generator.safetensors", "training.pt"])
def test_a_missing_file_is_noticed(saved: Path, tiny_config: Config, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        load_checkpoint(saved, tiny_config, build_generator(tiny_config.generator), CPU)


def test_an_incomplete_checkpoint_is_noticed(saved: Path, tiny_config: Config) -> None:
    (saved / "checksums.json").write_text('{"generator')
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load_checkpoint(saved, tiny_config, build_generator(tiny_config.generator), CPU)


def test_an_interrupted_save_leaves_no_checkpoint(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(tmp_path / "new", tiny_config, METRICS, Progress(), build_generator(tiny_config.generator), {})
    assert not (tmp_path / "new").exists()
