import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.models import UNet
from raygan.presets import DENOISER
from raygan.storage import DamagedError, Folder
from raygan.train.checkpoint import Best, CheckpointError, keep_denoiser, keep_newest, load_checkpoint, save_checkpoint
from raygan.train.denoisers import DenoiserError, load_generator, load_weights, starting_weights

BEST = {"epoch": 1, "val_psnr": 21.0}


def network(config: Config, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return config.generator.build()


def save(run: Folder, config: Config, epoch: int) -> None:
    """A checkpoint whose denoiser's weights and training state tell the epoch."""
    training = {"discriminator": {"weight": torch.full((3,), float(epoch))}}
    best = Best.of(network(config, epoch), BEST)
    save_checkpoint(run, config, {"epoch": epoch, "val_psnr": 20.5}, best, training)


@pytest.fixture
def run(tiny_config: Config, tmp_path: Path) -> Folder:
    """A run with checkpoints of epochs 1 and 2."""
    folder = Folder(tmp_path / "run")
    for epoch in (1, 2):
        save(folder, tiny_config, epoch)
    return folder


def loaded_epoch(run: Folder, config: Config) -> int | None:
    saved = load_checkpoint(run, config)
    return saved.epoch if saved is not None else None


def test_newest_checkpoint_is_loaded_as_it_was_saved(run: Folder, tiny_config: Config) -> None:
    saved = load_checkpoint(run, tiny_config)
    assert saved is not None
    assert (saved.epoch, saved.metrics, saved.best.metrics) == (2, {"epoch": 2, "val_psnr": 20.5}, BEST)
    assert torch.equal(saved.training["discriminator"]["weight"], torch.full((3,), 2.0))
    original = network(tiny_config, 2).state_dict()
    assert saved.best.weights.keys() == original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in saved.best.weights.items())


def test_run_without_checkpoints_starts_anew(tiny_config: Config, tmp_path: Path) -> None:
    assert load_checkpoint(Folder(tmp_path / "none"), tiny_config) is None


def test_best_epoch_is_not_changed_by_later_ones(tiny_config: Config) -> None:
    generator = network(tiny_config)
    best = Best.of(generator, BEST)
    before = {name: tensor.clone() for name, tensor in best.weights.items()}
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in best.weights.items())


def test_files_are_open_formats(run: Folder, tiny_config: Config) -> None:
    folder = run.child("epoch-0002")
    assert json.loads(folder.read("metrics.json")) == {"epoch": 2, "val_psnr": 20.5}
    assert json.loads(folder.read("denoiser/metrics.json")) == BEST
    assert Config.from_json(json.loads(folder.read("config.json"))) == tiny_config
    assert folder.files() == [
        *("checksums.json", "config.json"),
        *("denoiser/config.json", "denoiser/generator.safetensors", "denoiser/metrics.json"),
        *("metrics.json", "training.pt"),
    ]


