"""The Ray cluster: starting it, what it has, what a run asks of it, and the photos that all of it shares."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import tempfile
from pathlib import Path
from types import FrameType

import ray
import ray.data
import torch
from ray._common.utils import get_ray_address_file

from raygan.config.run import Config
from raygan.config.section import with_values
from raygan.data.photos import Photos, TrainingPhotos
from raygan.errors import InputError
from raygan.train.step import computes_in_bfloat16

logger = logging.getLogger(__name__)


class HardwareError(InputError):
    """The cluster cannot hold what was asked for."""


def start_ray(*, dashboard: bool = False) -> None:
    """Connect to the cluster that `RAY_ADDRESS` names or that this user runs here, or start Ray on this machine.

    Ray's `dashboard` takes seconds to start: it is for what runs long enough to be watched. Raises `HardwareError`
    where that cluster does not let us in.
    """
    # Tune writes no log files of its own: the study's folder has everything.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ray's default of 30 s is not enough for a busy machine.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not ray.is_initialized():
        _require_reachable(os.environ.get("RAY_ADDRESS", ""))
        _require_short_paths()
        _keep_token_private()
        variables = {
            # Ray Train polls its workers; its own interval of seconds would be longer than a small epoch.
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            # Its default of 60 s is not enough for a busy machine either.
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
        }
        try:
            ray.init(
                _address(),
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=dashboard,
                runtime_env={"env_vars": variables},
            )
        except ConnectionError as error:
            raise HardwareError(
                f"{error}: if it was started with a token, set RAY_AUTH_MODE=token, and have the token in "
                "~/.ray/auth_token"
            ) from error
        except Exception as error:
            # Ray raises bare exceptions, with the log of the part that does not start.
            raise HardwareError(f"Ray cannot start on this machine: {error}") from error
    _keep_token_private()
    signal.signal(signal.SIGTERM, _stop)
    for name in ("ray.data", "ray.serve", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # They would show a traceback for each process that is lost, which the search tells in a line.
    for name in ("ray.tune.execution.tune_controller", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _connect(address: str) -> None:
    """Raise `OSError` or `ValueError` if nothing listens at a cluster's address: Ray would wait for it forever."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


def _require_reachable(address: str) -> None:
    """Raise `HardwareError` if nothing listens at the address that `RAY_ADDRESS` has."""
    if address in ("", "auto", "local"):
        return
    try:
        _connect(address)
    except (OSError, ValueError) as error:
        raise HardwareError(
            f"RAY_ADDRESS={address} is not a Ray cluster that can be reached: {error}; give the address that `ray "
            "start` printed, HOST:PORT, or unset it to start Ray on this machine"
        ) from error


def _require_short_paths() -> None:
    """Raise `HardwareError` where the paths of sockets would become longer than Linux allows, 107 characters."""
    temporary = tempfile.gettempdir()
    for variable, path, most in (
        ("RAY_TMPDIR", os.environ.get("RAY_TMPDIR", temporary), 38),
        ("TMPDIR", temporary, 70),
    ):
        if len(path) > most:
            raise HardwareError(
                f"the temporary folder {path} has {len(path)} characters, of which Ray's sockets leave it {most}: set "
                f"{variable} to a writable folder with a shorter path"
            )


def _address() -> str | None:
    """The address for `ray.init`: None, as `RAY_ADDRESS` and Ray have it, or "local" for a cluster of our own.

    `ray start` names the last cluster in a file for all users of this machine, which Ray would join. Not where another
    user started it, nor if it has died without `ray stop`, which would have deleted the file.
    """
    file = Path(get_ray_address_file(None))
    if "RAY_ADDRESS" in os.environ or not file.exists():
        return None
    if file.stat().st_uid != os.getuid():
        return "local"
    address = file.read_text().strip()
    try:
        _connect(address)
    except (OSError, ValueError) as error:
        logger.warning(
            "the Ray cluster at %s, which %s names, is gone (%s): Ray starts on this machine; `ray stop` deletes that "
            "file",
            address,
            file,
            error,
        )
        return "local"
    return None


