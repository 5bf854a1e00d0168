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
from axe_playwright_python.sync_playwright import Axe
from conftest import raygan, raygan_here
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from raygan.presets import PAPER_V1
from raygan.report.live import progress
from raygan.storage import Folder
from raygan.study.trials import Trials


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has just begun."""
    folder = tmp_path_factory.mktemp("study")
    record = {"schema": 2, "name": "study", "status": "running trials", "config": PAPER_V1.to_json(), "trials": 4}
    (folder / "study.json").write_text(json.dumps(record))
    trial = Trials(Folder(folder), "study", ["val_psnr"]).study.ask()
    trial.suggest_float("loss/adversarial_weight", 0, 1)
    return folder


@pytest.fixture(scope="module")
def ports(folder: Path) -> Iterator[tuple[int, int]]:
    """The ports of the page with optuna-dashboard, and of TensorBoard. All ends on SIGTERM."""
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


def write_trials(folder: Path, epochs: int) -> None:
    """One trial that runs, with so many epochs, and one that failed."""
    (folder / "trials.csv").write_text(
        f"trial,state,epochs,val_psnr,error\ntrial-0001,running,{epochs},{20 + epochs},\n"
        "trial-0002,failed,0,,training diverged in epoch 1: <b>lower</b> the learning rates\n"
    )
    rows = [f"trial-0001,{epoch},{20 + epoch},36.0" for epoch in range(1, epochs + 1)]
    (folder / "metrics.csv").write_text("\n".join(["trial,epoch,best_val_psnr,seconds", *rows]) + "\n")


def test_the_page_follows_a_study(folder: Path, ports: tuple[int, int], chromium: str) -> None:
    write_trials(folder, epochs=2)
    (folder / "pictures").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(folder / "pictures" / "trial-0001.png")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.goto(f"http://127.0.0.1:{ports[0]}/")
        study = page.locator("#study-0")
        expect(study).to_contain_text("1 of 4 trials have ended (1 running, 1 failed)", timeout=60_000)
        expect(study).to_contain_text("Best val PSNR (dB): 22.000 (trial-0001). 2 epochs, 72 seconds")
        # An error's text is text.
        expect(study).to_contain_text("trial-0002: training diverged in epoch 1: <b>lower</b> the learning rates")
        assert page.evaluate("document.querySelector('figure img').decode().then(() => true, () => false)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not [fault for fault in Axe().run(page).response["violations"] if fault["impact"] != "minor"]
        write_trials(folder, epochs=3)
        expect(study).to_contain_text("Best val PSNR (dB): 23.000", timeout=60_000)
        assert study.locator("svg path").count() == 2
        page.get_by_text("optuna-dashboard").click()
        page.wait_for_url("**/dashboard**")
        browser.close()


def test_only_pictures_of_trials_are_served(folder: Path, ports: tuple[int, int]) -> None:
    write_trials(folder, epochs=1)
    (folder / "pictures").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(folder / "pictures" / "trial-0001.png")
    assert ask(ports[0], "/live/pictures/0/trial-0001")[0] == 200
    for path in ("0/trial-0002", "0/..%2F..%2Fstudy.json", "1/trial-0001", "x/trial-0001", ""):
        assert ask(ports[0], f"/live/pictures/{path}")[0] == 404


def test_the_winners_training_is_shown(tmp_path: Path) -> None:
    record = {"schema": 2, "name": "study", "status": "training the winner", "config": PAPER_V1.to_json(), "trials": 4}
    (tmp_path / "study.json").write_text(json.dumps(record))
    write_trials(tmp_path, epochs=1)
    for folder in ("best", "pictures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "best" / "metrics.csv").write_text("trial,epoch,best_val_psnr,seconds\nwinner,1,22.0,36.0\n")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "pictures" / "winner.png")
    shown = progress(Folder(tmp_path))
    assert (shown["best"], shown["best_trial"], shown["pictures"]) == ([21.0, 22.0], "winner", ["winner"])
    assert shown["seconds"] == 72.0
    assert shown["curves"] == {"trial-0001": [21.0], "winner": [22.0]}


def test_studies_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    write_trials(tmp_path, epochs=1)
    assert "no study.json" in progress(Folder(tmp_path))["problem"]
    (tmp_path / "study.json").write_text("{")
    assert "study.json" in progress(Folder(tmp_path))["problem"]
    record = {"schema": 2, "name": "study", "status": "running trials", "config": PAPER_V1.to_json(), "trials": 4}
    (tmp_path / "study.json").write_text(json.dumps(record))
    assert progress(Folder(tmp_path))["best"] == [21.0]
    (tmp_path / "metrics.csv").write_text("trial,epoch\ntrial-0001,1\n")
    assert "is damaged" in progress(Folder(tmp_path))["problem"]


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


def test_a_training_without_a_search_needs_no_trials(tmp_path: Path) -> None:
    record = {"schema": 2, "name": "study", "status": "finished", "config": PAPER_V1.to_json(), "trials": 0}
    (tmp_path / "study.json").write_text(json.dumps(record))
    # Refused for its port alone.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = raygan_here("dashboard", tmp_path, "--port", taken.getsockname()[1])
    assert (run.returncode, "is in use" in run.stderr) == (2, True)


def test_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    run = raygan_here("dashboard", tmp_path)
    assert run.returncode == 2
    assert "holds no study" in run.stderr
