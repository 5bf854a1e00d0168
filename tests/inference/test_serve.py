"""`raygan serve`, as HTTP clients and a browser reach it."""

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import pyvips
from axe_playwright_python.sync_playwright import Axe
from conftest import raygan
from numpy.typing import NDArray
from playwright.sync_api import Page, expect, sync_playwright

from raygan.config.service import Service
from raygan.errors import InputError
from raygan.inference.denoiser import Denoiser
from raygan.inference.image_file import denoise_file
from raygan.inference.serve import run_service

pytest.importorskip("ray.serve", reason="needs ray[serve]")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def detail(self) -> str:
        return str(json.loads(self.content)["detail"])


@dataclass
class Server:
    port: int
    token: str
    """That of the printed address."""

    def request(self, method: str, path: str, content: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(connection):
            connection.request(method, path, content, headers or {})
            response = connection.getresponse()
            given = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, given, response.read())

    def denoise(self, content: bytes, query: str = "", headers: dict[str, str] | None = None) -> Answer:
        return self.request("POST", f"/denoise?{query}", content, headers)


def test_a_taken_port_of_ipv6_is_refused() -> None:
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine: {error}")
    with taken, pytest.raises(InputError, match=r"cannot listen on ::1:\d+: .*Address already in use"):
        run_service(Service(), "::1", taken.getsockname()[1])


@contextlib.contextmanager
def serving(*options: str, token: str | None = None) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [str(Path(sys.executable).with_name("raygan")), "serve", "--port", str(port), *options]
    environment = {**os.environ, **({"RAYGAN_SERVE_TOKEN": token} if token is not None else {})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = "".join(itertools.takewhile(lambda line: "Ctrl-C" not in line, process.stdout))
        printed = re.search(r"#token=(\S+)", said)
        yield Server(port, printed.group(1) if printed else "")
        in_use = raygan("serve", "--port", str(port))
        assert (in_use.returncode, "give another --host or --port" in in_use.stderr) == (2, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--denoisers", "small", "camera", "--max-megapixels", "1", "--max-megabytes", "2") as found:
        yield found


def image(height: int, width: int, channels: int = 3, kind: type = np.uint8, seed: int = 0) -> NDArray[np.uint8]:
    white = np.iinfo(kind).max
    return np.random.default_rng(seed).integers(0, white, (height, width, channels), dtype=kind)


def as_file(pixels: NDArray[np.uint8], suffix: str = ".png") -> bytes:
    content: bytes = pyvips.Image.new_from_array(pixels).write_to_buffer(suffix)
    return content


def pixels_of(content: bytes) -> NDArray[np.int64]:
    return np.asarray(pyvips.Image.new_from_buffer(content, "").numpy(), dtype=np.int64)


def test_the_result_is_that_of_the_command_line_in_the_same_format(server: Server) -> None:
    for suffix, kind, pixels in (
        (".jpg", "image/jpeg", image(60, 90)),
        (".png", "image/png", image(33, 41, 4, np.uint16)),
        (".tif", "image/tiff", image(40, 40, 1)),
        (".webp", "image/webp", image(50, 70)),
    ):
        content = as_file(pixels, suffix)
        answer = server.denoise(content)
        assert (answer.status, answer.headers["content-type"]) == (200, kind)
        expected = denoise_file(Denoiser.from_pretrained("small"), content, suffix)
        # The last digit of a sum depends on the number of threads.
        assert np.abs(pixels_of(answer.content) - pixels_of(expected)).max() <= (1 if suffix != ".jpg" else 3)


def test_denoiser_strength_and_format_are_chosen_per_request(server: Server) -> None:
    content = as_file(image(64, 64))
    kept = server.denoise(content, "strength=0")
    assert (pixels_of(kept.content) == image(64, 64)).all()
    camera = pixels_of(server.denoise(content, "denoiser=camera&format=tif").content)
    assert np.abs(camera - pixels_of(denoise_file(Denoiser.from_pretrained("camera"), content, ".tif"))).max() <= 1
    deep = server.denoise(as_file(image(64, 64, 3, np.uint16)), "format=jpg")
    assert "its 16 bits become 8" in json.loads(unquote(deep.headers["x-notes"]))[0]


def test_requests_at_once_each_get_their_own_image(server: Server) -> None:
    images = [image(32 + 8 * (seed % 3), 48, seed=seed) for seed in range(24)]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda one: server.denoise(as_file(one)), images))
    denoiser = Denoiser.from_pretrained("small")
    for pixels, answer in zip(images, answers, strict=True):
        assert np.abs(pixels_of(answer.content) - denoiser(pixels)).max() <= 1


