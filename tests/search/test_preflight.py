"""Checks before a study starts: machines that agree, and room for a trial."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY_OPTIONS, ray_cluster, run_search

CHECK = """
import sys
from raygan.search import preflight
from raygan.study.ledger import StudyError, package_versions
from raygan.storage import Folder
from raygan.train.cluster import start_ray
start_ray()
folder = Folder(sys.argv[1])
preflight.check_machines(folder)
assert not folder.files(), folder.files()
print("agree")
preflight.package_versions = lambda: {**package_versions(), "raygan": "9.9"}
try:
    preflight.check_machines(folder)
except StudyError as error:
    print(error)
"""


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of two nodes of one core, which searches join."""
    with ray_cluster(1, 1) as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("two_nodes")
def test_machines_with_other_versions_and_trials_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path / "study")], capture_output=True, text=True, timeout=400, check=False
    )
    assert run.returncode == 0, run.stderr
    agree, differ = run.stdout.splitlines()
    assert agree == "agree"
    assert re.match(r"all machines need the same versions: [\d.]+ has raygan [\d.]+, but this search runs 9.9", differ)

    result = run_search(*TINY_OPTIONS, "--workers", "4", "--storage", tmp_path / "studies")
    assert result.returncode == 2
    assert (
        "one trial asks for 4 workers of 1 CPU each, but the cluster's nodes have 1 CPU; 1 CPU: lower --workers"
        in result.stderr
    )
