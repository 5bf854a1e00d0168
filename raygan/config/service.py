"""Settings of the HTTP service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raygan.config.run import Precision
from raygan.errors import InputError

MOST_STRENGTH = 1.5
"""The largest factor of what a network takes for noise."""


@dataclass(frozen=True)
class Service:
    """What a service offers, and its limits."""

    denoisers: tuple[str, ...] = ("synthetic", "camera", "small")
    """Denoisers to offer: names of those that come with RayGAN, folders such as STUDY/best, or model files; the first
    is the default."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; auto: a GPU per replica, if the cluster has one."""
    precision: Precision = "auto"
    """See `raygan denoise`."""
    max_megapixels: int = 50
    """Refuse larger images."""
    max_megabytes: int = 100
    """Refuse larger files."""
    max_seconds: float = 300.0
    """Give up on a request after this time, waiting included."""
    max_queued: int = 64
    """Requests that may wait; more are refused with the status 503."""

    def __post_init__(self) -> None:
        if not self.denoisers:
            raise InputError("a service needs at least one denoiser: give --denoisers")
        for name in ("max_megapixels", "max_megabytes", "max_seconds", "max_queued"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, but it is {getattr(self, name)}")
