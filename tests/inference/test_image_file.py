import io
import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from denoisers import save_denoiser, smooth_of
from numpy.typing import NDArray
from PIL import Image, ImageCms

from raygan.inference.denoiser import Denoiser, ImageError
from raygan.inference.exif import tiff_with
from raygan.inference.image_file import ImageWarning, denoise_file

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, ARTIST, EXIF, GPS, SPEED = 0x0112, 0x013B, 0x8769, 0x8825, 0x8827
INTEROPERABILITY, IPTC = 0xA005, 33723


@pytest.fixture
def same(tmp_path: Path) -> Denoiser:
    """Returns what it is given."""
    return Denoiser.from_pretrained(save_denoiser(tmp_path / "same", identity=True), tile=128)


def as_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_channels_are_kept(same: Denoiser, mode: str) -> None:
    pixels = smooth_of((140, 200, len(mode)), np.uint8)
    image = Image.fromarray(pixels.squeeze(), mode)
    denoised = opened(denoise_file(same, as_file(image, "PNG"), ".png"))
    assert denoised.mode == mode
    np.testing.assert_array_equal(np.asarray(denoised), pixels.squeeze())


@pytest.mark.parametrize("shape", [(150, 140), (150, 140, 3), (150, 140, 4)])
def test_sixteen_bits_are_kept(same: Denoiser, shape: tuple[int, ...]) -> None:
    pixels = smooth_of(shape, np.uint16)
    file = io.BytesIO()
    alpha = {"extrasamples": ["unassalpha"]} if shape[2:] == (4,) else {}
    tifffile.imwrite(file, pixels, photometric="rgb" if len(shape) == 3 else "minisblack", **alpha)
    denoised = tifffile.imread(io.BytesIO(denoise_file(same, file.getvalue(), ".tif")))
    np.testing.assert_array_equal(denoised, pixels)
    # A PNG's sixteen bits, read by its own library.
    again = denoise_file(same, denoise_file(same, file.getvalue(), ".png"), ".tiff")
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(again)), pixels)


def test_palettes_are_expanded(same: Denoiser) -> None:
    image = Image.fromarray(smooth_of((40, 50, 3), np.uint8)).quantize(16)
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
    exif.get_ifd(EXIF)[SPEED] = 800
    exif.get_ifd(GPS)[1] = "N"
    image = Image.new("RGB", (60, 40))
    image.paste((255, 255, 255), (0, 0, 30, 40))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" xmp:Rating="5"/></x:xmpmeta>'
    first = as_file(image, "JPEG", exif=exif, icc_profile=PROFILE, quality=95, xmp=xmp)
    # Out of each format, and into each.
    contents = [first, *(denoise_file(same, first, suffix) for suffix in (".png", ".webp", ".tif"))]
    for content, suffix in itertools.product(contents, (".jpg", ".png", ".webp", ".tif")):
        denoised = opened(denoise_file(same, content, suffix))
        # A quarter turn clockwise: the left half is now the upper half.
        assert denoised.size == (40, 60)
        assert np.asarray(denoised)[5].min() > 200
        assert np.asarray(denoised)[-5].max() < 50
        assert denoised.info["icc_profile"] == PROFILE
        kept = denoised.getexif()
        assert kept.get(ORIENTATION, 1) == 1
        packet = denoised.info.get("xmp") or denoised.info["XML:com.adobe.xmp"].encode()
        assert packet == xmp.replace(b'"6"', b'"1"')
        assert (kept[ARTIST], kept.get_ifd(EXIF)[SPEED], kept.get_ifd(GPS)[1]) == ("Somebody", 800, "N")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_exif_entries_are_kept_as_they_are(same: Denoiser, encoding: str) -> None:
    text = "Jörg Müller © 2026".encode(encoding)
    exif = Image.Exif()
    # Pillow writes ASCII alone.
    exif[ARTIST] = "x" * len(text)
    # Of a camera that is set to Adobe RGB, this tells it.
    exif.get_ifd(EXIF)[INTEROPERABILITY] = {1: "R03"}
    content = as_file(Image.new("RGB", (60, 40)), "JPEG", exif=exif).replace(b"x" * len(text), text)
    for suffix in (".jpg", ".png", ".tif"):
        kept = opened(denoise_file(same, content, suffix)).getexif()
        assert kept[ARTIST].encode("latin-1") == text
        assert kept.get_ifd(INTEROPERABILITY)[1] == "R03"


def test_an_exif_entry_that_cannot_be_written_is_left_out_and_said(same: Denoiser) -> None:
    # An artist who is a fraction.
    entry = struct.pack("<HHLL", ARTIST, 5, 1, 26)
    exif = b"Exif\0\0II*\0" + struct.pack("<LH", 8, 1) + entry + struct.pack("<LLL", 0, 1, 2)
    content = as_file(Image.new("RGB", (60, 40)), "JPEG", exif=exif)
    with pytest.warns(ImageWarning, match="its EXIF entries cannot be kept and are left out"):
        assert ARTIST not in opened(denoise_file(same, content, ".jpg")).getexif()


