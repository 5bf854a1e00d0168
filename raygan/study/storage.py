"""A folder on this machine or in a bucket: the few file operations that studies need, through pyarrow."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from pyarrow import fs

from raygan.errors import InputError


class StorageError(InputError):
    """A folder that cannot be written to."""


class Folder:
    """A local path, or an `s3://` or `gs://` prefix; names are relative to it, parted by slashes."""

    def __init__(self, location: str | Path) -> None:
        text = os.fspath(location)
        if "://" in text:
            self.filesystem, path = fs.FileSystem.from_uri(text)
            self.location = text.rstrip("/")
        else:
            self.filesystem, path = fs.LocalFileSystem(), str(Path(text).expanduser().resolve())
            self.location = path
        self.path = path.rstrip("/") or "/"

    def __str__(self) -> str:
        return self.location

    def child(self, name: str) -> Folder:
        """The folder `name` inside this one, which need not exist."""
        # A bucket's location may end in options, such as ?region=…, which stay at its end.
        place, mark, options = self.location.partition("?")
        return Folder(f"{place.rstrip('/')}/{name}{mark}{options}")

    @property
    def is_local(self) -> bool:
        """Whether it lies on a local (or mounted) file system."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of that name (of none: the folder itself)."""
        info = self.filesystem.get_file_info(self._full(name))
        return bool(info.type != fs.FileType.NotFound)

    def files(self) -> list[str]:
        """The names of all files inside, at any depth, sorted; none where the folder does not exist."""
        selector = fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        prefix = len(self.path.rstrip("/")) + 1
        return sorted(info.path[prefix:] for info in infos if info.type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """A file's content; raises `FileNotFoundError` where there is none."""
        with self.filesystem.open_input_file(self._full(name)) as file:
            content: bytes = file.readall()
        return content

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file, and the folders it needs; readers see the old content or the new, never a part."""
        target = self._full(name)
        data = content.encode() if isinstance(content, str) else content
        self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        if not self.is_local:
            # Object stores show an object only once it is complete.
            with self.filesystem.open_output_stream(target) as file:
                file.write(data)
            return
        partial = Path(f"{target}.{uuid.uuid4().hex}.partial")
        partial.write_bytes(data)
        partial.replace(target)

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