def _keep_token_private() -> None:
    """Let nobody else read the token of the clusters that this user starts: Ray makes it readable for all."""
    folder = Path.home() / ".ray"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    except OSError:
        # Without a home to keep it in, this process and what it starts have a token of their own.
        if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    with contextlib.suppress(FileNotFoundError):
        (folder / "auth_token").chmod(0o600)


def _stop(signum: int, frame: FrameType | None) -> None:
    """Do on SIGTERM what Ctrl-C does: Ray's own handler ends the process at once."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    # In the background, a shell lets processes ignore Ctrl-C.
    (on_interrupt if callable(on_interrupt) else signal.default_int_handler)(signum, frame)


def resolved_device(config: Config) -> Config:
    """The configuration with `hardware/device` and `training/precision` settled, where they are auto.

    The device is cuda if the running cluster has GPUs. The precision is that which suits this machine; on GPUs that
    others have, it stays auto.
    """
    device, precision = config.hardware.device, config.training.precision
    if device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"
    if precision == "auto" and (device == "cpu" or torch.cuda.is_available()):
        precision = "bfloat16" if computes_in_bfloat16(device) else "float32"
    return with_values(config, {"hardware/device": device, "training/precision": precision})


def resources(config: Config) -> dict[str, float]:
    """What one worker asks Ray for, the cores that read its photos included."""
    asked: dict[str, float] = {"CPU": config.hardware.cpus_per_worker}
    if config.data.cache == "stream":
        asked["CPU"] += config.hardware.reading_cpus_per_worker
    if config.hardware.device == "cuda":
        asked["GPU"] = config.hardware.gpus_per_worker
    return asked


def trials_at_once(config: Config) -> int:
    """How many runs fit the cluster side by side; raises `HardwareError` if not even one does."""
    asked, workers = resources(config), config.hardware.workers
    nodes = _nodes()
    # A worker lies on one node, a run's workers perhaps on several.
    fit = sum(min(int(node.get(name, 0) / amount + 1e-9) for name, amount in asked.items()) for node in nodes)
    if fit < workers:
        each = " and ".join(f"{amount:g} {name}" for name, amount in asked.items())
        have = "; ".join(" and ".join(f"{node.get(name, 0):g} {name}" for name in asked) for node in nodes)
        raise HardwareError(
            f"one trial asks for {workers} workers of {each} each, but the cluster's nodes have {have}: lower "
            "--workers, hardware/cpus_per_worker or hardware/gpus_per_worker, or start a larger cluster"
        )
    return fit // workers


def photo_memory() -> float:
    """Bytes of decoded photos that every node's shared memory has room for, with as much again for other things."""
    return _object_store() / 2


def share_photos(photos: TrainingPhotos) -> ray.ObjectRef:
    """Put decoded photos into the object store, once for all runs; raises `HardwareError` if they do not fit."""
    clean, pairs = (
        sum(pixels.nbytes for part in parts if isinstance(part, Photos) for pixels in part.pixels)
        for parts in ((photos.train, photos.validation), (photos.train_pairs, photos.validation_pairs))
    )
    if clean + pairs > (room := _object_store()):
        remedy = "give --set data/cache=stream, lower data/train_photos"
        if pairs > clean:
            remedy = "lower data/train_photos, which limits pairs too, or cut the pairs into parts"
        raise HardwareError(
            f"the decoded photos take {clean / 1e9:.1f} GB and the pairs {pairs / 1e9:.1f} GB, but a node's object "
            f"store holds {room / 1e9:.1f} GB: {remedy}, or start Ray with a larger --object-store-memory"
        )
    return ray.put(photos)


def with_idle_cores(config: Config) -> Config:
    """For a run that has the cluster to itself: on CPUs, each worker gets its share of the largest node's cores."""
    if config.hardware.device == "cuda":
        return config
    largest = max(int(node.get("CPU", 0)) for node in _nodes())
    reading = resources(config)["CPU"] - config.hardware.cpus_per_worker
    share = max(config.hardware.cpus_per_worker, int(largest // config.hardware.workers - reading))
    return with_values(config, {"hardware/cpus_per_worker": share})


def _object_store() -> float:
    return min(node.get("object_store_memory", 0) for node in _nodes())


def _nodes() -> list[dict[str, float]]:
    """What each node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