def test_press_captions_of_a_tiff_file_are_left_out_and_said(same: Denoiser) -> None:
    captions = (b"\x1c\x02\x78\0\x05hello\0\0" * 2)[:20]
    tags = [(IPTC, "I", 5, struct.unpack("<5I", captions), True), (ARTIST, "s", 0, "Somebody", True)]
    content = tiff_of(smooth_of((40, 50, 3), np.uint8), extratags=tags)
    with pytest.warns(ImageWarning, match="its IPTC entries are left out"):
        denoised = denoise_file(same, content, ".tif")
    kept = opened(denoised).getexif()
    assert (kept[ARTIST], IPTC in kept) == ("Somebody", False)


def test_press_captions_of_a_jpeg_file_are_kept_in_jpeg_alone(same: Denoiser) -> None:
    jpeg = as_file(Image.fromarray(smooth_of((40, 50, 3), np.uint8)), "JPEG")
    captions = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\x0a" + b"\x1c\x02\x78\0\x05hello"
    content = jpeg[:2] + b"\xff\xed" + struct.pack(">H", 2 + len(captions)) + captions + jpeg[2:]
    assert b"hello" in denoise_file(same, content, ".jpg")
    for suffix in (".png", ".webp", ".tif"):
        with pytest.warns(ImageWarning, match=f"its IPTC entries are left out of a {suffix} file"):
            assert b"hello" not in denoise_file(same, content, suffix)


@pytest.mark.parametrize("order", ["<", ">"])
def test_bigtiff_files_are_read(same: Denoiser, order: Any) -> None:
    pixels = smooth_of((40, 50, 3), np.uint8)
    content = tiff_of(pixels, bigtiff=True, byteorder=order, extratags=[(ARTIST, "s", 0, "Somebody", True)])
    if order == "<":
        denoised = denoise_file(same, content, ".tif")
        assert opened(denoised).getexif()[ARTIST] == "Somebody"
    else:
        with pytest.warns(ImageWarning, match="its EXIF entries cannot be kept"):
            denoised = denoise_file(same, content, ".tif")
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(denoised)), pixels)


def test_exif_entries_are_kept_in_bigtiff_files() -> None:
    pixels = smooth_of((40, 50, 3), np.uint8)
    exif = Image.Exif()
    exif[ARTIST] = "Somebody"
    content = tiff_with(exif, pyvips.Image.new_from_array(pixels).write_to_buffer(".tif", bigtiff=True))
    assert opened(content).getexif()[ARTIST] == "Somebody"
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(content)), pixels)


def test_odd_metadata_of_a_tiff_file_does_not_matter(same: Denoiser) -> None:
    # tifffile writes the description twice, of which libtiff warns.
    pixels = smooth_of((40, 50, 3), np.uint8)
    content = tiff_of(pixels, description="Slide 7", extratags=[(270, "s", 0, "again", True)])
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(denoise_file(same, content, ".tif"))), pixels)


def test_what_a_format_cannot_hold_is_said_or_refused(same: Denoiser) -> None:
    with pytest.raises(ImageError, match=r"20000x8 pixels, but .webp files have at most 16383 a side"):
        denoise_file(same, as_file(Image.new("RGB", (20_000, 8)), "PNG"), ".webp")
    png = as_file(Image.new("L", (20, 20)), "PNG")
    gamma = b"gAMA" + struct.pack(">I", 100_000)
    linear = png[:33] + struct.pack(">I", 4) + gamma + struct.pack(">I", zlib.crc32(gamma)) + png[33:]
    with pytest.warns(ImageWarning, match="its gamma, 1, is left out"):
        denoise_file(same, linear, ".png")
    grey = as_file(Image.new("L", (20, 20)), "JPEG", icc_profile=PROFILE)
    with pytest.warns(ImageWarning, match="its colour profile is left out"):
        denoise_file(same, grey, ".webp")
    gain = as_file(Image.new("L", (10, 10)), "JPEG", xmp=b'<rdf:Description hdrgm:Version="1.0"/>')
    with pytest.warns(ImageWarning, match="what is behind the picture, an HDR gain map or a video, is left out"):
        denoise_file(same, as_file(Image.new("RGB", (20, 20)), "JPEG") + gain, ".jpg")
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + b" " * 70_000 + b"</x:xmpmeta>"
    with pytest.warns(ImageWarning, match="its XMP entries are left out"):
        denoise_file(same, as_file(Image.new("RGB", (20, 20)), "WEBP", xmp=xmp), ".jpg")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_keep_their_metadata(same: Denoiser, channels: int) -> None:
    exif = Image.Exif()
    exif[ARTIST] = "Somebody"
    pixels = smooth_of((40, 50, channels) if channels > 1 else (40, 50), np.uint16)
    png = denoise_file(same, tiff_of(pixels, extratags=[(ARTIST, "s", 0, "Somebody", True)]), ".png")
    content = denoise_file(same, png, ".tif")
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(content)), pixels)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        assert file.pages[0].tags[ARTIST].value == "Somebody"  # type: ignore[union-attr]


