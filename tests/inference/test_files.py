import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import raygan
from denoisers import image_of, save_denoiser
from numpy.typing import NDArray
from PIL import Image, ImageCms

from raygan.inference.denoiser import Denoiser, ImageError
from raygan.inference.files import denoise_file, denoise_path
from raygan.study.storage import Folder

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, ARTIST = 0x0112, 0x013B


@pytest.fixture
def checkpoint(tmp_path: Path) -> Folder:
    return save_denoiser(tmp_path / "same", identity=True)


@pytest.fixture
def same(checkpoint: Folder) -> Denoiser:
    return Denoiser(checkpoint, tile=128)


def as_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_channels_are_kept(same: Denoiser, mode: str) -> None:
    pixels = image_of((140, 200, len(mode)), np.uint8)
    image = Image.fromarray(pixels.squeeze(), mode)
    denoised = opened(denoise_file(same, as_file(image, "PNG"), ".png"))
    assert denoised.mode == mode
    np.testing.assert_array_equal(np.asarray(denoised), pixels.squeeze())


@pytest.mark.parametrize("shape", [(150, 140), (150, 140, 3), (150, 140, 4)])
def test_sixteen_bits_are_kept(same: Denoiser, shape: tuple[int, ...]) -> None:
    pixels = image_of(shape, np.uint16)
    file = io.BytesIO()
    alpha = {"extrasamples": ["unassalpha"]} if shape[2:] == (4,) else {}
    tifffile.imwrite(file, pixels, photometric="rgb" if len(shape) == 3 else "minisblack", **alpha)
    denoised = tifffile.imread(io.BytesIO(denoise_file(same, file.getvalue(), ".tif")))
    np.testing.assert_array_equal(denoised, pixels)
    # A PNG's sixteen bits, read by its own library.
    again = denoise_file(same, denoise_file(same, file.getvalue(), ".png"), ".tiff")
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(again)), pixels)


def test_palettes_are_expanded(same: Denoiser) -> None:
    image = Image.fromarray(image_of((40, 50, 3), np.uint8)).quantize(16)
    denoised = opened(denoise_file(same, as_file(image, "PNG"), ".png"))
    np.testing.assert_array_equal(np.asarray(denoised), np.asarray(image.convert("RGB")))


def test_cmyk_is_converted_to_srgb(same: Denoiser) -> None:
    image = Image.new("CMYK", (64, 40), (0, 255, 255, 0))
    red, green, blue = np.asarray(opened(denoise_file(same, as_file(image, "JPEG"), ".png")))[20, 30]
    assert red > 180
    assert max(green, blue) < 80


def test_orientation_is_applied_and_other_metadata_kept(same: Denoiser) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[ARTIST] = 6, "Somebody"
    image = Image.new("RGB", (60, 40))
    image.paste((255, 255, 255), (0, 0, 30, 40))
    content = as_file(image, "JPEG", exif=exif, icc_profile=PROFILE, quality=95)
    for suffix in (".jpg", ".png"):
        denoised = opened(denoise_file(same, content, suffix))
        # A quarter turn clockwise: the left half is now the upper half.
        assert denoised.size == (40, 60)
        assert np.asarray(denoised)[5].min() > 200
        assert np.asarray(denoised)[-5].max() < 50
        assert denoised.info["icc_profile"] == PROFILE
        assert denoised.getexif().get(ORIENTATION, 1) == 1
        assert denoised.getexif()[ARTIST] == "Somebody"


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image at all", "cannot be read or written as an image"),
        (truncated(as_file(Image.fromarray(image_of((300, 300, 3), np.uint8)), "PNG")), "cannot be read or written"),
        (as_file(Image.new("F", (20, 20)), "TIFF"), "of 8 or 16 bits, but this one is of 1 pages, b-w, float"),
        (
            as_file(Image.new("RGB", (20, 20)), "TIFF", save_all=True, append_images=[Image.new("RGB", (20, 20))]),
            "of one page .* but this one is of 2 pages",
        ),
    ],
)
def test_files_that_are_not_images_are_refused(same: Denoiser, content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        denoise_file(same, content, ".png")


def test_a_file_is_denoised_from_the_command_line(checkpoint: Folder, tmp_path: Path) -> None:
    pixels = image_of((70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noisy.png")
    result = raygan("denoise", tmp_path / "noisy.png", tmp_path / "new" / "clean.tif", "--checkpoint", checkpoint)
    assert (result.returncode, result.stderr) == (0, "")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "new" / "clean.tif"), pixels)


def write_folder(folder: Path) -> dict[str, NDArray[np.uint8]]:
    images = {f"{place}{index}.png": image_of((70, 90 + index, 3), np.uint8) for index, place in enumerate(["", "in/"])}
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"broken")
    (folder / "notes.txt").write_text("no image")
    return images


