"""The command line of an experiment, derived from its fields: names, types, defaults and help."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from raygan.config.run import Config
from raygan.config.section import ConfigError, field_docs, flat_values, kind_at, parse_value, type_at, with_values
from raygan.report.track import TrackerName
from raygan.search.experiment import NAME, Experiment

SHORTCUTS = {
    "photos": "data/photos",
    "pairs": "data/pairs",
    "evaluate_on": "data/evaluate_on",
    "epochs": "training/epochs",
    "workers": "hardware/workers",
}
"""Options for values of the configuration that are set often, by path."""
HIDDEN = ("config", "space", "first_points", "arms")
"""Fields of an experiment that only a search file can set."""


@dataclass(frozen=True)
class RunOptions:
    """Options that say how and where an experiment runs."""

    quick: bool = False
    """Shrink the experiment to minutes on two cores, on the sample photos, without VGG19."""
    vgg19: str | None = None
    """File of VGG19 weights for the content loss, Keras's .npz or torchvision's .pth."""
    storage: str = "studies"
    """Folder or s3:// gs:// prefix that holds studies; a study of the same name there is resumed."""
    optuna_storage: str | None = None
    """Database URL that holds the trials, such as postgresql://… or sqlite:///…; one with a password belongs into the
    environment variable RAYGAN_OPTUNA_STORAGE. None: a file in the study's folder."""
    track: TrackerName | None = None
    """Show the study in an experiment tracker while it runs: mlflow or wandb, by that one's own environment variables,
    such as MLFLOW_TRACKING_URI and WANDB_MODE. TensorBoard's files are always written."""
    wait: int = 120
    """Seconds that an autoscaler has to make room for one trial."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = field(default=())
    """PATH=VALUE: set a value of the configuration, such as loss/content=MeanSquaredError, which then is not searched;
    repeatable. An unknown path lists all paths."""


def parse_options(experiment: Experiment, prog: str, arguments: Sequence[str]) -> tuple[Experiment, RunOptions]:
    """The experiment as the command line changes it, and how it is to run.

    Raises `ConfigError` for values that break a rule; ends the process with 2 for unknown options, with 0 for --help.
    """
    if "--quick" in arguments:
        experiment = experiment.quick()
    options = _options(experiment)
    fields = [
        (name, Annotated[kind, tyro.conf.arg(help=doc)], field(default=default))
        for name, (kind, default, doc) in options.items()
    ]
    does = "Find, train and evaluate a denoiser" if experiment.has_winner else "Compare arms, each with several seeds"
    parsed: Any = tyro.cli(
        dataclasses.make_dataclass("Options", fields),
        prog=prog,
        description=f"{does}: {experiment.name}.",
        args=list(arguments),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    values = vars(parsed)
    given = {name: values[name] for name, (_, default, _) in options.items() if values[name] != default}
    run = RunOptions(**{one.name: values[one.name] for one in dataclasses.fields(RunOptions)})
    return _changed(experiment, given, run), run


def _options(experiment: Experiment) -> dict[str, tuple[Any, Any, str]]:
    """The type, default and help of each option."""
    options: dict[str, tuple[Any, Any, str]] = {}
    for owner in (experiment, RunOptions()):
        hints, docs = typing.get_type_hints(type(owner), include_extras=True), field_docs(type(owner))
        for one in dataclasses.fields(owner):
            if one.name not in HIDDEN:
                options[one.name] = hints[one.name], getattr(owner, one.name), docs[one.name]
    # A search has it among its fields.
    options.setdefault("seed", (int, experiment.settings.seed, "Seed of each arm's first trial."))
    for name, path in SHORTCUTS.items():
        section, _, leaf = path.partition("/")
        kind, default = type_at(experiment.config, path), flat_values(experiment.config)[path]
        # A kind is given by its name, or by a text that means one.
        if kind_at(kind) is not None:
            kind = str if default is not None else str | None
        docs = field_docs(type(getattr(experiment.config, section)))
        options[name] = kind, default, docs[leaf]
    return options


def _changed(experiment: Experiment, given: dict[str, Any], run: RunOptions) -> Experiment:
    """The experiment with the given options."""
    values: dict[str, object] = {path: given[name] for name, path in SHORTCUTS.items() if name in given}
    if "seed" in given:
        values["training/seed"] = given["seed"]
    if run.vgg19 is not None:
        values |= {"loss/content": "Vgg19Features", "loss/content/weights": run.vgg19}
    assigned = _assignments(with_values(experiment.config, values), run.set)
    config = with_values(experiment.config, values | assigned)
    if not NAME.fullmatch(name := given.get("name", experiment.name)):
        raise ConfigError(f"--name must have letters, digits, '.', '_' and '-' only, but got {name!r}")
    own = {one.name for one in dataclasses.fields(experiment)} - set(HIDDEN)
    return experiment.changed(config, set(assigned), {name: given[name] for name in given if name in own})


def _assignments(config: Config, assignments: Sequence[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    known = config
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set needs path=value, such as loss/adversarial_weight=0.01, but got {assignment!r}")
        # A kind that was set before has paths of its own. Values that are valid only together are checked at the end.
        with contextlib.suppress(ConfigError):
            known = with_values(config, values)
        values[path] = parse_value(known, path, text)
    return values