def test_requests_that_are_abandoned_hold_nothing_up(server: Server) -> None:
    content = as_file(image(600, 600))
    # More than a replica has threads, abandoned while they compute.
    for _ in range(3):
        connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=300) for _ in range(8)]
        for connection in connections:
            connection.request("POST", "/denoise", content, {})
        time.sleep(1)
        for connection in connections:
            connection.close()
    assert server.denoise(content).status == 200


def test_what_cannot_be_done_is_said(server: Server) -> None:
    small = as_file(image(16, 16))
    no_image, broken = server.denoise(b"hello"), server.denoise(small[:100])
    assert (no_image.status, broken.status) == (422, 422)
    assert "cannot be read as an image" in no_image.detail
    large = server.denoise(as_file(np.zeros((1000, 1100, 3), np.uint8)))
    assert (large.status, "at most 1 megapixels" in large.detail) == (422, True)
    heavy = server.denoise(bytes(3_000_000))
    assert (heavy.status, heavy.detail) == (413, "at most 2 megabytes are read")
    unknown = server.denoise(small, "denoiser=best")
    assert (unknown.status, "there are small, camera" in unknown.detail) == (404, True)
    for query in ("strength=2", "strength=nan", "format=gif"):
        refused = server.denoise(small, query)
        name, value = query.split("=")
        assert (refused.status, refused.detail.startswith(f"{name}: "), value in refused.detail) == (422, True, True)


def test_pages_of_other_sites_are_refused(server: Server) -> None:
    """A page of another site would reach it by DNS rebinding, or by a request that it may send but not read."""
    content = as_file(image(16, 16))
    assert server.denoise(content, headers={"Host": "rebound.example"}).status == 403
    assert server.denoise(content, headers={"Origin": "https://other.example"}).status == 403
    # A file, or a page in a sandbox.
    assert server.denoise(content, headers={"Origin": "null"}).status == 403
    assert server.denoise(content, headers={"Origin": f"http://127.0.0.1:{server.port}"}).status == 200


def test_the_api_is_documented(server: Server) -> None:
    described = json.loads(server.request("GET", "/openapi.json").content)["paths"]
    assert sorted(described) == ["/denoise", "/service"]
    assert "image/*" in described["/denoise"]["post"]["requestBody"]["content"]


def test_a_lost_replica_loses_no_request(server: Server) -> None:
    content = as_file(image(300, 300))
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(server.denoise, content) for _ in range(12)]
        answers[0].result()
        killed = [pid for pid in _processes("ray::ServeReplica:raygan:Denoising") if not os.kill(pid, signal.SIGKILL)]
        assert killed
        assert [answer.result().status for answer in answers] == [200] * 12