def test_two_newest_checkpoints_are_kept(tiny_config: Config, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for epoch in (9998, 9999, 10000):
        save(folder, tiny_config, epoch)
    assert {name.partition("/")[0] for name in folder.files()} == {"epoch-9999", "epoch-10000"}
    assert loaded_epoch(folder, tiny_config) == 10000


def test_a_run_that_began_again_keeps_its_own_checkpoints(tiny_config: Config, tmp_path: Path) -> None:
    """Where both are damaged, epoch 1 is newer than epochs 9 and 10."""
    folder = Folder(tmp_path)
    for epoch in (9, 10):
        save(folder, tiny_config, epoch)
        folder.delete(f"epoch-{epoch:04d}/checksums.json")
    assert loaded_epoch(folder, tiny_config) is None
    save(folder, tiny_config, 1)
    assert {name.partition("/")[0] for name in folder.files()} == {"epoch-0001"}


class _SilentBucket(Folder):
    """A bucket whose first checkpoints can be listed, and that then answers no more."""

    def __init__(self, local: Folder) -> None:
        super().__init__("s3://bucket/run")
        self.local = local

    def files(self) -> list[str]:
        return self.local.files()

    def child(self, name: str) -> Folder:
        return _SilentBucket(self.local.child(name))

    def read(self, name: str) -> bytes:
        raise OSError(f"AWS Error NETWORK_CONNECTION during GetObject of {name}")


def test_a_bucket_that_does_not_answer_has_no_damaged_checkpoints(run: Folder, tiny_config: Config) -> None:
    """The run would begin again, and lose its epochs."""
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        load_checkpoint(_SilentBucket(run), tiny_config)


FILES = ["denoiser/generator.safetensors", "training.pt", "config.json", "metrics.json", "checksums.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_damaged_newest_checkpoint_is_passed_over(
    run: Folder, tiny_config: Config, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"epoch-0002/{name}"
    content = bytearray(run.read(path))
    content[len(content) // 2] ^= 1
    if damage == "missing":
        run.delete(path)
    else:
        run.write(path, bytes(content) if damage == "changed" else bytes(content[: len(content) // 3]))
    assert loaded_epoch(run, tiny_config) == 1
    assert "epoch-0002, trying the one before: " in caplog.text
    run.delete("epoch-0001/training.pt")
    assert loaded_epoch(run, tiny_config) is None


def test_interrupted_save_leaves_the_checkpoint_before(
    run: Folder, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Folder.write

    def full_disk(self: Folder, name: str, content: Any) -> None:
        if name == "metrics.json":
            raise OSError("no space left")
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", full_disk)
        with pytest.raises(OSError, match="no space left"):
            save(run, tiny_config, 3)
    assert loaded_epoch(run, tiny_config) == 2
    save(run, tiny_config, 3)
    assert loaded_epoch(run, tiny_config) == 3


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"optimizers/generator/learning_rate": 0.5}, "optimizers/generator/learning_rate"),
        ({"generator": "ResidualUNet"}, "generator"),
        ({"noises": ["gaussian"]}, "noises"),
    ],
)
def test_checkpoint_of_another_configuration_is_refused(
    run: Folder, tiny_config: Config, values: dict[str, object], path: str
) -> None:
    with pytest.raises(CheckpointError, match=f"another configuration, which differs in .*{path}"):
        load_checkpoint(run, with_values(tiny_config, values))


def test_machines_may_differ_between_starts(run: Folder, tiny_config: Config) -> None:
    other = with_values(tiny_config, {"hardware/cpus_per_worker": 2, "data/cache": "memory"})
    assert loaded_epoch(run, other) == 2


def is_denoiser_of(folder: Folder, config: Config, epoch: int) -> bool:
    """Whether a folder has the weights of the checkpoint of that epoch."""
    generator, found = load_generator(folder)
    expected = network(config, epoch).state_dict()
    return found == config and all(torch.equal(one, expected[name]) for name, one in generator.state_dict().items())


DENOISER_FILES = ["denoiser/config.json", "denoiser/generator.safetensors", "denoiser/metrics.json"]


@pytest.mark.parametrize("newest_is_damaged", [False, True])
def test_keep_denoiser_leaves_the_denoiser_alone(run: Folder, tiny_config: Config, newest_is_damaged: bool) -> None:
    if newest_is_damaged:
        run.write("epoch-0002/denoiser/generator.safetensors", b"damaged")
    for _ in range(2):
        keep_denoiser(run)
        assert run.files() == DENOISER_FILES
        assert is_denoiser_of(run.child("denoiser"), tiny_config, 1 if newest_is_damaged else 2)
        assert json.loads(run.read("denoiser/metrics.json")) == BEST


def test_keep_denoiser_completes_what_was_interrupted(run: Folder, tiny_config: Config) -> None:
    run.write("denoiser/generator.safetensors", b"of an older epoch")
    keep_denoiser(run)
    assert run.files() == DENOISER_FILES
    assert is_denoiser_of(run.child("denoiser"), tiny_config, 2)


def test_denoiser_is_ready_to_use(run: Folder) -> None:
    generator, _ = load_generator(run.child("epoch-0002/denoiser"))
    assert not generator.training
    assert generator(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_folder_without_a_usable_denoiser_is_refused(run: Folder, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(DenoiserError, match=r"no config.json\): give a folder such as STUDY/best"):
        load_generator(Folder(tmp_path))
    with pytest.raises(DenoiserError, match=r"no generator.safetensors\): give a folder"):
        load_weights(Folder(tmp_path), tiny_config.generator)
    folder = run.child("epoch-0002/denoiser")
    with pytest.raises(DenoiserError, match=r"are not those of UNet\(base_width=8"):
        load_weights(folder, UNet(base_width=8))
    folder.write("generator.safetensors", b"damaged")
    with pytest.raises(DenoiserError, match=r"the weights in .* are damaged"):
        load_generator(folder)
    weights = tiny_config.generator.build().state_dict()
    broken = {name: tensor / 0 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    folder.write("generator.safetensors", safetensors.torch.save(broken))
    with pytest.raises(DenoiserError, match=r"the weights in .* are NaN or infinite"):
        load_generator(folder)
    folder.write("config.json", "")
    with pytest.raises(DamagedError, match=r"config.json is damaged \(JSONDecodeError"):
        load_generator(folder)


def test_starting_weights_are_those_of_the_denoiser(tiny_config: Config) -> None:
    assert starting_weights(tiny_config) is None
    start = {"training/start_from": "baseline"}
    weights = starting_weights(with_values(DENOISER, start))
    assert weights is not None
    assert weights.keys() == DENOISER.generator.build().state_dict().keys()
    with pytest.raises(DenoiserError, match=r"cannot start from baseline .* but this configuration has UNet"):
        starting_weights(with_values(tiny_config, start))


def test_denoiser_of_an_earlier_version_says_which_version_reads_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"noise": {"kinds": ["gaussian"]}, "generator": {}}))
    with pytest.raises(DenoiserError, match=r"RayGAN 0\.1 wrote the denoiser in .*: use it with RayGAN 0\.1"):
        load_generator(Folder(tmp_path))


def test_a_run_that_waits_keeps_a_whole_checkpoint(run: Folder, tiny_config: Config) -> None:
    run.write("epoch-0003/training.pt", b"cut off")
    keep_newest(run)
    assert {name.partition("/")[0] for name in run.files()} == {"epoch-0002", "epoch-0003"}
    assert loaded_epoch(run, tiny_config) == 2


def test_a_run_that_waits_keeps_its_newest_checkpoint_alone(run: Folder, tiny_config: Config) -> None:
    keep_newest(run)
    assert {name.partition("/")[0] for name in run.files()} == {"epoch-0002"}
    assert loaded_epoch(run, tiny_config) == 2
