"""Lets a Ray Tune search believe that it has a thousand workers, on one machine.

A trial's process takes 0.5 GB, most of it for imports. Here, all trials of a search live in one process, as objects of
its `tune.Trainable`, and an epoch is a time to sleep. Everything else is Ray's and Tune's own: placement groups, remote
calls and their results, Tune's controller.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from typing import Any

import ray
from ray import tune
from ray.actor import ActorClass
from ray.tune.execution import tune_controller


class FakeTraining(tune.Trainable):  # type: ignore[misc]
    """A trial that says how long its next epoch takes, instead of training it."""

    def next_seconds(self) -> float:
        """Seconds until the next result."""
        raise NotImplementedError

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:  # noqa: ARG002
        """Nothing: Tune asks for it when a trial of a class ends, unlike one of a function."""
        return {}


class Host:
    """The process that all trials live in."""

    def __init__(self) -> None:
        self.trials: dict[int, FakeTraining] = {}
        # Tune reads the results. What every trial says of itself is of no use here.
        logging.getLogger("ray").setLevel(logging.ERROR)

    async def start(self, key: int, trainable: type[FakeTraining], kwargs: dict[str, Any]) -> None:
        """Make a trial."""
        self.trials[key] = trainable(**kwargs)

    async def call(self, key: int, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a trial's method; results of training come when their time has come."""
        trial = self.trials[key]
        if method == "train":
            await asyncio.sleep(trial.next_seconds())
        elif method == "stop":
            del self.trials[key]
        return getattr(trial, method)(*args, **kwargs)


class HostedMethod:
    """A trial's method, called as an actor's."""

    def __init__(self, host: Any, key: int, name: str) -> None:
        self.host = host
        self.key = key
        self.name = name

    def remote(self, *args: Any, **kwargs: Any) -> ray.ObjectRef:
        """Call it."""
        return self.host.call.remote(self.key, self.name, args, kwargs)


class HostedTrial:
    """What Tune takes for the handle of a trial's actor."""

    def __init__(self, host: Any, key: int, ready: ray.ObjectRef) -> None:
        self._host = host
        self._key = key
        self._ready = ready

    def __getattr__(self, name: str) -> HostedMethod:
        return HostedMethod(self._host, self._key, name)

    @property
    def __ray_ready__(self) -> HostedTrial:
        return self

    def remote(self) -> ray.ObjectRef:
        """The reference that says whether the trial has started."""
        return self._ready


class HostedActorClass(ActorClass):  # type: ignore[misc]
    """What Tune takes for an actor class."""

    def __init__(self, host: Any, keys: itertools.count[int], trainable: type[FakeTraining]) -> None:
        self.host = host
        self.keys = keys
        self.trainable = ray.put(trainable)

    def options(self, **_: Any) -> HostedActorClass:
        """Where it is to run: it runs in the host."""
        return self

    def remote(self, **kwargs: Any) -> HostedTrial:
        """Start a trial."""
        key = next(self.keys)
        return HostedTrial(self.host, key, self.host.start.remote(key, self.trainable, kwargs))


class HostedActorClasses:
    """In place of `ray.tune.execution.class_cache._ActorClassCache`."""

    def __init__(self) -> None:
        # Trials change the working directory to their own.
        environment = {"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "0"}}
        host = ray.remote(num_cpus=0, max_concurrency=100_000, runtime_env=environment)(Host)
        self.host = host.remote()
        self.keys = itertools.count()
        self.classes: dict[type, HostedActorClass] = {}

    def get(self, trainable: type[FakeTraining]) -> HostedActorClass:
        """The actor class of a trainable."""
        if trainable not in self.classes:
            self.classes[trainable] = HostedActorClass(self.host, self.keys, trainable)
        return self.classes[trainable]


def start_ray_with(workers: int) -> None:
    """Start Ray with so many workers of one core each, for a search whose trainable is a `FakeTraining`."""
    # Tune offers no way to choose the actors.
    tune_controller._ActorClassCache = HostedActorClasses
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
