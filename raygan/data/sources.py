"""Where clean photos, and pairs of noisy and clean ones, come from."""

from __future__ import annotations

import csv
import io
import logging
import mimetypes
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Self

from raygan.config.kinds import PairSource, PhotoSource
from raygan.config.section import require
from raygan.data.download import BSD300, COCO, cache_folder, fetch
from raygan.data.samples import EVALUATION_PHOTOS, sample_photos_folder
from raygan.errors import InputError
from raygan.storage import Folder, split_file, without_options

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
"""Suffixes of the image files that are read, everywhere."""
RESULTS = ("study.json", "per_image.csv")
"""Files that mark a folder as a result of RayGAN."""
NAMED = ("coco", "bsd300", "samples")
"""Sources that are named on the command line; every other text is a folder or prefix."""

logger = logging.getLogger(__name__)


class PhotosError(InputError):
    """A source of photos is missing or holds too few usable ones."""


@dataclass(frozen=True, kw_only=True)
class Coco(PhotoSource):
    """COCO's 5,000 validation photos of 2017, downloaded; the paper's 1,000 + 100 are drawn from them."""

    def find(self) -> tuple[Folder, list[str]]:
        """See `PhotoSource.find`."""
        return _images_in(fetch(COCO, cache_folder()))


@dataclass(frozen=True, kw_only=True)
class Bsd300(PhotoSource):
    """BSD300, downloaded: 200 training and 100 test photos."""

    def find(self) -> tuple[Folder, list[str]]:
        """See `PhotoSource.find`."""
        return _images_in(fetch(BSD300, cache_folder()))


@dataclass(frozen=True, kw_only=True)
class Samples(PhotoSource):
    """The sample set: generated images to train on, and photos that scikit-image ships to validate and evaluate on."""

    def find(self) -> tuple[Folder, list[str]]:
        """See `PhotoSource.find`: the evaluation photos."""
        return Folder(sample_photos_folder(EVALUATION_PHOTOS)), list(EVALUATION_PHOTOS)


@dataclass(frozen=True, kw_only=True)
class PhotoFolder(PhotoSource):
    """A folder or an s3:// or gs:// prefix."""

    location: str
    """Path or prefix."""

    def _check(self) -> None:
        require("location not empty", bool(self.location.strip()), location=self.location)

    @property
    def key(self) -> str:
        """See `Kind.key`: the location."""
        return self.location

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """See `Kind.parse`: every text that is not the name of a source is a folder or prefix."""
        return None if text.lower() in NAMED else cls(location=text)

    def find(self) -> tuple[Folder, list[str]]:
        """See `PhotoSource.find`."""
        return _images_in(self.location)


@dataclass(frozen=True, kw_only=True)
class PairFolder(PairSource):
    """A folder or prefix with noisy/ and clean/, or a CSV file that lists pairs.

    Files are paired by their names without the suffix. Several noisy shots of clean/NAME.png can be in noisy/NAME/. The
    CSV file has a header and the columns noisy and clean, with paths relative to its folder.
    """

    location: str
    """Path or prefix."""

    def _check(self) -> None:
        require("location not empty", bool(self.location.strip()), location=self.location)

    @property
    def key(self) -> str:
        """See `Kind.key`: the location."""
        return self.location

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """See `Kind.parse`: every text is a folder, a prefix or a file."""
        return cls(location=text)

    def find(self) -> tuple[Folder, list[tuple[str, str]]]:
        """See `PairSource.find`."""
        if without_options(self.location)[0].lower().endswith(".csv"):
            return _listed_pairs(*split_file(self.location))
        folder = Folder(self.location)
        noisy, clean = (_by_stem(folder, part) for part in ("noisy", "clean"))
        partners = {stem: stem if stem in clean else stem.rpartition("/")[0] for stem in noisy}
        if alone := sorted(noisy[stem] for stem, partner in partners.items() if partner not in clean):
            logger.warning("left out %d files of %s without a clean partner: %s", len(alone), folder, _some(alone))
        if unused := sorted(set(clean) - set(partners.values())):
            logger.warning("left out %d clean files of %s without a noisy one: %s", len(unused), folder, _some(unused))
        pairs = [(noisy[stem], clean[partner]) for stem, partner in partners.items() if partner in clean]
        if not pairs:
            raise PhotosError(
                f"{folder} holds no pairs: it needs the folders noisy and clean, with files of the same names"
            )
        return folder, pairs


def image_names(folder: Folder) -> list[str]:
    """The names of the image files in a folder, sorted; warns of other formats and of earlier results, left out."""
    files = folder.files()
    results = tuple(name.removesuffix(mark) for name in files for mark in RESULTS if name.endswith(f"/{mark}"))
    if results:
        files = [name for name in files if not name.startswith(results)]
        logger.warning("left out earlier results in %s: %s", folder, ", ".join(sorted(set(results))))
    others = [name for name in files if not name.lower().endswith(SUFFIXES) and _is_image(name)]
    if others:
        logger.warning("left out %d images that are not of %s: %s", len(others), ", ".join(SUFFIXES), _some(others))
    return [name for name in files if name.lower().endswith(SUFFIXES)]


def _listed_pairs(folder: Folder, name: str) -> tuple[Folder, list[tuple[str, str]]]:
    file = folder.address(name)
    try:
        rows = csv.DictReader(io.StringIO(folder.read(name).decode("utf-8-sig")))
        pairs = [(row["noisy"], row["clean"]) for row in rows]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        cause = f"{type(error).__name__}: {error}"
        raise PhotosError(f"{file} cannot be read as a CSV file with the columns noisy and clean ({cause})") from error
    if not pairs or not all(noisy and clean for noisy, clean in pairs):
        raise PhotosError(f"{file} needs a noisy and a clean file in each row, and at least one row")
    if whole := [name for pair in pairs for name in pair if "://" in name or PurePath(name).is_absolute()]:
        raise PhotosError(f"{file} has paths that are not relative to its folder: {_some(whole)}")
    if len({noisy for noisy, _ in pairs}) < len(pairs):
        raise PhotosError(f"{file} lists a noisy file twice")
    return folder, pairs


def _by_stem(folder: Folder, part: str) -> dict[str, str]:
    """The files in one part of a folder of pairs, by their names without suffix."""
    found = dict[str, str]()
    for name in image_names(folder.child(part)):
        other = found.setdefault(name.rpartition(".")[0], f"{part}/{name}")
        if other != f"{part}/{name}":
            raise PhotosError(f"{folder} has both {other} and {part}/{name}: files are paired by name without suffix")
    return found


def _some(names: list[str]) -> str:
    return ", ".join([*names[:5], *(["…"] if len(names) > 5 else [])])


def _is_image(name: str) -> bool:
    return (mimetypes.guess_type(name)[0] or "").startswith("image/")


def _images_in(location: str | Path) -> tuple[Folder, list[str]]:
    folder = Folder(location)
    names = image_names(folder)
    if not names:
        state = "does not exist" if not folder.exists() else "holds no image files"
        if folder.is_local and Path(folder.path).is_file():
            state = "is a file"
        raise PhotosError(f"{folder} {state}; give a folder or an s3:// or gs:// prefix of {', '.join(SUFFIXES)} files")
    return folder, names
