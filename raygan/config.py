"""A run's whole configuration: one frozen, typed, checked value.

The defaults are the paper's current system (v1). Every field is documented where it is defined; a path such as
`optimizers/generator/learning_rate` names one leaf, in searches, on the command line and in tables.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from raygan.errors import InputError

NoiseKind = Literal["gaussian", "salt_and_pepper", "speckle"]
NOISE_KINDS: tuple[NoiseKind, ...] = typing.get_args(NoiseKind)


class ConfigError(InputError, ValueError):
    """A configuration breaks a rule, or names a path that does not exist."""


def require(rule: str, holds: bool, **values: object) -> None:
    """Raise `ConfigError` with the rule and the offending values unless `holds`."""
    if not holds:
        given = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise ConfigError(f"{rule} must hold, but got {given}")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base of every part of a configuration: checks the types of its fields, then its own rules."""

    def __post_init__(self) -> None:
        for name, kind in _field_types(type(self)).items():
            object.__setattr__(self, name, _converted(name, getattr(self, name), kind))
        self._check()

    def _check(self) -> None:
        """Raise `ConfigError` where the values break a rule."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings, ready for `json.dumps`."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The value that `to_json` described; raises `ConfigError` for unknown, missing or wrong entries."""
        kinds = _field_types(cls)
        unknown = set(values) - set(kinds)
        if unknown:
            raise ConfigError(f"{cls.__name__} has no {sorted(unknown)}; it has {sorted(kinds)}")
        return cls(
            **{
                name: kinds[name].from_json(value) if _is_section(kinds[name]) else value
                for name, value in values.items()
            }
        )


@dataclass(frozen=True, kw_only=True)
class IntensityRange(Section):
    """The range that a noise kind's intensity is drawn from; its unit is the kind's own (see `NoiseConfig`)."""

    low: float
    high: float

    def _check(self) -> None:
        require("0 <= low <= high", 0 <= self.low <= self.high, low=self.low, high=self.high)

    @property
    def mean(self) -> float:
        """The middle of the range."""
        return (self.low + self.high) / 2


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Where photos come from and how they are cut."""

    photos: str = "coco"
    """Clean photos to train on: "coco" (downloaded), "samples" (generated), or a folder or s3:// gs:// prefix."""
    evaluate_on: str = "bsd300"
    """Clean photos to evaluate on: "bsd300" (downloaded), "samples", or a folder or s3:// gs:// prefix."""
    train_photos: int = 1000
    """Photos to train on, at most."""
    val_photos: int = 100
    """Photos to validate on, at most, and never more than a fifth of the usable ones."""
    val_crops: int = 100
    """Fixed crops cut from the validation photos."""
    crop_size: int = 256
    """Side of the square crops in pixels: a multiple of 64, the networks' total stride."""
    seed: int = 0
    """Seed of the split and of validation's crops and noise; keep it fixed to compare runs."""

    def _check(self) -> None:
        require("train_photos >= 1", self.train_photos >= 1, train_photos=self.train_photos)
        require("val_photos >= 1", self.val_photos >= 1, val_photos=self.val_photos)
        require("val_crops >= 1", self.val_crops >= 1, val_crops=self.val_crops)
        require("seed >= 0", self.seed >= 0, seed=self.seed)
        require(
            "crop_size > 0 and a multiple of 64",
            self.crop_size > 0 and self.crop_size % 64 == 0,
            crop_size=self.crop_size,
        )


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(Section):
    """Which noise, how strong, and how intensities are drawn (paper, noise table)."""

    kinds: tuple[NoiseKind, ...] = NOISE_KINDS
    """The kinds to remove; each image gets one of them, with equal odds."""
    gaussian: IntensityRange = field(default_factory=lambda: IntensityRange(low=0.005, high=0.08))
    """Variance of the added noise."""
    salt_and_pepper: IntensityRange = field(default_factory=lambda: IntensityRange(low=0.02, high=0.07))
    """Share of values replaced, half by 0 and half by 1."""
    speckle: IntensityRange = field(default_factory=lambda: IntensityRange(low=0.005, high=0.2))
    """Variance of n in clean + clean * n."""
    policy: Literal["uniform", "normal"] = "uniform"
    """How intensities are drawn: uniform over the range, or normal around its mean, truncated to the range."""
    normal_deviation: float = 1 / 6
    """Standard deviation of the normal policy, as a share of the range's width (the paper names none)."""

    def _check(self) -> None:
        require(
            "kinds not empty and without repeats",
            0 < len(self.kinds) == len(set(self.kinds)),
            kinds=self.kinds,
        )
        require("salt_and_pepper/high <= 1", self.salt_and_pepper.high <= 1, high=self.salt_and_pepper.high)
        require("normal_deviation > 0", self.normal_deviation > 0, normal_deviation=self.normal_deviation)

    def range_of(self, kind: NoiseKind) -> IntensityRange:
        """The intensity range of one kind."""
        intensity_range: IntensityRange = getattr(self, kind)
        return intensity_range


