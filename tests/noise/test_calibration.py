"""The noise of a given camera model."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import raygan, raygan_here
from PIL import Image

from raygan.data.samples import dead_leaves
from raygan.noise import Camera
from raygan.noise.calibration import (
    DARKTABLE_SHARE as SHARE,
)
from raygan.noise.calibration import (
    NoiseCalibrationError,
    NoiseProfile,
    darktable_profile,
    profile_of_frames,
    read_frames,
)
from raygan.noise.camera import Draw, demosaicked


def measured_by_darktable(green: torch.Tensor) -> float:
    """The variance of green, (H, W), as darktable's tools/noise/noiseprofile.c computes it."""
    low = (green[:, 0::2] + green[:, 1::2]) / 2
    detail = green[:, 1::2] - low
    diagonal = detail[1::2] - (detail[0::2] + detail[1::2]) / 2
    return float(diagonal.abs().median() / 0.6745) ** 2


@pytest.mark.parametrize("level", [0.2, 0.8])
def test_raw_values_have_more_noise_than_darktable_measures(level: float) -> None:
    variance = 1e-4 * level + 1e-6
    noise = torch.randn(1, 1, 512, 512, generator=torch.Generator().manual_seed(0))
    green = demosaicked(level + math.sqrt(variance) * noise, torch.tensor([True]))[0, 1, 4:-4, 4:-4]
    assert measured_by_darktable(green) / SHARE == pytest.approx(variance, rel=0.05)


@pytest.fixture
def profiles(tmp_path: Path) -> str:
    """A file in darktable's format, made for the test."""
    measured = [
        {"name": "x", "iso": iso, "a": [9.0, iso * 3e-8 * SHARE, 9.0], "b": [9.0, iso**2 * 2e-12 * SHARE, 9.0]}
        for iso in (100, 400, 1600)
    ]
    measured.insert(0, {"name": "x", "iso": 100, "skip": True, "a": [9.0, 9.0, 9.0], "b": [9.0, 9.0, 9.0]})
    makers = [{"maker": "Maker", "models": [{"comment": "", "model": "One II", "profiles": measured}]}]
    file = tmp_path / "noiseprofiles.json"
    file.write_text(json.dumps({"version": 0, "noiseprofiles": makers}))
    return str(file)


@pytest.mark.parametrize("iso", [100, 700, 6400])
def test_a_profile_of_darktable_is_scaled_to_the_iso(profiles: str, iso: int) -> None:
    profile = darktable_profile("maker one ii", iso, profiles)
    assert (profile.shot, profile.read) == pytest.approx((iso * 3e-8, iso**2 * 2e-12))
    assert darktable_profile("One II", iso, profiles) == profile
    camera = profile.camera()
    assert (camera.shot, camera.read) == pytest.approx((3e-6, 2e-8))
    # The model adds that variance at this ISO.
    shot, read = camera._noise_levels(torch.tensor([profile.stops]), Draw([torch.Generator()], torch.device("cpu")))
    assert (shot.item(), read.item()) == pytest.approx((profile.shot, profile.read), rel=1e-4)


def test_a_camera_that_is_not_there_is_refused(profiles: str, tmp_path: Path) -> None:
    with pytest.raises(NoiseCalibrationError, match="has no camera 'one'; similar ones: Maker One II"):
        darktable_profile("one", 100, profiles)
    with pytest.raises(NoiseCalibrationError, match="give maker and model"):
        darktable_profile("other", 100, profiles)
    with pytest.raises(NoiseCalibrationError, match="--iso must be from 100"):
        darktable_profile("one ii", 0, profiles)
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(NoiseCalibrationError, match="is not a file of darktable's noise profiles"):
        darktable_profile("one", 100, str(tmp_path / "bad.json"))
    with pytest.raises(NoiseCalibrationError, match="missing was not found"):
        darktable_profile("one", 100, str(tmp_path / "missing"))


def frames(shot: float, read: float) -> list[np.ndarray]:
    """Raw frames with a gradient of light, 16 bits, black at 512."""
    random = np.random.default_rng(0)
    light = np.linspace(0.02, 0.8, 512)[None, :] * np.linspace(0.3, 1, 256)[:, None]
    values = [random.normal(light, np.sqrt(shot * light + read)) for _ in range(2)]
    return [(one * (65535 - 512) + 512).round().clip(0, 65535).astype(np.uint16) for one in values]


