import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raygan.data import sources
from raygan.data.download import BSD300, COCO, VGG19, Asset, DownloadError, cache_folder, fetch

CONTENT = bytes(range(256)) * 8000


class Server:
    """A web server on loopback that can send a range, refuse ranges, or break off."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.break_after: int | None = None
        self.requests: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = server.files.get(self.path.lstrip("/"))
                asked = self.headers.get("Range")
                server.requests.append(asked)
                if content is None:
                    self.send_error(404)
                    return
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start : server.break_after])

            def log_message(self, *_: object) -> None:
                """Keep the test's output clean."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def offer(self, name: str, content: bytes, contents: str | None = None, sha256: str | None = None) -> Asset:
        self.files[name] = content
        address = f"http://127.0.0.1:{self.http.server_port}/{name}"
        return Asset(address, sha256 or hashlib.sha256(content).hexdigest(), contents)


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def test_fetches_once(server: Server, tmp_path: Path) -> None:
    asset = server.offer("file.bin", CONTENT)
    assert fetch(asset, tmp_path / "cache").read_bytes() == CONTENT
    assert fetch(asset, tmp_path / "cache").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_cache_that_may_only_be_read_is_used(server: Server, tmp_path: Path) -> None:
    """A folder is in the lock file's place, since tests may run as root, who may write everywhere."""
    asset = server.offer("file.bin", CONTENT)
    (tmp_path / ".file.bin.lock").mkdir()
    with pytest.raises(DownloadError, match=r"cannot write to .*; set RAYGAN_CACHE"):
        fetch(asset, tmp_path)
    (tmp_path / "file.bin").write_bytes(CONTENT)
    assert fetch(asset, tmp_path) == tmp_path / "file.bin"


def test_two_at_once_download_it_once(server: Server, tmp_path: Path) -> None:
    asset = server.offer("set.zip", zipped(), contents="photos")
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: fetch(asset, tmp_path), range(2)))
    assert folders[0] == folders[1]
    assert folders[0].is_dir()
    assert len(server.requests) == 1


@pytest.mark.parametrize("ranges", [True, False], ids=["server resumes", "server starts over"])
def test_goes_on_where_it_broke_off(server: Server, tmp_path: Path, ranges: bool) -> None:
    asset = server.offer("file.bin", CONTENT)
    server.break_after = 1_500_000
    with pytest.raises(DownloadError, match=r"Run again to go on where it stopped"):
        fetch(asset, tmp_path)
    assert not (tmp_path / "file.bin").exists()
    server.break_after, server.ranges = None, ranges
    assert fetch(asset, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1500000-"]


def test_a_complete_partial_file_needs_nothing_more(server: Server, tmp_path: Path) -> None:
    asset = server.offer("file.bin", CONTENT)
    (tmp_path / "file.bin.partial").write_bytes(CONTENT)
    assert fetch(asset, tmp_path).read_bytes() == CONTENT


def kept(cache: Path) -> list[str]:
    """What lies in a cache, besides its locks."""
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def test_a_wrong_checksum_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    asset = server.offer("file.bin", CONTENT, sha256="0123abcd")
    with pytest.raises(DownloadError, match="0123abcd was expected"):
        fetch(asset, tmp_path)
    assert kept(tmp_path) == []


def test_a_missing_file_says_what_to_do(server: Server, tmp_path: Path) -> None:
    asset = server.offer("file.bin", CONTENT)
    server.files.clear()
    with pytest.raises(DownloadError, match=r"404.*--photos"):
        fetch(asset, tmp_path)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("photos/a.jpg", b"a")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("photos/a.jpg")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"a"))
    return file.getvalue()


@pytest.mark.parametrize(("name", "content"), [("set.zip", zipped()), ("set.tgz", tarred())])
def test_archives_are_unpacked_and_removed(server: Server, tmp_path: Path, name: str, content: bytes) -> None:
    asset = server.offer(name, content, contents="photos")
    folder = fetch(asset, tmp_path)
    assert [path.name for path in folder.iterdir()] == ["a.jpg"]
    assert kept(tmp_path) == ["set"]
    assert fetch(asset, tmp_path) == folder
    assert len(server.requests) == 1


def test_every_asset_is_pinned() -> None:
    assert {len(asset.sha256) for asset in (COCO, BSD300)} == {64}
    # torchvision pins its weights by the start of their SHA-256, which it writes into the name.
    assert VGG19.url.endswith(f"-{VGG19.sha256}.pth")


def test_sources_find_the_downloaded_photos(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "COCO", server.offer("coco.zip", zipped(), contents="photos"))
    monkeypatch.setattr(sources, "BSD300", server.offer("bsd.tgz", tarred(), contents="photos"))
    for source, name in ((sources.Coco(), "coco"), (sources.Bsd300(), "bsd")):
        folder, names = source.find()
        assert (folder.location, names) == (str(tmp_path / name / "photos"), ["a.jpg"])


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGAN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("RAYGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "raygan"
