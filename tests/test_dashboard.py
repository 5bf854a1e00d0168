"""`raygan dashboard`, as a browser reaches it."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import raygan
from playwright.sync_api import sync_playwright

from raygan.presets import PAPER_V1
from raygan.study.storage import Folder
from raygan.study.trials import Trials

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """The ports of optuna-dashboard and of TensorBoard. All ends on SIGTERM."""
    folder = tmp_path_factory.mktemp("study")
    record = {"schema": 2, "name": "study", "status": "running trials", "config": PAPER_V1.to_json()}
    (folder / "study.json").write_text(json.dumps(record))
    trial = Trials(Folder(folder), "study", ["val_psnr"]).study.ask()
    trial.suggest_float("loss/adversarial_weight", 0, 1)
    ports = free_port(), free_port()
    command = [Path(sys.executable).with_name("raygan"), "dashboard", folder, "--port", ports[0]]
    command += ["--tensorboard-port", ports[1]]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("Ctrl-C" in line for line in process.stdout)
        for port in ports:
            wait_for(port)
        yield ports
        in_use = raygan("dashboard", folder, "--port", ports[0])
        assert (in_use.returncode, "give another --port" in in_use.stderr) == (2, True)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    for port in ports:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port)).close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.2)
    raise TimeoutError


def ask(port: int, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_trials_and_scalars_are_served(ports: tuple[int, int]) -> None:
    status, content = ask(ports[0], "/api/studies")
    assert (status, json.loads(content)["study_summaries"][0]["study_name"]) == (200, "study")
    status, content = ask(ports[1])
    assert (status, b"TensorBoard" in content) == (200, True)


@pytest.mark.parametrize("server", [0, 1], ids=["optuna-dashboard", "TensorBoard"])
def test_other_sites_and_changes_are_refused(ports: tuple[int, int], server: int) -> None:
    port = ports[server]
    assert ask(port, Host=f"localhost:{port}")[0] in (200, 302)
    assert ask(port, Host=f"rebound.example:{port}")[0] == 403
    assert ask(port, Origin="http://other.example")[0] == 403
    assert ask(port, "/api/studies", "POST")[0] == 403
    assert ask(port, "/api/studies/0", "DELETE")[0] == 403


def test_a_browser_led_here_by_another_sites_name_is_refused(ports: tuple[int, int], chromium: str) -> None:
    """DNS rebinding: a site's name now leads to this machine, so that its scripts could read what is served here."""
    rebound = "--host-resolver-rules=MAP rebound.example 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", rebound])
        page = browser.new_page()
        for port in ports:
            shown = [page.goto(f"http://{host}:{port}/") for host in ("rebound.example", "127.0.0.1")]
            assert [answer.status if answer else None for answer in shown] == [403, 200]
        # Another site's page neither reads nor changes anything.
        page.route("http://other.example/", lambda route: route.fulfill(body="<p>Another site</p>"))
        page.goto("http://other.example/")
        for method in ("GET", "POST"):
            request = f"fetch('http://127.0.0.1:{ports[0]}/api/studies', {{method: '{method}'}})"
            assert page.evaluate(f"{request}.then(() => 'read', () => 'refused')") == "refused"
        browser.close()


def test_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    run = raygan("dashboard", tmp_path)
    assert run.returncode == 2
    assert "holds no study" in run.stderr
