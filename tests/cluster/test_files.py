"""The cluster files: what Ray, KubeRay, Slurm or a container's builder would refuse, and what RayGAN promises."""

import copy
import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import ROOT
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

from raygan.config.service import Service
from raygan.errors import InputError

CLUSTER = ROOT / "cluster"
CLOUDS = ("aws", "gcp")
LAUNCHED = (*CLOUDS, "onpremise")
PACKAGES = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values())
SCHEMA = json.loads(Path(__file__).with_name("rayjob-schema.json").read_text())


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return content


def check(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` reads a file, up to where it asks the cloud."""
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def start_commands(config: dict[str, Any]) -> list[str]:
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


@pytest.mark.parametrize("name", LAUNCHED)
class TestLaunchedByRay:
    def test_ray_accepts_it(self, name: str) -> None:
        prepared = check(read(f"{name}.yaml"))
        assert prepared["provider"]["type"] == ("local" if name == "onpremise" else name)

    def test_ray_refuses_a_typo(self, name: str) -> None:
        config = read(f"{name}.yaml")
        with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
            check(config | {"idle_timeout_minuts": 10})
        with pytest.raises(jsonschema.ValidationError, match="ssh_usr"):
            check(config | {"auth": config["auth"] | {"ssh_usr": "me"}})

    def test_every_node_asks_for_the_token(self, name: str) -> None:
        config = read(f"{name}.yaml")
        commands = start_commands(config)
        assert len(commands) == 2
        assert all("RAY_AUTH_MODE=token" in command.split("ray start")[0] for command in commands)
        assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
        assert any("RAY_AUTH_MODE=token" in command and "~/.bashrc" in command for command in config["setup_commands"])

    def test_the_dashboard_is_for_the_head_alone(self, name: str) -> None:
        text = (CLUSTER / f"{name}.yaml").read_text()
        hosts = re.findall(r"--dashboard-host=(\S+)", text)
        assert hosts == ["127.0.0.1"]
        assert "0.0.0.0" not in text

    def test_every_node_installs_the_pinned_versions_from_what_is_copied(self, name: str) -> None:
        config = read(f"{name}.yaml")
        copied = {target: source for target, source in config["file_mounts"].items() if target.startswith("~/raygan/")}
        assert {*PACKAGES, "pyproject.toml", "README.md", "LICENSE", "constraints.txt"} == set(copied.values())
        assert all(target == f"~/raygan/{source}" and (ROOT / source).exists() for target, source in copied.items())
        installs = [command for key in config for command in commands_of(config, key) if "pip install" in command]
        assert installs
        assert all(command.endswith(" --constraint ~/raygan/constraints.txt") for command in installs)
        assert any(" ~/raygan " in command for command in installs)

    def test_it_says_what_to_change_and_what_to_run(self, name: str) -> None:
        text = (CLUSTER / f"{name}.yaml").read_text()
        assert 2 <= text.count(" # CHANGE") <= 4
        for command in ("up", "dashboard", "down", "submit"):
            assert f"#   ray {command} cluster/{name}.yaml" in text
        assert (ROOT / "searches" / "v1.py").exists()


def commands_of(config: dict[str, Any], key: str) -> list[str]:
    return list(config[key]) if key.endswith("setup_commands") else []


@pytest.mark.parametrize("name", CLOUDS)
class TestClouds:
    def test_workers_come_and_go_on_spot_machines_with_gpus(self, name: str) -> None:
        config = check(read(f"{name}.yaml"))
        types = config["available_node_types"]
        workers = {key: node for key, node in types.items() if key != config["head_node_type"]}
        assert workers
        for node in workers.values():
            assert is_spot(node["node_config"])
            assert node["resources"]["GPU"] >= 1
            assert node["min_workers"] == 0
            assert 1 <= node["max_workers"] <= config["max_workers"]
        assert 1 <= config["idle_timeout_minutes"] <= 60

    def test_the_head_stays_and_cannot_train(self, name: str) -> None:
        config = check(read(f"{name}.yaml"))
        head = config["available_node_types"][config["head_node_type"]]
        assert not is_spot(head["node_config"])
        assert "GPU" not in head["resources"]
        # Reading photos needs some.
        assert head["resources"]["CPU"] >= 2
        assert head["max_workers"] == 0

    def test_the_shown_search_waits_for_gpus_and_stores_in_a_bucket(self, name: str) -> None:
        text = (CLUSTER / f"{name}.yaml").read_text()
        scheme = {"aws": "s3", "gcp": "gs"}[name]
        assert f"--storage {scheme}://BUCKET/studies --set hardware/device=cuda --wait 900" in text


def is_spot(node_config: dict[str, Any]) -> bool:
    market = node_config.get("InstanceMarketOptions", {}).get("MarketType")
    return market == "spot" or node_config.get("scheduling", {}).get("provisioningModel") == "SPOT"


class TestKubernetes:
    def test_kuberay_accepts_it(self) -> None:
        jsonschema.validate(read("kubernetes.yaml"), SCHEMA)

    @pytest.mark.parametrize(
        "path",
        [
            (),
            ("metadata",),
            ("spec",),
            ("spec", "rayClusterSpec"),
            ("spec", "rayClusterSpec", "authOptions"),
            ("spec", "rayClusterSpec", "autoscalerOptions"),
            ("spec", "rayClusterSpec", "headGroupSpec"),
            ("spec", "rayClusterSpec", "workerGroupSpecs", 0),
            ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec"),
            ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0),
            ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "tolerations", 0),
        ],
    )
    def test_a_typo_is_refused(self, path: tuple[str | int, ...]) -> None:
        job = read("kubernetes.yaml")
        place = job
        for step in path:
            place = place[step]  # type: ignore[index]
        name, value = next(iter(place.items()))
        place[f"{name}s"] = value
        with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
            jsonschema.validate(job, SCHEMA)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("backoffLimit", -1), ("activeDeadlineSeconds", "48h"), ("submissionMode", "K8SJobMode"), ("entrypoint", [])],
    )
    def test_a_wrong_value_is_refused(self, name: str, value: object) -> None:
        job = read("kubernetes.yaml")
        job["spec"][name] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(job, SCHEMA)

    def test_it_retries_ends_and_cleans_up(self) -> None:
        spec = read("kubernetes.yaml")["spec"]
        assert spec["backoffLimit"] >= 1
        assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
        assert spec["shutdownAfterJobFinishes"] is True
        assert spec["ttlSecondsAfterFinished"] > 0

    def test_the_token_is_asked_for_and_nothing_leads_in_from_outside(self) -> None:
        cluster = read("kubernetes.yaml")["spec"]["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token", "secretName": "raygan-token"}
        assert "create secret generic raygan-token --from-file=auth_token=" in (CLUSTER / "kubernetes.yaml").read_text()
        head = cluster["headGroupSpec"]
        assert head["serviceType"] == "ClusterIP"
        assert not {"enableIngress", "ingressOptions", "headService"} & set(head)

    def test_gpus_are_for_workers_that_come_and_go(self) -> None:
        cluster = read("kubernetes.yaml")["spec"]["rayClusterSpec"]
        head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
        assert cluster["enableInTreeAutoscaling"] is True
        assert (workers["minReplicas"], workers["replicas"]) == (0, 0)
        assert workers["maxReplicas"] >= 1
        (head_container,), (worker_container,) = (group["template"]["spec"]["containers"] for group in (head, workers))
        assert worker_container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert head["rayStartParams"]["num-gpus"] == "0"
        for container in (head_container, worker_container):
            # Ray counts on all of a pod's memory and cores.
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert "nvidia.com/gpu" not in head_container["resources"]["limits"]
        assert head_container["image"] == worker_container["image"]

    def test_it_runs_a_search_with_the_pinned_ray(self) -> None:
        spec = read("kubernetes.yaml")["spec"]
        program, file, *options = spec["entrypoint"].split()
        assert program == "python"
        assert (ROOT / file).is_file()
        assert options[:2] == ["--storage", "s3://BUCKET/studies"]
        pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
        assert pinned
        assert spec["rayClusterSpec"]["rayVersion"] == pinned[1]


class TestDockerfile:
    TEXT = (CLUSTER / "Dockerfile").read_text()

    def test_what_it_copies_exists(self) -> None:
        before_installing, _, _ = self.TEXT.partition("RUN pip install")
        copies = re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", before_installing, re.MULTILINE)
        sources = [source for copy in copies for source in copy.split()]
        assert {*PACKAGES, "constraints.txt", "pyproject.toml"} <= set(sources)
        assert [source for source in sources if not (ROOT / source).exists()] == []

    def test_its_python_is_supported(self) -> None:
        image = re.search(r"^FROM python:(\d+\.\d+)-slim$", self.TEXT, re.MULTILINE)
        supported = re.search(r'^requires-python = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert image
        assert supported
        assert SpecifierSet(supported[1]).contains(image[1])

    def test_it_installs_the_pinned_versions_and_is_not_root(self) -> None:
        assert re.search(r"^RUN pip install .*\. --constraint constraints\.txt", self.TEXT, re.MULTILINE)
        users = re.findall(r"^USER (\S+)$", self.TEXT, re.MULTILINE)
        assert users == ["ray"]
        assert f"useradd --create-home --uid 1000 --shell /bin/bash {users[0]}" in self.TEXT

    def test_it_has_what_kuberay_needs(self) -> None:
        assert re.search(r"apt-get install .*\bwget\b", self.TEXT)


class TestSlurm:
    FILE = CLUSTER / "slurm.sh"

    def test_the_shell_accepts_it(self) -> None:
        subprocess.run(["bash", "-n", self.FILE], check=True)
        shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:/usr/bin")
        if shellcheck is None:
            pytest.skip("needs shellcheck, which the project's dev dependencies bring")
        checked = subprocess.run([shellcheck, self.FILE], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout

    def test_it_is_queued_again_when_preempted(self) -> None:
        directives = re.findall(r"^#SBATCH (--\S+)$", self.FILE.read_text(), re.MULTILINE)
        assert {"--requeue", "--open-mode=append", "--signal=B:TERM@60", "--exclusive"} <= set(directives)

    @pytest.fixture
    def job(self, tmp_path: Path) -> Path:
        """A folder as the script is submitted from, where its commands are stand-ins that note their arguments."""
        programs = tmp_path / ".venv" / "bin"
        programs.mkdir(parents=True)
        stand_ins = {
            "ray": f'echo "$RAY_AUTH_MODE $*" >> {tmp_path}/ray; [ "$1" = get-auth-token ] && exit\n'
            'while [ "$1" != -- ]; do shift; done; shift; "$@"',
            "srun": '"$@"',
            "scontrol": f'echo "$*" > {tmp_path}/scontrol',
            "python": f"""trap 'exit 130' TERM
printf '%s\\n' "$@" > {tmp_path}/search
[ -z "$WAIT" ] || while true; do sleep 0.1; done
exit "${{CODE:-0}}" """,
        }
        for name, script in stand_ins.items():
            (programs / name).write_text(f"#!/bin/bash\n{script}\n")
            (programs / name).chmod(0o755)
        return tmp_path

    def start(self, job: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
        variables = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", **environment}
        return subprocess.Popen(["bash", self.FILE, *options], cwd=job, env=variables, text=True)

    @pytest.mark.parametrize("code", [0, 2])
    def test_it_runs_the_search_on_all_nodes_and_ends_as_it_ends(self, job: Path, code: int) -> None:
        with self.start(job, "--storage", "a folder", CODE=str(code)) as script:
            assert script.wait(timeout=30) == code
        assert (job / "search").read_text().splitlines() == ["searches/v1.py", "--storage", "a folder"]
        token, cluster = (job / "ray").read_text().splitlines()
        assert token == "token get-auth-token --generate"
        assert re.match(r"token symmetric-run --address [0-9.]+:6379 --min-nodes 2 -- ", cluster)
        assert not (job / "scontrol").exists()

    def test_stopped_by_slurm_it_lets_the_search_end_and_is_queued_again(self, job: Path) -> None:
        with self.start(job, WAIT="1", SEARCH="searches/v0.py") as script:
            while not (job / "search").exists():
                assert script.poll() is None
            script.send_signal(signal.SIGTERM)
            assert script.wait(timeout=30) == 130
        assert (job / "search").read_text().splitlines() == ["searches/v0.py"]
        assert (job / "scontrol").read_text() == "requeue 7\n"


def test_ray_serve_accepts_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read("serve.yaml")
    schema = pytest.importorskip("ray.serve.schema", reason="needs ray[serve]")
    assert schema.ServeDeploySchema.model_validate(config).http_options.host == "0.0.0.0"
    (described,) = config["applications"]
    module, name = described["import_path"].split(":")
    build = getattr(importlib.import_module(module), name)
    monkeypatch.delenv("RAYGAN_SERVE_TOKEN", raising=False)
    with pytest.raises(InputError, match="RAYGAN_SERVE_TOKEN"):
        build(described["args"])
    monkeypatch.setenv("RAYGAN_SERVE_TOKEN", "secret")
    with pytest.raises(InputError, match="max_megapixel'"):
        build(described["args"] | {"max_megapixel": 1})
    Service(**described["args"])