@pytest.mark.parametrize(("shot", "read"), [(1e-3, 2e-5), (2e-3, 1e-4)])
def test_frames_of_a_grey_card_give_the_variance_that_they_have(shot: float, read: float) -> None:
    profile = profile_of_frames(frames(shot, read), 1600, 512, 65535)
    assert profile.shot == pytest.approx(shot, rel=0.05)
    assert profile.read == pytest.approx(read, rel=0.2)
    assert profile.iso == 1600


def test_a_white_that_no_value_comes_near_is_told(caplog: pytest.LogCaptureFixture) -> None:
    values = [frame // 4 for frame in frames(1e-3, 1e-4)]
    profile_of_frames(values, 1600, 128, 16383)
    assert caplog.text == ""
    profile_of_frames(values, 1600, 128, 65535)
    assert "less than half of white, 65535: if they have 12 or 14 bits, give --white 4095 or 16383" in caplog.text


def test_frames_that_tell_nothing_are_refused() -> None:
    usable = frames(1e-3, 1e-5)
    with pytest.raises(NoiseCalibrationError, match="have 0 usable blocks"):
        profile_of_frames(usable, 1600, 65534, 65535)
    with pytest.raises(NoiseCalibrationError, match="--black must be below --white"):
        profile_of_frames(usable, 1600, 512, 512)
    with pytest.raises(NoiseCalibrationError, match="no noise at all"):
        profile_of_frames([np.full((256, 256), 30000, np.uint16)], 1600, 512, 65535)
    with pytest.raises(NoiseCalibrationError, match="does not grow with brightness"):
        profile_of_frames([65535 - frame for frame in usable], 1600, 0, 65535)
    with pytest.raises(NoiseCalibrationError, match="--iso must be from 100 to 102,400, but it is 50"):
        profile_of_frames(usable, 50, 512, 65535)


def test_the_command_writes_a_picture_and_the_settings(profiles: str, tmp_path: Path) -> None:
    Image.fromarray(dead_leaves(96, 0, 0)).save(tmp_path / "photo.png")
    run = raygan(
        "noise",
        tmp_path / "photo.png",
        tmp_path / "out.png",
        "--camera",
        "One II",
        "--iso",
        800,
        "--profiles",
        profiles,
    )
    assert run.returncode == 0, run.stderr
    assert "2.4e-05 x + 1.28e-06" in run.stdout
    options = {"shot": "3e-06", "read": "2e-08", "low": "0", "high": "3"}
    assert " ".join(f"--set noises/camera/{name}={value}" for name, value in options.items()) in run.stdout
    with Image.open(tmp_path / "out.png") as picture:
        pixels = np.asarray(picture)
    assert np.array_equal(pixels[:96, :96], dead_leaves(96, 0, 0))
    assert not np.array_equal(pixels[:96, 96:192], pixels[:96, :96])
    (tmp_path / "frames").mkdir()
    for index, frame in enumerate(frames(1e-3, 1e-6)):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{index}.tif")
    assert len(read_frames(str(tmp_path / "frames"))) == 2
    options = ["--flat-frames", tmp_path / "frames", "--black", 512, "--iso", 1600]
    run = raygan_here("noise", tmp_path / "photo.png", tmp_path / "out.png", *options)
    assert run.returncode == 0, run.stderr
    measured = re.search(r"at ISO 1600: (\S+) x", run.stdout)
    assert measured is not None
    assert float(measured[1]) == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --camera MODEL or --flat-frames FOLDER"),
        (["--camera", "x", "--flat-frames", "y"], "give --camera MODEL or --flat-frames FOLDER"),
        (["--flat-frames", "missing"], "missing has no .tif, .tiff or .png files"),
    ],
)
def test_bad_options_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    Image.fromarray(dead_leaves(96, 0, 0)).save(tmp_path / "photo.png")
    run = raygan_here("noise", tmp_path / "photo.png", tmp_path / "out.png", *options)
    assert (run.returncode, message in run.stderr) == (2, True), run.stderr
    assert not (tmp_path / "out.png").exists()


def test_a_cameras_own_noise_levels() -> None:
    assert NoiseProfile(2e-4, 4e-6, 200).camera() == Camera(shot=1e-4, read=1e-6)
