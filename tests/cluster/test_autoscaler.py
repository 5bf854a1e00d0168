"""A search waits for machines that an autoscaler adds, and leaves none behind."""

import csv
import json
from pathlib import Path

import pytest
from conftest import ROOT, TINY_OPTIONS
from hosts import Host, hosts, wait_until

pytestmark = pytest.mark.long

CLUSTER = {
    "cluster_name": "autoscaled",
    "max_workers": 2,
    "idle_timeout_minutes": 0.2,
    "upscaling_speed": 1.0,
    # Ray's own stand-in for a cloud: its machines are raylets of this host.
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{f"{name}_commands": [] for name in ("initialization", "setup", "head_setup", "worker_setup")},
    **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    "file_mounts_sync_continuously": False,
}


def machines(head: Host) -> int:
    """How many raylets run, the head's own among them."""
    return sum("/raylet/raylet " in program for program in head.programs())


def test_a_search_waits_for_machines_and_leaves_none(tmp_path: Path) -> None:
    config = tmp_path / "autoscaler.yaml"
    config.write_text(json.dumps(CLUSTER))
    with hosts(tmp_path, "head") as (head,):
        head.run("ray", "get-auth-token", "--generate")
        start = ["ray", "start", "--head", "--num-cpus=0", f"--autoscaling-config={config}"]
        head.run(*start, RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1", PYTHONPATH=str(ROOT))
        assert machines(head) == 1
        command = ["python", "searches/v1.py", *TINY_OPTIONS, "--storage", str(tmp_path / "studies")]
        said = head.run(
            *(
                *command,
                "--trials",
                "2",
                "--trial-epochs",
                "1",
                "--concurrent",
                "2",
                "--wait",
                "120",
                "--name",
                "study",
            ),
            timeout=400,
            PYTHONPATH=str(ROOT),
        )
        assert "Waiting up to 120 s for machines that are being added" in said
        assert "2 trials of at most 1 epoch, 2 at once" in said
        wait_until("the machines are given back", lambda: machines(head) == 1, timeout=90)
    with (tmp_path / "studies" / "study" / "trials.csv").open() as file:
        assert {row["state"] for row in csv.DictReader(file)} <= {"complete", "pruned"}