def test_no_thumbnail_of_the_noisy_picture_is_kept(same: Denoiser) -> None:
    thumbnail = as_file(Image.new("RGB", (16, 16), "red"), "JPEG")
    # The first directory has one entry, the second one the thumbnail's place and size.
    entry = struct.pack("<HHHLL", 1, ORIENTATION, 3, 1, 1)
    second = struct.pack("<HHHLLHHLLL", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(thumbnail), 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<L", 8) + entry + struct.pack("<L", 26) + second + thumbnail
    content = as_file(Image.new("RGB", (60, 40)), "JPEG", exif=exif)
    assert thumbnail in content
    for suffix in (".jpg", ".png", ".tif"):
        assert thumbnail[-40:] not in denoise_file(same, content, suffix)


def test_transparency_that_jpeg_cannot_hold_is_refused(same: Denoiser) -> None:
    pixels = smooth_of((40, 50, 4), np.uint8)
    with pytest.raises(ImageError, match="transparent areas, which JPEG cannot hold: write"):
        denoise_file(same, as_file(Image.fromarray(pixels), "PNG"), ".jpg")
    pixels[..., 3] = 255
    denoised = opened(denoise_file(same, as_file(Image.fromarray(pixels), "PNG"), ".jpg"))
    assert np.abs(np.asarray(denoised).astype(int) - pixels[..., :3]).mean() < 3


def test_depth_that_a_format_cannot_hold_is_said(same: Denoiser) -> None:
    content = tiff_of(smooth_of((40, 50, 3), np.uint16))
    with pytest.warns(ImageWarning, match="its 16 bits become 8, since .jpg files hold no more"):
        denoised = opened(denoise_file(same, content, ".jpg"))
    assert np.abs(np.asarray(denoised).astype(int) - smooth_of((40, 50, 3), np.uint16) // 257).mean() < 3
    # Rounded to the nearest: 0.78 and 254.47.
    for value, rounded in ((200, 1), (65_400, 254)):
        with pytest.warns(ImageWarning, match="its 16 bits become 8"):
            jpeg = denoise_file(same, tiff_of(np.full((40, 50), value, np.uint16)), ".jpg")
        assert np.unique(np.asarray(opened(jpeg))).tolist() == [rounded]


def test_sixteen_bits_of_cmyk_stay_sixteen(same: Denoiser) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, np.full((40, 50, 4), (0, 30_000, 0, 0), np.uint16), photometric="separated")
    assert tifffile.imread(io.BytesIO(denoise_file(same, file.getvalue(), ".tif"))).dtype == np.uint16


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_strong_noise_that_is_left_is_told(same: Denoiser, mode: str) -> None:
    clean = Image.fromarray(smooth_of((140, 200, 3), np.uint8)).convert(mode)
    drawn = np.random.default_rng(0).normal(0, 25, np.asarray(clean).shape)
    noisy = Image.fromarray((np.asarray(clean) + drawn).clip(0, 255).astype(np.uint8))
    with pytest.warns(ImageWarning, match=r"strong noise is left \(standard deviation about \d+ of 255, \d+ before\)"):
        denoise_file(same, as_file(noisy, "PNG"), ".png")
    # No word about noise that is removed, or left on purpose.
    for strength in (1.0, 0.2):
        denoise_file(Denoiser.from_pretrained(strength=strength), as_file(noisy, "PNG"), ".png")


def tiff_of(pixels: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    is_colour = pixels.ndim == 3 and pixels.shape[2] > 2
    if pixels.ndim == 3 and not is_colour:
        options |= {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(file, pixels, photometric="rgb" if is_colour else "minisblack", **options)
    return file.getvalue()


def huge_png() -> bytes:
    """A small file whose header claims two gigapixels."""
    content = bytearray(as_file(Image.new("L", (10, 10)), "PNG"))
    content[16:24] = struct.pack(">II", 50_000, 40_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image at all", "cannot be read as an image of .jpg, "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as an image of .jpg, "),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "cannot be read as an image of .jpg, "),
        (as_file(Image.new("RGB", (20, 20)), "BMP"), "cannot be read as an image of .jpg, "),
        (
            as_file(
                Image.new("RGB", (20, 20)), "PNG", save_all=True, append_images=[Image.new("RGB", (20, 20), "red")]
            ),
            "is animated",
        ),
        (
            tiff_of(smooth_of((20, 20, 5), np.uint8), extrasamples=[0, 0]),
            "at most 4 channels, alpha included, but .* has 5",
        ),
        (tiff_of(smooth_of((256, 256, 3), np.uint8), tile=(64, 64))[:90_000], "its end is missing"),
        (tiff_of(smooth_of((256, 256, 3), np.uint8), rowsperstrip=16)[:90_000], "its end is missing"),
        (tiff_of(smooth_of((20, 20, 3), np.uint8), subfiletype=1), "its first image is a preview: .* develop it"),
        (huge_png(), "it has 50000x40000 pixels, but at most 200 megapixels are read"),
        (truncated(as_file(Image.fromarray(smooth_of((300, 300, 3), np.uint8)), "PNG")), "cannot be read or written"),
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
