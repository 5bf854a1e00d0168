"""A search on several hosts goes on when one of them dies: no trial is lost."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, TINY_OPTIONS
from hosts import Host, hosts, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TRIALS = 4
FEW_PHOTOS_LONGER_TRIALS = [
    *("--trials", str(TRIALS), "--trial-epochs", "4", "--epochs", "4"),
    *("--set", "training/steps_per_epoch=24", "--set", "data/train_photos=8"),
]
# A silent host is given up within seconds, not Ray's half a minute.
PATIENCE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


def table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def trains(host: Host) -> bool:
    """Whether a trial has its process on the host."""
    return any(program.startswith("ray::ImplicitFunc") for program in host.programs())


def test_a_host_that_dies_costs_no_trial(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    study = tmp_path / "studies" / "study"
    photos = write_photos(10)
    with hosts(tmp_path, "head", "worker-1", "worker-2") as (head, *workers):
        head.run("ray", "get-auth-token", "--generate")
        token = (head.home / ".ray" / "auth_token").read_text()
        # The head has no core for training, as on a cloud.
        head.run("ray", "start", "--head", "--num-cpus=0", "--port=6379", **PATIENCE)
        for worker in workers:
            command = ["ray", "start", f"--address={head.address}:6379", "--num-cpus=1"]
            worker.run(*command, RAY_AUTH_TOKEN=token, PYTHONPATH=str(ROOT))
        # Of the head alone: /tmp is each host's own.
        head.run("cp", "-r", photos, "/tmp/photos")
        command = ["python", "searches/v1.py", *TINY_OPTIONS, *FEW_PHOTOS_LONGER_TRIALS]
        command += ["--photos", "/tmp/photos", "--evaluate-on", "/tmp/photos", "--name", study.name]
        refused = head.start(*command, "--storage", "/tmp/studies", PYTHONPATH=str(ROOT))
        said, _ = refused.communicate(timeout=120)
        assert refused.returncode == 2, said
        assert re.search(r"every machine must write to /tmp/studies/study, but .* writes elsewhere", said), said
        command += ["--storage", str(study.parent)]
        with (tmp_path / "output").open("w+") as output:
            search = head.start(*command, output=output, PYTHONPATH=str(ROOT))

            def both_train() -> bool:
                programs = "\n".join(program for worker in workers for program in worker.programs())
                assert search.poll() is None, (tmp_path / "output").read_text() + programs
                return len(table(study / "metrics.csv")) >= 2 and all(trains(worker) for worker in workers)

            try:
                wait_until("a trial on each worker", both_train, timeout=300)
                workers[1].die()
                code = search.wait(timeout=400)
            finally:
                search.kill()
                search.wait()
        said = (tmp_path / "output").read_text()
        assert code == 0, said
    assert json.loads((study / "study.json").read_text())["status"] == "finished"
    trials = table(study / "trials.csv")
    assert [row["trial"] for row in trials] == [f"trial-000{number}" for number in range(1, TRIALS + 1)], said
    assert {row["state"] for row in trials} <= {"complete", "pruned"}, said
    # The trial that ran on it was started again, and went on: of its epochs, one at most was trained twice. A busy
    # machine may lose the other worker too.
    losses = len(re.findall(r"^trial-\d+ lost its process", said, re.MULTILINE))
    assert losses >= 1, said
    epochs = table(study / "metrics.csv")
    assert len(re.findall(r"^trial-\d+ epoch", said, re.MULTILINE)) <= len(epochs) + losses, said
    for row in trials:
        counted = [int(epoch["epoch"]) for epoch in epochs if epoch["trial"] == row["trial"]]
        assert counted == list(range(1, int(row["epochs"]) + 1)), said
