"""Checks of the cluster before a study starts: room for a trial, equal versions, storage that all machines can write
to."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.exceptions import GetTimeoutError, RayError
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raygan.config.run import Config
from raygan.data.photos import StoredPhotos, TrainingPhotos
from raygan.models.cost import discriminator_parameters, parameters
from raygan.search.experiment import TrialSettings
from raygan.storage import Folder
from raygan.study.ledger import StudyError, package_versions
from raygan.train.checkpoint import KEPT
from raygan.train.cluster import HardwareError, resources, trials_at_once

SOON = 8.0
"""Seconds in which an autoscaler must begin to add a machine."""
ANSWER = 60.0
"""Seconds in which a machine must answer; a busy one takes a while to start a process."""


def wait_for_room(config: Config, concurrent: int | None, wait: float) -> int:
    """How many trials run at once: `concurrent`, or as many as the cluster holds, which may be fewer.

    If it holds fewer than asked for (one, if `concurrent` is None), an autoscaler is asked for machines. Raises
    `HardwareError` if not even one trial fits: within 10 s if no machine is being added, otherwise after `wait`
    seconds.
    """
    wanted, one_worker = concurrent or 1, config.hardware.workers == 1
    fit = _fit(config)
    if fit >= wanted:
        return min(fit, concurrent or fit)
    request_resources(bundles=[resources(config)] * (wanted * config.hardware.workers))
    started, coming, announced = time.monotonic(), False, False
    try:
        # Trials wait for their machines; a TorchTrainer would not wait for its workers as long.
        while fit < wanted and not (fit and coming and one_worker):
            coming = _machines_are_coming()
            if coming and not announced:
                print(f"Waiting up to {wait:.0f} s for machines that are being added")
                announced = True
            left = started + (wait if coming else min(wait, SOON)) - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(1.0, left))
            fit = _fit(config)
    finally:
        # From here on the trials themselves ask for machines; a standing request would keep idle ones.
        request_resources(bundles=[])
    fit = trials_at_once(config)
    return wanted if coming and one_worker else min(fit, wanted)


def check_machines(folder: Folder) -> None:
    """Raise `StudyError` unless all machines run the same versions and write to the same `folder`."""
    nodes = _nodes()
    if len(nodes) == 1:
        return
    here = package_versions()
    differing = [
        f"{nodes[node]} has {name} {there[name]}, but this search runs {here[name]}"
        for node, there in _on_each(nodes, _versions_there(), list(here)).items()
        for name in here
        if there[name] != here[name]
    ]
    if differing:
        raise StudyError(
            f"all machines need the same versions: {'; '.join(differing)}; install the same on all (see cluster/)"
        )
    token = uuid.uuid4().hex
    check = folder.child(f"preflight-{token}")
    try:
        missing = [
            f"{nodes[node]} {problem or 'writes elsewhere'}"
            for node, problem in _on_each(nodes, _write_there, check, token).items()
            if problem or not check.exists(f"{node}-{token}")
        ]
    finally:
        check.clear()
    if missing:
        raise StudyError(
            f"every machine must write to {folder}, but {'; '.join(missing)}: give a --storage that all share, such as "
            "an s3:// or gs:// prefix, or a folder on NFS"
        )


def check_disk(folder: Folder, config: Config, settings: TrialSettings, concurrent: int) -> None:
    """Show what a new study takes of a local disk, with networks of these sizes; raise `StudyError` without room."""
    free = folder.free_space()
    # A resumed study has written some of it already.
    if free is None or folder.exists("checkpoints"):
        return
    weights, discriminator = 4 * parameters(config.generator), 4 * discriminator_parameters(config)
    # The weights, Adam's two moments, those of the best epoch, and perhaps their average.
    checkpoint = (4 + (config.training.average_decay > 0)) * weights + 3 * discriminator
    # With ASHA, a third of the trials can wait at the first rung, a ninth at the second, and so on.
    waiting = settings.trials // 2 if settings.scheduler == "asha" else 0
    needed = (concurrent * (KEPT + 1) + waiting) * checkpoint + (settings.trials + 1) * weights
    print(f"Disk: about {needed / 1e9:.2f} GB are needed, {free / 1e9:.1f} GB are free")
    if needed > free:
        raise StudyError(
            f"{folder} has {free / 1e9:.1f} GB left, but {concurrent} trials at once, and {waiting} that wait, need "
            f"{needed / 1e9:.1f} GB for their checkpoints: give another --storage, fewer trials, or smaller networks"
        )


def check_photos(photos: TrainingPhotos) -> None:
    """Raise `StudyError` where photos that are read in training lie in a folder that not all machines have."""
    if not isinstance(photos.train, StoredPhotos) or not photos.train.folder.is_local:
        return
    nodes = _nodes()
    found = _on_each(nodes, Folder.exists, photos.train.folder, photos.train.names[0])
    if without := [nodes[node] for node, there in found.items() if not there]:
        raise StudyError(
            f"photos that do not fit into memory are read by every machine, but {', '.join(without)} has no "
            f"{photos.train.folder}: put them into a bucket or onto NFS, or lower data/train_photos"
        )


def _fit(config: Config) -> int:
    """How many trials fit the cluster as it is."""
    try:
        return trials_at_once(config)
    except HardwareError:
        return 0


def _machines_are_coming() -> bool:
    """Whether an autoscaler is adding machines."""
    if is_autoscaler_v2():
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return bool(status.pending_launches or status.pending_nodes)
    status = _internal_kv_get("__autoscaling_status")
    report = json.loads(status).get("autoscaler_report") if status else None
    return bool(report and (report["pending_launches"] or report["pending_nodes"]))


def _nodes() -> dict[str, str]:
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _on_each(nodes: dict[str, str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What the function returns on each machine, by node; raises `StudyError` where one does not answer."""
    there = ray.remote(num_cpus=0, max_retries=0)(function)
    answers = {
        node: there.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*arguments)
        for node in nodes
    }
    deadline = time.monotonic() + ANSWER
    found = {}
    for node, answer in answers.items():
        try:
            found[node] = ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
        except GetTimeoutError:
            message = f"machine {nodes[node]} does not answer within {ANSWER:.0f} s: restart Ray there"
            raise StudyError(message) from None
        except RayError as error:
            raise StudyError(f"machine {nodes[node]} cannot be used: {error}") from error
    return found


def _versions_there() -> Callable[[list[str]], dict[str, str]]:
    # A function inside a function travels by value: it runs where RayGAN is not installed.
    def versions(names: list[str]) -> dict[str, str]:
        import platform
        from importlib.metadata import distributions

        found = {name: next((one.version for one in distributions(name=name)), "not installed") for name in names}
        return found | {"python": platform.python_version()}

    return versions


def _write_there(folder: Folder, token: str) -> str:
    """Write a file there; what went wrong, if anything."""
    try:
        folder.write(f"{ray.get_runtime_context().get_node_id()}-{token}", token)
    except OSError as error:
        return f"cannot ({error})"
    return ""