@dataclass(frozen=True, kw_only=True)
class _NetworkConfig(Section):
    base_width: int = 64
    """Channels of the first layer; all other widths are multiples of it."""
    batch_norm_momentum: float = 0.01
    """Weight of the newest batch in the moving statistics (Keras writes the same as momentum 0.99)."""
    batch_norm_epsilon: float = 1e-3
    """Added to the variance in batch normalisation (Keras's default)."""
    initial_deviation: float = 0.02
    """Standard deviation of the normal distribution that weights start from."""

    def _check(self) -> None:
        require("base_width >= 1", self.base_width >= 1, base_width=self.base_width)
        momentum = self.batch_norm_momentum
        require("0 < batch_norm_momentum <= 1", 0 < momentum <= 1, batch_norm_momentum=momentum)
        epsilon = self.batch_norm_epsilon
        require("batch_norm_epsilon > 0", epsilon > 0, batch_norm_epsilon=epsilon)
        require("initial_deviation > 0", self.initial_deviation > 0, initial_deviation=self.initial_deviation)


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(_NetworkConfig):
    """The denoising network."""

    architecture: Literal["unet"] = "unet"
    """Key of `raygan.models.generator.GENERATORS`."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(_NetworkConfig):
    """The network that tells clean from denoised."""

    architecture: Literal["single_score"] = "single_score"
    """Key of `raygan.models.discriminator.DISCRIMINATORS`."""


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """The generator's loss: content_weight * content_loss + adversarial_weight * adversarial_loss."""

    content: Literal["vgg19", "mse"] = "vgg19"
    """What the content loss compares: VGG19's conv2_2 features, or the pixels."""
    vgg19_weights: str | None = None
    """File of VGG19 weights, in Keras's (.npz) or torchvision's (.pth) layout; none: torchvision's, downloaded."""
    feature_scale: Literal["paper", "source", "relative"] = "paper"
    """Unit of the VGG19 content loss. "paper": the mean squared feature distance as it is. "source": times 0.006,
    as in the code the paper took it from. "relative": divided by the mean squared clean feature, so that a weight
    means the same for Keras's weights (features near 100) and torchvision's (near 1)."""
    content_weight: float = 0.1
    """The paper's λg."""
    adversarial_weight: float = 0.01
    """The paper's λd."""

    def _check(self) -> None:
        require("content_weight >= 0", self.content_weight >= 0, content_weight=self.content_weight)
        weight = self.adversarial_weight
        require("adversarial_weight >= 0", weight >= 0, adversarial_weight=weight)
        require(
            "content_weight > 0 or adversarial_weight > 0",
            self.content_weight > 0 or weight > 0,
            content_weight=self.content_weight,
            adversarial_weight=weight,
        )


@dataclass(frozen=True, kw_only=True)
class AdamConfig(Section):
    """One network's Adam (Kingma and Ba, 2015)."""

    learning_rate: float
    beta1: float
    beta2: float = 0.999
    epsilon: float = 1e-7
    """Keras's default, the paper's framework."""

    def _check(self) -> None:
        require("learning_rate > 0", self.learning_rate > 0, learning_rate=self.learning_rate)
        require("0 <= beta1 < 1", 0 <= self.beta1 < 1, beta1=self.beta1)
        require("0 <= beta2 < 1", 0 <= self.beta2 < 1, beta2=self.beta2)
        require("epsilon > 0", self.epsilon > 0, epsilon=self.epsilon)


@dataclass(frozen=True, kw_only=True)
class OptimizersConfig(Section):
    """Adam for each network."""

    generator: AdamConfig = field(default_factory=lambda: AdamConfig(learning_rate=0.005, beta1=0.5))
    discriminator: AdamConfig = field(default_factory=lambda: AdamConfig(learning_rate=0.009, beta1=0.9))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """How long and on how much at a time."""

    batch_size: int = 8
    """Crops a step, over all workers together."""
    steps_per_epoch: int | None = None
    """Steps an epoch; none: one pass over the training photos."""
    epochs: int = 30
    seed: int = 0
    """Seed of the initial weights and of every epoch's crops and noise."""

    def _check(self) -> None:
        require("batch_size >= 1", self.batch_size >= 1, batch_size=self.batch_size)
        require("epochs >= 1", self.epochs >= 1, epochs=self.epochs)
        require("seed >= 0", self.seed >= 0, seed=self.seed)
        steps = self.steps_per_epoch
        require("steps_per_epoch >= 1 or none", steps is None or steps >= 1, steps_per_epoch=steps)


