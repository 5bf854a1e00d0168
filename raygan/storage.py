"""A folder on this machine or in a bucket: the few file operations that studies need, through pyarrow."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePath

from pyarrow import fs

from raygan.errors import InputError, redacted

logger = logging.getLogger(__name__)


class StorageError(InputError):
    """A folder that cannot be written to."""


class DamagedError(InputError):
    """A kept file is empty, torn or garbled."""


@contextlib.contextmanager
def reading(folder: object, name: str, remedy: str) -> Iterator[None]:
    """Tell what goes wrong while a kept file is parsed as a `DamagedError`, with what to do about it.

    Without a name: one of several files in the folder, or folders.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        cause = f"{type(error).__name__}: {error}".rstrip(": ")
        file = folder.address(name) if name and isinstance(folder, Folder) else f"a file in {folder}"
        raise DamagedError(f"{file} is damaged ({cause}): {remedy}") from error


class Folder:
    """A local path, or an `s3://` or `gs://` prefix; names are relative to it, parted by slashes."""

    def __init__(self, location: str | Path) -> None:
        text = os.fspath(location)
        if "://" in text:
            if redacted(text) != text:
                raise StorageError(
                    f"{redacted(text)} has keys in it, which would be written into files: set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY (or GOOGLE_APPLICATION_CREDENTIALS) instead"
                )
            try:
                self.filesystem, path = fs.FileSystem.from_uri(text)
            except ValueError as error:
                raise StorageError(f"{text} is no s3:// or gs:// address: {error}") from error
            address, options = without_options(text)
            self.location = address.rstrip("/") + options
        else:
            try:
                path = str(Path(text).expanduser().resolve())
            except (RuntimeError, ValueError, OSError) as error:
                raise StorageError(f"{text!r} is no path: {error}") from error
            self.filesystem, self.location = fs.LocalFileSystem(), path
        self.path = path.rstrip("/") or "/"

    def __str__(self) -> str:
        return self.location

    def address(self, name: str) -> str:
        """The path or address of `name` inside this folder."""
        address, options = without_options(self.location)
        return f"{address}/{name}{options}" if address != "/" else f"/{name}"

    def child(self, name: str) -> Folder:
        """The folder `name` inside this one, which need not exist."""
        return Folder(self.address(name))

    @property
    def is_local(self) -> bool:
        """Whether it lies on a local (or mounted) file system."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def free_space(self) -> int | None:
        """Bytes that are free on the disk of a local folder, which need not exist; None for a bucket."""
        if not self.is_local:
            return None
        path = Path(self.path)
        return shutil.disk_usage(next(one for one in (path, *path.parents) if one.exists())).free

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of that name (of none: the folder itself)."""
        info = self.filesystem.get_file_info(self._full(name))
        return bool(info.type != fs.FileType.NotFound)

    def files(self) -> list[str]:
        """The names of all files inside, at any depth, sorted; none where the folder does not exist.

        Links are followed, but a folder that several names lead to is listed once. A local name that is not UTF-8, and
        a folder that cannot be read, is left out with a warning.
        """
        if self.is_local:
            return sorted(self._local_files())
        selector = fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        prefix = len(self.path.rstrip("/")) + 1
        return sorted(info.path[prefix:] for info in infos if info.type == fs.FileType.File)

    def _local_files(self) -> Iterator[str]:
        seen: set[tuple[int, int] | None] = {None}
        foreign: list[str] = []
        for parent, folders, names in os.walk(self.path, followlinks=True, onerror=_warn_unless_missing):
            folders.sort()
            if (here := _identity(parent)) in seen:
                # A link led back to it.
                folders.clear()
                names.clear()
            seen.add(here)
            for path in sorted(os.path.join(parent, name) for name in names):
                if _identity(path) is None:
                    continue
                if path.encode(errors="replace").decode() == path:
                    yield os.path.relpath(path, self.path)
                else:
                    foreign.append(ascii(path))
        if foreign:
            logger.warning("left out %d files whose names are not UTF-8: %s", len(foreign), ", ".join(foreign[:5]))

    def read(self, name: str) -> bytes:
        """A file's content; raises `FileNotFoundError` where there is none."""
        with self.filesystem.open_input_file(self._full(name)) as file:
            content: bytes = file.readall()
        return content

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file, and the folders it needs; readers see the old content or the new, never a part.

        So do those after a crash of the machine. Where the disk is full, nothing is left.
        """
        target = self._full(name)
        data = content.encode() if isinstance(content, str) else content
        self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        if not self.is_local:
            # Object stores show an object only once it is complete.
            with self.filesystem.open_output_stream(target) as file:
                file.write(data)
            return
        # A short name, since the file's own may have the greatest length there is.
        partial = Path(target).with_name(f"{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def require_writable(self) -> None:
        """Make the folder if need be; raises `StorageError` where nothing can be written there."""
        name = f".{uuid.uuid4().hex}"
        try:
            self.write(name, b"")
            self.delete(name)
        except OSError as error:
            raise StorageError(f"nothing can be written in {self}: {error}; give another place") from error

    def append(self, name: str, content: str) -> None:
        """Add to the end of a file that is there; only where the folder `is_local`: objects in a bucket cannot grow.

        A process killed meanwhile may leave a part of the content.
        """
        with open(self._full(name), "ab") as file:
            file.write(content.encode())

    def delete(self, name: str) -> None:
        """Remove a file."""
        self.filesystem.delete_file(self._full(name))

    def clear(self) -> None:
        """Remove the folder and all that is in it, if it is there."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def _full(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path


def split_file(file: str) -> tuple[Folder, str]:
    """The folder and the name of a file, given by its path or its s3:// or gs:// address."""
    address, options = without_options(file)
    name = PurePath(address).name
    return Folder(f"{address.removesuffix(name) or '.'}{options}"), name


def without_options(location: str) -> tuple[str, str]:
    """An address and the options at its end, such as ?region=…, which only buckets have."""
    address, mark, options = location.partition("?") if "://" in location else (location, "", "")
    return address, mark + options


def _identity(path: str) -> tuple[int, int] | None:
    """What a name leads to, or the link itself where that leads nowhere; None: neither a file nor a folder."""
    try:
        found = os.stat(path)
    except OSError:
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            return found.st_dev, found.st_ino
        return None
    kept = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return (found.st_dev, found.st_ino) if kept else None


def _warn_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        logger.warning("cannot list %s: %s", error.filename, error)
