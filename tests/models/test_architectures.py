"""Networks of other projects as generators: built with random weights, or read from files that the test writes."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import raygan_here, run_search, warnings_of
from denoisers import image_of, save_denoiser
from PIL import Image
from spandrel import ModelLoader
from spandrel.architectures.DRUNet import DRUNet
from spandrel.architectures.NAFNet import NAFNet as SpandrelNAFNet
from spandrel.architectures.SCUNet import SCUNet as SpandrelSCUNet
from torch import nn

from raygan.config.kinds import Generator
from raygan.config.run import Config
from raygan.config.section import ConfigError, parse_value, with_values
from raygan.data.samples import dead_leaves
from raygan.inference.denoiser import Denoiser, ImageError, denoise
from raygan.inference.export import export
from raygan.models import NAFNet, SCUNet
from raygan.models.architectures import ModelFileError, SpandrelNetwork, read_network
from raygan.models.cost import operations_per_pixel, parameters
from raygan.presets import PAPER_V1, quick
from raygan.storage import Folder
from raygan.train.denoisers import load_generator, starting_weights

TINY = NAFNet(width=8, middle_blocks=1, encoder_blocks=(1, 1), decoder_blocks=(1, 1))


def randomize(network: nn.Module) -> nn.Module:
    """Let the blocks of a NAFNet, which start as the identity, add something."""
    torch.manual_seed(1)
    for name, weight in network.named_parameters():
        if name.endswith((".beta", ".gamma")):
            nn.init.normal_(weight, std=0.5)
    return network


def write_nafnet(file: Path) -> Path:
    torch.manual_seed(0)
    network = SpandrelNAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])
    torch.save(randomize(network).state_dict(), file)
    return file


def block(width: int, per_pixel: float) -> float:
    """Operations of a NAFNet block per pixel: five convolutions, one of which is depthwise, at `per_pixel`."""
    one_by_one = 2 * width * width + width * width + 2 * width * width + width * width
    return 2 * per_pixel * (one_by_one + 9 * 2 * width)


def test_cost_of_nafnet() -> None:
    convolutions = 2 * (2 * 27 * 8) + 2 * (4 * 8 * 16 / 4 + 4 * 16 * 32 / 16 + 32 * 64 / 16 + 16 * 32 / 4)
    blocks = 2 * block(8, 1) + 2 * block(16, 1 / 4) + block(32, 1 / 16)
    # The attention's convolution is of one value a channel and image.
    attention = sum(2 * number * width**2 for number, width in ((2, 8), (2, 16), (1, 32))) / 256**2
    assert operations_per_pixel(TINY) == pytest.approx(convolutions + blocks + attention, rel=1e-12)


@pytest.mark.parametrize(
    ("generator", "count"),
    # The published networks: NAFNet for SIDD of width 32, and SCUNet.
    [(NAFNet(), 29_159_715), (SCUNet(), 17_946_072)],
)
def test_parameters_are_those_of_the_published_networks(generator: Generator, count: int) -> None:
    assert parameters(generator) == count


def test_networks_are_those_of_spandrel() -> None:
    generators: dict[Generator, Callable[[], nn.Module]] = {
        TINY: lambda: SpandrelNAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
        SCUNet(blocks=1): lambda: SpandrelSCUNet(dim=64, config=[1] * 7),
    }
    noisy = torch.rand(2, 3, 64, 128)
    for generator, build in generators.items():
        expected, network = build().eval(), generator.build().eval()
        expected.load_state_dict(randomize(network).state_dict())
        with torch.no_grad():
            torch.testing.assert_close(network(noisy), expected(noisy))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: NAFNet(encoder_blocks=(1, 1), decoder_blocks=(1,)), "as many encoder_blocks as decoder_blocks"),
        (lambda: NAFNet(encoder_blocks=(0,), decoder_blocks=(1,)), "blocks >= 1 must hold"),
        (lambda: SCUNet(width=96), "width a multiple of 64 must hold"),
    ],
)
def test_settings_that_no_network_has_are_refused(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wrong()


@pytest.mark.parametrize("architecture", ["NAFNet.torch", "NAFNet.NoSuchNet", "os.system"])
def test_names_in_somebody_elses_files_name_only_networks(architecture: str) -> None:
    pytest.importorskip("spandrel")
    with pytest.raises(ModelFileError, match="cannot build"):
        SpandrelNetwork(architecture=architecture, settings="{}").build()


def test_block_counts_are_written_as_lists() -> None:
    config = with_values(PAPER_V1, {"generator": "NAFNet"})
    assert parse_value(config, "generator/encoder_blocks", "1,1,2") == (1, 1, 2)
    with pytest.raises(ConfigError, match="must be a tuple of int"):
        parse_value(config, "generator/encoder_blocks", "1,many")
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("generator", [TINY, SCUNet(blocks=1)], ids=["NAFNet", "SCUNet"])
def test_tiles_give_the_result_of_the_whole(generator: Generator, tmp_path: Path) -> None:
    """But for the edges of tiles, whose weight in the blend is small; trained ones differ more, by what they see."""
    folder = save_denoiser(tmp_path / "own", generator)
    image = image_of((200, 300, 3), np.float32)
    tiled, whole = (Denoiser.from_pretrained(str(folder), tile=tile)(image) for tile in (128, 512))
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=0.02)
    assert np.abs(tiled - whole).mean() < 1e-3


def test_networks_cannot_be_built_without_spandrel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ModelFileError, match=r"pip install 'raygan\[spandrel\]'"):
        NAFNet().build()


def test_files_tell_their_generator(tmp_path: Path) -> None:
    assert read_network(str(write_nafnet(tmp_path / "nafnet.pth")))[0] == TINY
    torch.save(SpandrelSCUNet(dim=64, config=[1] * 7).state_dict(), tmp_path / "scunet.pth")
    assert read_network(str(tmp_path / "scunet.pth"))[0] == SCUNet(blocks=1)


def test_any_other_network_of_a_file_trains_and_is_a_denoiser(tmp_path: Path) -> None:
    file = tmp_path / "drunet.pth"
    torch.save(DRUNet(in_nc=4, out_nc=3, nc=[8, 8, 8, 8], nb=2).state_dict(), file)
    generator, network = read_network(str(file))
    assert isinstance(generator, SpandrelNetwork)
    assert generator.stride == 8
    # It is given the noise's strength as a fourth channel.
    assert parameters(generator) == sum(weight.numel() for weight in torch.load(file).values())
    noisy = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        expected = network(noisy)
    network.train()(noisy).mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    folder = save_denoiser(tmp_path / "kept", generator)
    kept, _ = load_generator(folder)
    kept.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(kept(noisy), expected)


def test_weights_of_a_file_in_half_precision_are_a_denoiser(tmp_path: Path) -> None:
    export(str(write_nafnet(tmp_path / "nafnet.pth")), str(tmp_path / "half" / "generator.safetensors"))
    assert load_generator(Folder(tmp_path / "half"))[1].generator == TINY
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(ImageError, match=r"a config.json that is not a denoiser's: choose another folder"):
        export(str(tmp_path / "nafnet.pth"), str(tmp_path / "other" / "generator.safetensors"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_files_are_exported_for_one_image_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "drunet.pth"
    torch.save(DRUNet(in_nc=4, out_nc=3, nc=[8, 8, 8, 8], nb=2).state_dict(), file)
    export(str(file), str(tmp_path / "drunet.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "drunet.onnx"))
    generator, network = read_network(str(file))
    noisy = torch.rand(1, 3, 30, 50)
    [found] = session.run(None, {"noisy": noisy.numpy()})
    np.testing.assert_allclose(found, denoise(network, noisy, generator.stride).numpy(), rtol=0, atol=1e-4)
    assert session.get_inputs()[0].shape[0] == 1


def test_training_starts_from_the_weights_of_a_file(tmp_path: Path) -> None:
    file = write_nafnet(tmp_path / "nafnet.pth")
    config = with_values(quick(PAPER_V1), {"generator": TINY, "training/start_from": str(file)})
    weights, expected = starting_weights(config), torch.load(file, weights_only=True)
    assert weights is not None
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


STAGES = ("encoder_blocks=1,1", "decoder_blocks=1,1")
OPTIONS = [
    *("--quick", "--trials", "2", "--trial-epochs", "1", "--epochs", "1"),
    *("--set", "training/steps_per_epoch=2", "--set", "training/batch_size=4", "--set", "discriminator/base_width=4"),
    *("--set", "data/val_crops=2", "--set", "data/val_photos=2", "--set", "data/train_photos=8"),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_here")
def test_a_search_trains_evaluates_and_exports_nafnet(tiny_photos: Path, tmp_path: Path) -> None:
    values = ("generator=NAFNet", *(f"generator/{one}" for one in ("width=8", "middle_blocks=1", *STAGES)))
    chosen = [option for value in values for option in ("--set", value)]
    photos = ["--photos", tiny_photos / "photos", "--evaluate-on", tiny_photos / "evaluation"]
    run = raygan_here("search", "v1", *OPTIONS, *chosen, *photos, "--storage", tmp_path, "--name", "nafnet")
    assert (run.returncode, warnings_of(run)) == (0, "")
    study = tmp_path / "nafnet"
    with (study / "evaluation" / "summary.csv").open() as file:
        assert "raygan" in {row["method"] for row in csv.DictReader(file)}
    config = json.loads((study / "best" / "config.json").read_text())
    assert config["generator"] == TINY.to_json() | {"encoder_blocks": [1, 1], "decoder_blocks": [1, 1]}
    # What a study keeps of it is a file that other programs read.
    assert ModelLoader().load_from_file(study / "best" / "generator.safetensors").architecture.name == "NAFNet"
    exported = raygan_here("export", study / "best", tmp_path / "nafnet.onnx")
    assert exported.returncode == 0, exported.stderr
    pixels = image_of((70, 90, 3), np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "nafnet.onnx"))
    [found] = session.run(None, {"noisy": pixels.transpose(2, 0, 1)[None]})
    denoised = Denoiser.from_pretrained(str(study / "best"))(pixels)
    np.testing.assert_allclose(found[0].transpose(1, 2, 0), denoised, rtol=0, atol=1e-4)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fine_tuning_starts_from_a_file_and_keeps_its_network(tiny_photos: Path, tmp_path: Path) -> None:
    file = write_nafnet(tmp_path / "nafnet.pth")
    pairs = tmp_path / "pairs"
    for part in ("noisy", "clean"):
        (pairs / part).mkdir(parents=True)
        for index in range(6):
            Image.fromarray(dead_leaves(96, int(part == "noisy"), index)).save(pairs / part / f"{index}.png")
    start = ["--set", f"training/start_from={file}", "--pairs", pairs, "--storage", tmp_path, "--name", "tuned"]
    photos = ["--photos", tiny_photos / "photos", "--evaluate-on", tiny_photos / "evaluation"]
    run = run_search(*OPTIONS, *start, *photos, file="finetune")
    assert (run.returncode, warnings_of(run)) == (0, "")
    _, config = load_generator(Folder(tmp_path / "tuned" / "best"))
    assert config.generator == TINY
    with (tmp_path / "tuned" / "evaluation" / "summary.csv").open() as opened:
        assert {"raygan", "start"} <= {row["method"] for row in csv.DictReader(opened)}
    # The study has all that its denoiser needs.
    file.unlink()
    image = image_of((40, 50, 3), np.float32)
    assert Denoiser.from_pretrained(str(tmp_path / "tuned" / "best"))(image).shape == image.shape