def _processes(title: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(title.encode()):
                found.append(int(path.parent.name))
    return found


def test_the_page(server: Server, chromium: str, tmp_path: Path) -> None:
    noisy = tmp_path / "my photo.png"
    noisy.write_bytes(as_file(image(80, 120)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(f"http://127.0.0.1:{server.port}/")
        expect(page.locator("#limits")).to_contain_text("1 megapixels")
        expect(page.get_by_label("Token")).to_be_hidden()
        assert page.locator("#denoiser option").all_inner_texts() == ["small", "camera"]
        page.set_input_files("#file", noisy)
        expect(page.locator("#status")).to_contain_text("Done", timeout=120_000)
        assert _downloaded(page, tmp_path).startswith(b"\x89PNG")
        page.locator("#denoiser").select_option("camera")
        page.locator("#strength").fill("0")
        page.locator("#strength").dispatch_event("change")
        # With strength 0, the image comes back.
        expect(page.locator("#share")).to_have_text("0")
        page.wait_for_function("document.querySelector('#status').textContent.startsWith('Done')")
        assert (pixels_of(_downloaded(page, tmp_path)) == image(80, 120)).all()
        split = page.get_by_label("Boundary between noisy and denoised")
        split.focus()
        page.keyboard.press("End")
        seen = page.locator("#view").evaluate("view => view.clientWidth")
        assert page.locator(".pair").get_attribute("style") == f"--boundary: {seen}px;"
        # The boundary stays where it is in what can be seen of the zoomed image.
        page.locator("#zoom").fill("3")
        page.locator("#view").evaluate("view => { view.scrollLeft = 50; }")
        page.wait_for_function(
            f"document.querySelector('.pair').style.getPropertyValue('--boundary') === '{seen + 50}px'"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not [fault for fault in Axe().run(page).response["violations"] if fault["impact"] != "minor"]
        page.set_input_files("#file", {"name": "no.png", "mimeType": "image/png", "buffer": b"no image"})
        expect(page.get_by_role("alert")).to_contain_text("no.png: it cannot be read as an image")
        expect(page.locator("#result")).to_be_hidden()
        browser.close()


def _downloaded(page: Page, folder: Path) -> bytes:
    with page.expect_download() as started:
        page.get_by_text("Download").click()
    assert started.value.suggested_filename == "my photo-denoised.png"
    started.value.save_as(folder / "downloaded.png")
    return (folder / "downloaded.png").read_bytes()


def test_elsewhere_than_on_loopback_a_token_is_needed(chromium: str) -> None:
    options = ("--denoisers", "small", "--host", "0.0.0.0", "--max-queued", "1")
    with serving(*options, token="secret") as server:
        content = as_file(image(16, 16))
        assert server.denoise(content).status == 401
        assert server.denoise(content, headers={"Authorization": "Bearer wrong"}).status == 401
        assert server.denoise(content, headers={"Authorization": "Bearer secret"}).status == 200
        assert server.request("GET", "/service").status == 401
        # Of more requests than are computed and may wait, some are refused, and the others served.
        large, token = as_file(image(400, 400)), {"Authorization": "Bearer secret"}
        with ThreadPoolExecutor(32) as threads:
            answers = list(threads.map(lambda _: server.denoise(large, headers=token), range(32)))
        assert {answer.status for answer in answers} == {200, 503}
        refused = next(answer for answer in answers if answer.status == 503)
        assert (refused.detail, refused.headers["retry-after"]) == ("too many images wait: try again later", "5")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.port}/")
            page.get_by_label("Token").fill("secret")
            page.get_by_label("Token").press("Enter")
            expect(page.locator("#limits")).to_contain_text("megapixels")
            expect(page.get_by_label("Token")).to_be_hidden()
            page.goto("about:blank")
            page.goto(f"http://127.0.0.1:{server.port}/#token=secret")
            expect(page.locator("#limits")).to_contain_text("megapixels")
            assert "secret" not in page.url
            browser.close()


def test_an_empty_token_is_none_and_slow_requests_are_given_up() -> None:
    options = ("--denoisers", "small", "--host", "0.0.0.0", "--max-seconds", "0.001")
    with serving(*options, token="") as server:
        content = as_file(image(16, 16))
        assert server.denoise(content).status == 401
        answer = server.denoise(content, headers={"Authorization": f"Bearer {server.token}"})
        assert (answer.status, answer.detail) == (504, "it took longer than 0.001 s")


def test_bad_settings_are_refused() -> None:
    for options, message in (
        (["--denoisers", "nothing"], "nothing"),
        (["--max-megapixels", "0"], "max_megapixels must be positive"),
        (["--denoisers", "small", "small"], "different names"),
    ):
        refused = raygan("serve", *options)
        assert (refused.returncode, message in refused.stderr) == (2, True), refused.stderr
