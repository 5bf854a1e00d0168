"""No port of a cluster answers a stranger who has no token, but for Ray's metrics, which are numbers."""

import re
from pathlib import Path

import pytest
from conftest import ROOT
from hosts import Host, hosts, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

METHODS = (
    *("NodeInfoGcsService/GetAllNodeInfo", "NodeManagerService/GetNodeStats", "ObjectManagerService/Push"),
    *("CoreWorkerService/GetCoreWorkerStats", "ReporterService/GetTraceback", "RayletDriver/ClusterInfo"),
)
"""A method of each of Ray's gRPC services."""

# Asks each port of an address, without a token, as HTTP and for every method.
STRANGER = """
import http.client, sys
import grpc
address, methods, ports = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
for port in ports:
    answers = []
    try:
        connection = http.client.HTTPConnection(address, int(port), timeout=20)
        connection.request("GET", "/")
        answer = connection.getresponse()
        answers.append(f"HTTP {answer.status} {answer.read()[:6]!r}")
    except (OSError, http.client.HTTPException):
        pass
    for method in methods if not answers else ():
        with grpc.insecure_channel(f"{address}:{port}") as channel:
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=20)
                answers.append(f"{method} OK")
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNIMPLEMENTED:
                    answers.append(f"{method} {error.code().name}")
    print(port, "; ".join(answers), sep="\\t")
"""
# Keeps a worker busy on each host.
BUSY = """
import time
import ray
ray.init(address="auto")
wait = ray.remote(num_cpus=1)(lambda: time.sleep(600))
tasks = [wait.options(scheduling_strategy="SPREAD").remote() for _ in range(2)]
ray.get(tasks)
"""
REFUSALS = r"HTTP 401 .*|[\w/]+ UNAUTHENTICATED"
METRICS = "HTTP 200 b'# HELP'"


def listening(host: Host) -> dict[str, str]:
    """The ports on which a host can be reached from outside, and the programs behind them."""
    found = {}
    for line in host.run("ss", "--listening", "--tcp", "--numeric", "--processes", "--no-header").splitlines():
        _, _, _, place, _, *program = line.split()
        address, port = place.rsplit(":", 1)
        if "127.0.0.1" not in address:
            name = re.search(r'"([^"]*)"', " ".join(program))
            found[port] = name.group(1) if name else "unknown"
    return found


def test_every_port_asks_for_the_token(tmp_path: Path) -> None:
    with hosts(tmp_path, "head", "worker", "stranger") as (head, worker, stranger):
        head.run("ray", "get-auth-token", "--generate")
        token = (head.home / ".ray" / "auth_token").read_text()
        # As the files in cluster/ start it.
        start = re.search(r"ray start --head (.*) --autoscaling-config", (ROOT / "cluster/aws.yaml").read_text())
        assert start
        head.run("ray", "start", "--head", "--num-cpus=1", *start.group(1).split())
        worker.run("ray", "start", f"--address={head.address}:6379", "--num-cpus=1", RAY_AUTH_TOKEN=token)
        (tmp_path / "busy.py").write_text(BUSY)
        (tmp_path / "stranger.py").write_text(STRANGER)
        with (
            (tmp_path / "output").open("w+") as output,
            head.start("python", tmp_path / "busy.py", output=output) as driver,
        ):
            both = (head, worker)
            wait_until(
                "a worker on each host",
                lambda: all(any("ray::<lambda>" in program for program in host.programs()) for host in both),
                timeout=300,
            )
            table = []
            for host in both:
                programs = listening(host)
                command = ["python", tmp_path / "stranger.py", host.address, ",".join(METHODS), *programs]
                for line in stranger.run(*command, timeout=600).splitlines():
                    port, answers = line.split("\t")
                    table.append((host.name, programs[port], port, answers))
            driver.kill()
    print("\n".join(f"| {' | '.join(row)} |" for row in (("host", "program", "port", "answers"), *table)))
    wrong = [row for row in table if not re.fullmatch(REFUSALS, row[3]) and row[3] != METRICS]
    assert not wrong
    # It reached what there is to reach, one service of each kind on each host.
    asked = {answers.split()[0] for _, _, _, answers in table}
    assert asked == {*METHODS, "HTTP"}
    assert len([row for row in table if row[3] == METRICS]) == 4
