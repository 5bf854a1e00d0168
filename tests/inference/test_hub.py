"""Denoisers from the Hugging Face hub, served here as the hub serves them."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from denoisers import image_of, save_denoiser

from raygan.inference.denoiser import Denoiser
from raygan.train.denoisers import DenoiserError
from raygan.weights import HubError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import sys
import numpy as np
from raygan.errors import InputError
from raygan.inference.denoiser import Denoiser
name, revision, image, result = sys.argv[1:]
try:
    np.save(result, Denoiser.from_pretrained(name, revision or None)(np.load(image)))
except InputError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub with one repository, owner/name, with the branch main and the tag v1; what it was asked."""
    pytest.importorskip("huggingface_hub")
    folder = tmp_path / "repository"
    save_denoiser(folder)
    torch.save({}, folder / "optimizer.pt")
    files, asked = {path.name: path.read_bytes() for path in folder.iterdir()}, list[str]()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            content = None
            if self.path in {f"/api/models/owner/name/revision/{revision}" for revision in ("main", "v1", COMMIT)}:
                siblings = [{"rfilename": name} for name in files]
                content = json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode()
            elif self.path.startswith(f"/api/models/owner/name/tree/{COMMIT}"):
                tree = [
                    {"type": "file", "path": name, "size": len(held), "oid": hashlib.sha1(held).hexdigest()}
                    for name, held in files.items()
                ]
                content = json.dumps(tree).encode()
            elif self.path.startswith("/owner/name/resolve/"):
                content = files.get(self.path.rpartition("/")[2])
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "RepoNotFound")
                content = b""
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def denoised(folder: Path, name: str, revision: str = "", **environment: str) -> str:
    """What a program says that denoises an image with the named denoiser; the result is written to a file."""
    np.save(folder / "image.npy", image_of((20, 30, 3), np.float32))
    command = [sys.executable, "-c", SCRIPT, name, revision, folder / "image.npy", folder / "result.npy"]
    home = {"HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env=os.environ | home | environment,
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_denoisers_are_fetched_from_the_hub_once(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = hub
    expected = Denoiser.from_pretrained(str(tmp_path / "repository"))(image_of((20, 30, 3), np.float32))
    for name, revision in (("owner/name", "v1"), ("owner/name@v1", "")):
        assert denoised(tmp_path, name, revision, HF_ENDPOINT=address) == ""
        np.testing.assert_allclose(np.load(tmp_path / "result.npy"), expected, rtol=0, atol=1e-6)
        (tmp_path / "result.npy").unlink()
    # Never pickles.
    assert not any(line.endswith("optimizer.pt") for line in asked)
    assert sum(line.startswith("GET") and line.endswith("generator.safetensors") for line in asked) == 1
    # Without a connection, what was fetched is used.
    assert denoised(tmp_path, "owner/name", "v1", HF_ENDPOINT=address, HF_HUB_OFFLINE="1") == ""
    np.testing.assert_allclose(np.load(tmp_path / "result.npy"), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_what_the_hub_does_not_give_is_refused(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, _ = hub
    said = denoised(tmp_path, "owner/other", HF_ENDPOINT=address)
    assert said.startswith(
        "HubError there is no folder owner/other, and the Hugging Face hub does not give owner/other"
    )
    said = denoised(tmp_path, "owner/name", "v1", HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
    assert "does not give owner/name (revision v1)" in said
    assert "download it where there is one and give its folder" in said


def test_a_folder_of_that_name_is_meant_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_denoiser(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    image = image_of((20, 30, 3), np.float32)
    assert Denoiser.from_pretrained("owner/name")(image).shape == image.shape
    with pytest.raises(DenoiserError, match="there is no denoiser in"):
        Denoiser.from_pretrained("owner/nmae")


def test_the_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubError, match=r"there is no folder owner/name; .*pip install 'raygan\[hub\]'"):
        Denoiser.from_pretrained("owner/name")
