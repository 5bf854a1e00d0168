"""Denoising image files and folders of them, here or on a Ray cluster."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from raygan.config.run import MAX_MEGAPIXELS
from raygan.data.sources import SUFFIXES, image_names
from raygan.inference.denoiser import Denoiser, ImageError
from raygan.inference.image_file import denoise_content
from raygan.storage import Folder, StorageError, split_file

logger = logging.getLogger(__name__)
RETRIES = 2
"""How often an image is tried again if its process died."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
ERROR_SUFFIXES = (".png", ".tif", ".tiff")
"""Formats of error maps: those that hold 16 bits."""


def denoise_path(
    denoiser: Denoiser,
    noisy: str,
    denoised: str,
    *,
    max_megapixels: int = MAX_MEGAPIXELS,
    ray_device: str | None = None,
    error_map: str | None = None,
) -> list[str]:
    """Denoise the image file `noisy` into the file `denoised`, or all images of a folder into another, by their names.

    Both may be paths or s3:// or gs:// addresses. Files of a folder that cannot be denoised are skipped; returns one
    line about each. `ray_device`, if given, distributes a folder over a Ray cluster: over its GPUs, or else its cores
    ("auto"), or over its cores ("cpu"). `error_map`, for a single image, is another file to write: 16-bit grey, with
    the bound of `Denoiser.with_error` times 65535. Raises `ImageError` if a single file cannot be denoised, there is
    nothing to denoise, the input would be overwritten, one of two is a file and the other a folder, or there can be no
    error map, and `StorageError` if nothing can be written, or the disk is full.
    """
    (folder, name), (new_folder, new_name) = split_file(noisy), split_file(denoised)
    single = name.lower().endswith(SUFFIXES)
    if single != new_name.lower().endswith(SUFFIXES):
        formats, which = ", ".join(SUFFIXES), denoised if single else noisy
        raise ImageError(
            f"give two image files, whose names end in {formats}, or two folders: {which!r} is no such file"
        )
    if single and ray_device is not None:
        raise ImageError(f"--ray distributes a folder, but {noisy} is one image: leave --ray out")
    source, target = (folder, new_folder) if single else (Folder(noisy), Folder(denoised))
    if source.location == target.location and (not single or name == new_name):
        raise ImageError(f"the result would overwrite the input, {noisy}: choose another path for it")
    task = _Task(denoiser, source, target, max_megapixels)
    if error_map is not None:
        _check_error_map(error_map, noisy, denoised)
    if single:
        target.require_writable()
        _log_notes(noisy, task.run(name, new_name, error_map))
        return []
    # An earlier result inside the input is not input.
    result = target.path.removeprefix(f"{source.path}/") + "/"
    names = [name for name in image_names(source) if not name.startswith(result)]
    if not names:
        raise ImageError(f"there are no images in {source} (files that end in {', '.join(SUFFIXES)})")
    target.require_writable()
    outcomes = map(task.try_run, names) if ray_device is None else _run_on_ray(task, names, ray_device)
    problems = []
    for name, problem, notes in tqdm(outcomes, total=len(names), unit="image"):
        _log_notes(name, notes)
        problems += [f"{name}: {problem}"] if problem else []
    return problems


def _check_error_map(error_map: str, noisy: str, denoised: str) -> None:
    """Raise `ImageError` unless an error map can be written for this input."""
    files = [(folder.location, name) for folder, name in map(split_file, (error_map, noisy, denoised))]
    if not files[0][1].lower().endswith(ERROR_SUFFIXES):
        raise ImageError(f"the error map's name must end in {', '.join(ERROR_SUFFIXES)}, but it is {error_map!r}")
    if not files[1][1].lower().endswith(SUFFIXES):
        raise ImageError(f"an error map is written for one image, but {noisy} is a folder: give an image file")
    if files[0] in files[1:]:
        raise ImageError(f"the error map would overwrite an image, {error_map}: choose another path for it")
    split_file(error_map)[0].require_writable()


def _log_notes(name: str, notes: Sequence[str]) -> None:
    for note in notes:
        logger.warning("%s: %s", name, note)


@dataclass
class _Task:
    """Denoising files of one folder into another."""

    denoiser: Denoiser
    source: Folder
    target: Folder
    max_megapixels: int
    device: str | None = None
    """Device to move the denoiser to; None: it stays where it is."""

    def __post_init__(self) -> None:
        if self.device is not None:
            self.denoiser.to(self.device)

    def run(self, name: str, new_name: str, error_map: str | None = None) -> tuple[str, ...]:
        """Denoise one file; returns what is to be said about the result."""
        error = None
        if error_map is not None:
            error_folder, error_name = split_file(error_map)
            error = self.denoiser.error_bounds(), Path(error_name).suffix
        try:
            content = self.source.read(name)
        except OSError as problem:
            raise ImageError(f"it cannot be read: {problem}") from problem
        try:
            result = denoise_content(self.denoiser, content, Path(new_name).suffix, self.max_megapixels, error)
        except OSError as problem:
            # Very large images are unpacked into temporary files.
            raise ImageError(f"it cannot be denoised: {problem}") from problem
        try:
            self.target.write(new_name, result.content)
            if error is not None:
                error_folder.write(error_name, result.error_map)
        except OSError as problem:
            text = f"its result cannot be written: {problem}"
            # Nor can those of all others.
            raise (StorageError if problem.errno in DISK_FULL else ImageError)(text) from problem
        return result.notes

    def try_run(self, name: str) -> tuple[str, str, tuple[str, ...]]:
        """Denoise one file into one of the same name: the name, the problem or an empty string, and `run`'s notes."""
        try:
            return name, "", self.run(name, name)
        except ImageError as error:
            return name, str(error), ()


def _run_on_ray(task: _Task, names: list[str], device: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """`_Task.try_run` in Ray actors, one per GPU, or else per core; yields as files are done.

    Local folders are read and written on this machine, since others need not have them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from raygan.train.cluster import start_ray

    start_ray()
    available, where = ray.cluster_resources(), {}
    if (task.source.is_local or task.target.is_local) and len(ray.nodes()) > 1:
        here = ray.get_runtime_context().get_node_id()
        available = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
        where = {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}
    gpus = int(available.get("GPU", 0)) if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise ImageError("Ray has no GPU here: give --device cpu or auto")
    # A cluster's head may offer no cores.
    cores = int(available.get("CPU", 0))
    options = {"num_cpus": min(1, cores), "num_gpus": 1 if gpus else 0, "max_restarts": -1}
    options["max_task_retries"] = RETRIES
    actor = ray.remote(**options, **where)(_Task)
    arguments = (ray.put(task.denoiser), task.source, task.target, task.max_megapixels, "cuda" if gpus else "cpu")
    yield from _distributed([actor.remote(*arguments) for _ in range(min(gpus or max(1, cores), len(names)))], names)


def _distributed(free: list[Any], names: list[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """`_Task.try_run` of each name by actors that are free; Ray's ActorPool gives up those whose process died."""
    import ray

    left, running = names[::-1], dict[ray.ObjectRef, tuple[Any, str]]()
    while left or running:
        while free and left:
            one, name = free.pop(), left.pop()
            running[one.try_run.remote(name)] = one, name
        [done], _ = ray.wait(list(running))
        one, name = running.pop(done)
        free.append(one)
        try:
            yield ray.get(done)
        except ray.exceptions.RayActorError as error:
            lines = str(error).splitlines()
            if error.actor_init_failed:
                raise ImageError(f"the denoiser cannot be set up on Ray: {lines[-1]}") from error
            yield name, f"the process that denoised it died, {1 + RETRIES} times: {lines[0]}", ()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
