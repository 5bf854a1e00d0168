"""`ray up`, `ray submit` and `ray job submit` as the cluster files say it, for real, to hosts reached by ssh."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, TINY_OPTIONS
from hosts import Host, hosts, require, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SSHD = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
SetEnv PIP_NO_INDEX=1 PIP_FIND_LINKS={folder} RAY_USAGE_STATS_ENABLED=0
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host, Path]]:
    """A laptop, the head of the cluster that it has started by `ray up`, and the cluster's file."""
    require("sshd", "ssh", "ssh-keygen", "rsync")
    folder = tmp_path_factory.mktemp("cluster")
    # pip builds RayGAN on the hosts, which have no way out.
    python("-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "setuptools>=77")
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "sshd_config").write_text(SSHD.format(folder=folder))
    with hosts(folder, "laptop", "head", "worker") as (laptop, head, worker):
        for host in (head, worker):
            make_environment(host.home / "environment")
            # It starts itself again by its full name.
            host.run(shutil.which("sshd") or "", "-f", folder / "sshd_config", "-E", host.folder / "sshd.log")
        laptop.run("ray", "get-auth-token", "--generate")
        file = folder / "onpremise.yaml"
        file.write_text(changed((ROOT / "cluster" / "onpremise.yaml").read_text(), head, worker, folder / "user_key"))
        print(laptop.run("ray", "up", file, "--yes", "--no-config-cache"))
        # By ssh as well, from the head.
        wait_until("the head starts the worker", lambda: nodes(head) == {head.address, worker.address}, timeout=150)
        yield laptop, head, file


def nodes(head: Host) -> set[str]:
    """The addresses of the cluster's nodes."""
    listed = json.loads(head.run(head.home / "environment/bin/ray", "list", "nodes", "--format", "json"))
    return {node["node_ip"] for node in listed if node["state"] == "ALIVE"}


def changed(text: str, head: Host, worker: Host, key: Path) -> str:
    """The cluster's file with what it asks its user to change."""
    values = {
        "head_ip": head.address,
        "worker_ips": f"[{worker.address}]",
        "ssh_user": "root",
        "ssh_private_key": str(key),
    }
    assert text.count(" # CHANGE") == len(values)
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^(  {name}: ).* # CHANGE.*$", rf"\g<1>{value}", text)
        assert count == 1, name
    return text


def python(*arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a package index: {done.stderr}")


def make_environment(folder: Path) -> None:
    """The environment that the cluster's file makes, with all that RayGAN needs there already: 5 GB otherwise.

    It sees the packages of the environment that runs this test, so pip has RayGAN itself to install, and no more.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (own / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for program, module in (("pip", "pip"), ("ray", "ray.scripts.scripts")):
        (folder / "bin" / program).write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m {module} "$@"\n')
        (folder / "bin" / program).chmod(0o755)


def tiny_search(folder: Path, name: str) -> list[str]:
    shortest = ["--trials", "1", "--trial-epochs", "1", "--epochs", "1", "--set", "data/train_photos=8"]
    return [*TINY_OPTIONS, *shortest, "--storage", str(folder / "studies"), "--name", name]


def check_finished(folder: Path, name: str) -> None:
    study = json.loads((folder / "studies" / name / "study.json").read_text())
    assert study["status"] == "finished"


def test_ray_submit(cluster: tuple[Host, Host, Path]) -> None:
    laptop, head, file = cluster
    command = ["ray", "submit", file, "searches/v1.py", "--", *tiny_search(file.parent, "submitted")]
    output = laptop.run(*command, timeout=400)
    assert "Best configuration:" in output, output
    check_finished(file.parent, "submitted")

    # It ran what was copied and installed, not these tests' own RayGAN.
    where = laptop.run("ray", "exec", file, "python -c 'import raygan; print(raygan.__file__)'")
    assert f"{head.home}/environment/" in where


def test_ray_job_submit(cluster: tuple[Host, Host, Path]) -> None:
    _, head, file = cluster
    search = tiny_search(file.parent, "job")
    environment = json.dumps({"excludes": [".venv", ".git"]})
    command = ["job", "submit", "--working-dir", ".", "--runtime-env-json", environment, "--"]
    output = head.run(head.home / "environment/bin/ray", *command, "python", "searches/v1.py", *search, timeout=400)
    assert "succeeded" in output
    check_finished(file.parent, "job")


def test_without_the_token_nothing_is_told(cluster: tuple[Host, Host, Path]) -> None:
    _, head, _ = cluster
    with head.start("ray", "list", "nodes", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 32) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "401" in output or "403" in output or "nvalid" in output, output
