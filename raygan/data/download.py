"""Downloads of public data: pinned checksums, resumed where they broke off, with a progress bar."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import filelock
from tqdm import tqdm

from raygan.errors import InputError

TIMEOUT = 60


class DownloadError(InputError):
    """A download failed or does not have the expected checksum."""


@dataclass(frozen=True)
class Asset:
    """One file to download, and what to use once it is here."""

    url: str
    sha256: str
    """The file's SHA-256, or the beginning of it that its publisher pins."""
    contents: str | None = None
    """For an archive: the folder inside it that holds the photos."""


COCO = Asset(
    "http://images.cocodataset.org/zips/val2017.zip",
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    "val2017",
)
"""COCO's 5,000 validation photos of 2017."""
BSD300 = Asset(
    "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/segbench/BSDS300-images.tgz",
    "a5f7d0e49fe135c75518a3543ced24470156fd69305ae77845dff2a5138652b4",
    "BSDS300/images",
)
VGG19 = Asset("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", "dcbb9e9d")
"""torchvision's VGG19."""


def cache_folder() -> Path:
    """Where downloads are kept: `$RAYGAN_CACHE`, or `raygan` in the user's cache folder."""
    if "RAYGAN_CACHE" in os.environ:
        return Path(os.environ["RAYGAN_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "raygan"


def fetch(asset: Asset, cache: Path) -> Path:
    """The asset's file, or its folder of photos, downloaded and unpacked into `cache` unless it is there.

    A download that broke off goes on where it stopped. Raises `DownloadError` when the address cannot be reached
    or the checksum is wrong; a file of a wrong checksum is removed.
    """
    file = cache / asset.url.rpartition("/")[2]
    unpacked = cache / file.name.partition(".")[0]
    # In a cache that may only be read, too.
    if asset.contents is not None and unpacked.is_dir():
        return unpacked / asset.contents
    if asset.contents is None and file.exists():
        return file
    # Another process may want the same.
    with contextlib.ExitStack() as held:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            held.enter_context(filelock.FileLock(cache / f".{file.name}.lock"))
        except OSError as error:
            raise DownloadError(f"cannot write to {cache}: {error}; set RAYGAN_CACHE to another folder") from error
        return _fetched(asset, file, unpacked)


def _fetched(asset: Asset, file: Path, unpacked: Path) -> Path:
    if asset.contents is not None and unpacked.is_dir():
        return unpacked / asset.contents
    if not file.exists():
        _download(asset, file)
    if asset.contents is None:
        return file
    with tempfile.TemporaryDirectory(dir=file.parent, prefix="unpacking-") as scratch:
        content = Path(scratch) / "content"
        if file.suffix == ".zip":
            shutil.unpack_archive(file, content)
        else:
            with tarfile.open(file) as archive:
                # Python 3.11.2, for example Debian 12's, has no filters.
                if hasattr(tarfile, "data_filter"):
                    archive.extraction_filter = tarfile.data_filter
                archive.extractall(content)
        content.rename(unpacked)
    file.unlink()
    return unpacked / asset.contents


def _download(asset: Asset, file: Path) -> None:
    partial = file.with_name(file.name + ".partial")
    try:
        _append(asset.url, partial)
    except (urllib.error.URLError, OSError) as error:
        raise DownloadError(
            f"cannot download {asset.url}: {error}. Run again to go on where it stopped, or give a local copy: "
            "--photos or --evaluate-on FOLDER, --vgg19 FILE, or --quick for the built-in sample photos"
        ) from error
    with partial.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if not digest.startswith(asset.sha256):
        partial.unlink()
        raise DownloadError(
            f"{asset.url} has SHA-256 {digest}, but {asset.sha256} was expected; it was removed: "
            "run again, or get the file elsewhere and name its path"
        )
    partial.rename(file)


def _append(url: str, partial: Path) -> None:
    """Add to `partial` what it still lacks of the file at `url`."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # Nothing is left to send: it is complete.
            return
        raise
    if response.status != 206:
        have = 0
    rest = response.headers["Content-Length"]
    total = have + int(rest) if rest is not None else None
    bar = tqdm.wrapattr(response, "read", total=total, desc=url.rpartition("/")[2], initial=have)
    with response, partial.open("ab" if have else "wb") as file, bar as content:
        shutil.copyfileobj(content, file)
    if total is not None and partial.stat().st_size != total:
        raise urllib.error.ContentTooShortError("the connection was cut", (str(partial), response.headers))