@dataclass(frozen=True, kw_only=True)
class HardwareConfig(Section):
    """What one run asks of the cluster."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: on GPUs when the cluster has any."""
    workers: int = 1
    """Training workers of one run."""
    cpus_per_worker: int = 1
    """CPU cores, and on the CPU threads, of each worker."""
    gpus_per_worker: float = 1.0
    """GPUs of each worker, when it computes on GPUs; a fraction shares one among trials."""

    def _check(self) -> None:
        require("workers >= 1", self.workers >= 1, workers=self.workers)
        require("cpus_per_worker >= 1", self.cpus_per_worker >= 1, cpus_per_worker=self.cpus_per_worker)
        require("gpus_per_worker > 0", self.gpus_per_worker > 0, gpus_per_worker=self.gpus_per_worker)


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """One complete run."""

    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizers: OptimizersConfig = field(default_factory=OptimizersConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

    def _check(self) -> None:
        batch_size, workers = self.training.batch_size, self.hardware.workers
        require(
            "training/batch_size a multiple of hardware/workers",
            batch_size % workers == 0,
            batch_size=batch_size,
            workers=workers,
        )


def flat_values(config: Section, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a configuration by its path, for example `{"loss/content_weight": 0.1, …}`."""
    leaves: dict[str, Any] = {}
    for name in _field_types(type(config)):
        value = getattr(config, name)
        if isinstance(value, Section):
            leaves.update(flat_values(value, f"{prefix}{name}/"))
        else:
            leaves[prefix + name] = value
    return leaves


def with_values(config: Config, values: Mapping[str, object]) -> Config:
    """A copy of `config` with the leaves at the given paths replaced, checked as a whole.

    Raises `ConfigError` for an unknown path (listing the valid ones) and for a value that breaks a rule.
    """
    for path in values:
        _require_known(config, path)
    replaced: Config = _replaced(config, values)
    return replaced


def parse_value(config: Config, path: str, text: str) -> object:
    """The value that `text`, as typed on a command line, means at `path`; "none" is None, commas part a list.

    Raises `ConfigError` for an unknown path or a text that is not of the path's type.
    """
    _require_known(config, path)
    owner: Section = config
    *parents, leaf = path.split("/")
    for parent in parents:
        owner = getattr(owner, parent)
    kind = _field_types(type(owner))[leaf]
    choices = typing.get_args(kind)
    if type(None) in choices and text.lower() == "none":
        return None
    if typing.get_origin(kind) is tuple:
        return _converted(path, tuple(text.split(",")), kind)
    if typing.get_origin(kind) is Literal or str in (kind, *choices):
        return _converted(path, text, kind)
    try:
        return _converted(path, json.loads(text), kind)
    except json.JSONDecodeError:
        raise ConfigError(f"{path} must be {_type_name(kind)}, but got {text!r}") from None


def _require_known(config: Config, path: str) -> None:
    known = flat_values(config)
    if path not in known:
        raise ConfigError(f"there is no setting {path!r}; the settings are:\n  " + "\n  ".join(known))


def _replaced(section: Any, values: Mapping[str, object]) -> Any:
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, object]] = {}
    for path, value in values.items():
        head, _, rest = path.partition("/")
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            changes[head] = value
    changes.update({name: _replaced(getattr(section, name), rest) for name, rest in inner.items()})
    return dataclasses.replace(section, **changes)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _field_types(section: type[Section]) -> dict[str, Any]:
    hints = typing.get_type_hints(section)
    return {one.name: hints[one.name] for one in dataclasses.fields(section)}


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(kind))
    if isinstance(kind, types.UnionType):
        return " or ".join(_type_name(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list of " + _type_name(typing.get_args(kind)[0])
    return "none" if kind is type(None) else str(kind.__name__)


def _converted(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`: exact, save that an int serves as a float and a list as a tuple."""
    if isinstance(kind, types.UnionType):
        choices = typing.get_args(kind)
        if value is None and type(None) in choices:
            return None
        return _converted(name, value, next(choice for choice in choices if choice is not type(None)))
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_converted(name, one, typing.get_args(kind)[0]) for one in value)
    if typing.get_origin(kind) is Literal:
        valid = value in typing.get_args(kind)
    elif kind in (int, float):
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        valid = valid and (isinstance(value, int) if kind is int else math.isfinite(value))
        value = kind(value) if valid else value
    else:
        valid = isinstance(value, kind)
    if not valid:
        raise ConfigError(f"{name} must be {_type_name(kind)}, but got {value!r}")
    return value