def check_folder(images: dict[str, NDArray[np.uint8]], folder: Path) -> None:
    assert Folder(folder).files() == sorted(images)
    for name, pixels in images.items():
        np.testing.assert_array_equal(np.asarray(Image.open(folder / name)), pixels)


def test_a_folder_is_denoised_and_broken_files_are_reported(checkpoint: Folder, tmp_path: Path) -> None:
    images = write_folder(tmp_path / "noisy")
    result = raygan("denoise", tmp_path / "noisy", tmp_path / "clean", "--checkpoint", checkpoint)
    assert result.returncode == 1
    assert "Skipped:\nbroken.jpg: it cannot be read or written as an image" in result.stderr
    check_folder(images, tmp_path / "clean")


@pytest.mark.usefixtures("ray_here")
def test_a_folder_is_denoised_on_ray(checkpoint: Folder, tmp_path: Path) -> None:
    images = write_folder(tmp_path / "noisy")
    problems = denoise_path(str(tmp_path / "noisy"), str(tmp_path / "clean"), checkpoint.location, on_ray=True)
    assert [problem.partition(":")[0] for problem in problems] == ["broken.jpg"]
    check_folder(images, tmp_path / "clean")


@pytest.mark.usefixtures("ray_here")
def test_the_requested_precision_is_used_locally_and_on_ray(tmp_path: Path) -> None:
    checkpoint = save_denoiser(tmp_path / "own")
    (tmp_path / "noisy").mkdir()
    Image.fromarray(image_of((70, 90, 3), np.uint8)).save(tmp_path / "noisy" / "0.png")
    content = (tmp_path / "noisy" / "0.png").read_bytes()
    exact, rounded = (
        np.asarray(Image.open(io.BytesIO(denoise_file(denoiser, content, ".png")))).astype(float)
        for denoiser in (Denoiser(checkpoint), Denoiser(checkpoint, precision="bfloat16"))
    )
    options = ("--checkpoint", checkpoint, "--precision", "bfloat16")
    assert raygan("denoise", tmp_path / "noisy", tmp_path / "here", *options).returncode == 0
    noisy, on_ray = str(tmp_path / "noisy"), str(tmp_path / "ray")
    assert denoise_path(noisy, on_ray, checkpoint.location, precision="bfloat16", on_ray=True) == []
    for place in ("here", "ray"):
        found = np.asarray(Image.open(tmp_path / place / "0.png"))
        # Not to the last bit: actors have other numbers of threads.
        assert np.abs(found - rounded).mean() < 0.5 * np.abs(found - exact).mean()


@pytest.mark.parametrize(
    ("noisy", "denoised", "message"),
    [
        ("photo.png", "photo.png", "the result would overwrite the input, .*photo.png"),
        ("photo.png", "./photo.png", "the result would overwrite the input"),
        ("photo.png", "photo.gif", "must end in .png, .jpg, .*, but it is '.*photo.gif'"),
        ("photos", "photos/", "the result would overwrite the input"),
        ("empty", "clean", "there are no images in .*empty"),
        ("absent", "clean", "there are no images in .*absent"),
        ("absent.png", "clean.png", "cannot be read, or its result not written: .*absent.png"),
        ("photo.png", "photos/photo.png/clean.png", "its result not written: .*photos/photo.png"),
    ],
)
def test_impossible_requests_are_refused(
    checkpoint: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noisy: str, denoised: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "empty").mkdir()
    for place in ("photo.png", "photos/photo.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / place)
    before = (tmp_path / "photo.png").read_bytes()
    with pytest.raises(ImageError, match=message):
        denoise_path(noisy, denoised, checkpoint.location)
    assert (tmp_path / "photo.png").read_bytes() == before
