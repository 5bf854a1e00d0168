"""The options of every search file, and the experiment as they change it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from raygan.config.run import Config
from raygan.search.experiment import NAME, OBJECTIVES, SCHEDULERS, SEARCHERS, Comparison, Experiment, Search
from raygan.search.space import without
from raygan.config.section import ConfigError, parse_value, with_values


def apply_options(experiment: Experiment, options: argparse.Namespace) -> Experiment:
    """The experiment as the command line changes it; raises `ConfigError` for values that break a rule."""
    if options.quick:
        experiment = experiment.quick()
    comparison = isinstance(experiment, Comparison)
    values: dict[str, object] = _given(
        {
            "data/photos": options.photos,
            "data/evaluate_on": options.evaluate_on,
            "loss/vgg19_weights": options.vgg19,
            "loss/content": "vgg19" if options.vgg19 else None,
            "training/epochs": (options.trial_epochs if comparison else None) or options.epochs,
            "training/seed": options.seed,
            "hardware/workers": options.workers,
        }
    )
    assigned = _set_values(experiment.config, options.set)
    config = with_values(experiment.config, values | assigned)
    changes: dict[str, Any] = {"config": config} | _given({"name": options.name, "concurrent": options.concurrent})
    if isinstance(experiment, Comparison):
        fixed = {path for arm in experiment.arms.values() for path in arm} & set(assigned)
        if fixed:
            raise ConfigError(f"--set {', '.join(sorted(fixed))}: the arms differ in it; edit the search file instead")
        changes |= _given({"seeds": options.trials})
        return dataclasses.replace(experiment, **changes)
    same_names = (
        *("trials", "trial_epochs", "seed", "searcher", "scheduler", "warm_start", "time_budget"),
        *("objectives", "grace_epochs", "stop_collapsed", "max_parameters", "max_milliseconds"),
        *("together", "trials_only"),
    )
    changes |= _given({name: getattr(options, name) for name in same_names})
    if len(options.objectives or ()) > 1 and options.scheduler is None:
        changes["scheduler"] = "none"
    changes["trial_epochs"] = min(changes.get("trial_epochs", experiment.trial_epochs), config.training.epochs)
    # A value that is set is not searched.
    changes["space"] = without(experiment.space, assigned)
    return dataclasses.replace(experiment, **changes)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _set_values(config: Config, assignments: Sequence[str]) -> dict[str, object]:
    values = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set needs path=value, such as loss/adversarial_weight=0.01, but got {assignment!r}")
        values[path] = parse_value(config, path, text)
    return values


def search_parser(experiment: Experiment) -> argparse.ArgumentParser:
    """The options that every search file has."""
    config, quick = experiment.config, experiment.quick()
    comparison = isinstance(experiment, Comparison)
    does = "compare arms, each trained with several seeds" if comparison else "find, train and evaluate a denoiser"
    parser = argparse.ArgumentParser(description=f"{experiment.name}: {does}.", allow_abbrev=False)
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="the same experiment shrunk to minutes on two cores, on the sample photos",
    )
    add(
        "--photos",
        metavar="PATH",
        help="folder or s3:// gs:// prefix of clean photos"
        f" (default: {config.data.photos}, downloaded; with --quick the generated samples)",
    )
    add(
        "--evaluate-on",
        metavar="PATH",
        help="folder or prefix of photos to evaluate on"
        f" (default: {config.data.evaluate_on}, downloaded; with --quick the samples' evaluation photos)",
    )
    add(
        "--vgg19",
        metavar="FILE",
        help="VGG19 weights for the content loss, Keras's .npz or torchvision's .pth"
        " (default: torchvision's, downloaded; with --quick none: the content loss is the pixels' squared error)",
    )
    add(
        "--storage",
        metavar="PATH",
        default="studies",
        help="folder or s3:// gs:// prefix that holds studies (default: studies)",
    )
    add(
        "--name",
        type=_name,
        help=f"the study's name; an existing one goes on (default: {experiment.name}, {quick.name} with --quick)",
    )
    epochs = f"(default: {config.training.epochs}, quick {quick.config.training.epochs})"
    if isinstance(experiment, Comparison):
        help_of = {
            "trials": f"trials of each arm, each with its own seed (default: {experiment.seeds})",
            "epochs": f"epochs of every trial {epochs}",
            "trial-epochs": "the same as --epochs, since every trial of a comparison gets the full budget",
        }
    else:
        help_of = {
            "trials": "trials to run; 0 trains the configuration as it is"
            f" (default: {experiment.trials}, quick {quick.trials})",
            "epochs": f"epochs of the winner's training {epochs}",
            "trial-epochs": "most epochs of a trial"
            f" (default: {experiment.trial_epochs}, quick {quick.trial_epochs}, never more than --epochs)",
        }
    add("--trials", "--max-trials", type=count if comparison else _whole, metavar="N", help=help_of["trials"])
    add("--epochs", type=count, metavar="N", help=help_of["epochs"])
    add("--trial-epochs", type=count, metavar="N", help=help_of["trial-epochs"])
    add(
        "--concurrent",
        type=count,
        metavar="N",
        help="trials at once; an autoscaler is asked for their machines (default: as many as the cluster holds)",
    )
    if isinstance(experiment, Search):
        add(
            "--searcher",
            choices=SEARCHERS,
            help="who proposes trials; cmaes: only where all searched values are numbers"
            f" (default: {experiment.searcher})",
        )
        add(
            "--scheduler",
            choices=SCHEDULERS,
            help="who ends trials early, or changes them on the way (pbt: population-based training)"
            f" (default: {experiment.scheduler})",
        )
        add(
            "--objectives",
            type=_objectives,
            metavar="NAME[,NAME]",
            help=f"what is searched for: {', '.join(OBJECTIVES)}, or several at once, whose trials get the full budget"
            f" (default: {','.join(experiment.objectives)})",
        )
        add(
            "--grace-epochs",
            type=_whole,
            metavar="N",
            help="end trials that after so many epochs are still worse than the noisy input; 0: never"
            " (default: a fifth of a trial's epochs, at least 3, with the schedulers asha and median)",
        )
        add(
            "--stop-collapsed",
            action="store_true",
            default=None,
            help="end trials whose discriminator's accuracies have been pinned at 0 or 1 for three epochs",
        )
        add(
            "--time-budget",
            type=float,
            metavar="MINUTES",
            help="end the trials after so long, over all starts of the study; the winner's training and the evaluation"
            " come on top (default: none)",
        )
        add(
            "--warm-start",
            metavar="STUDY",
            help="folder or s3:// gs:// prefix of an earlier search: its best points are tried first, and its trials"
            " are known to the searcher where it searched the same",
        )
        add(
            "--max-parameters",
            type=count,
            metavar="N",
            help="most trainable parameters that a trial's generator may have (default: no limit)",
        )
        add(
            "--max-milliseconds",
            type=float,
            metavar="MS",
            help="most milliseconds that it may take on one crop, here, beside whatever runs (default: no limit)",
        )
        add(
            "--together",
            type=_name,
            metavar="NAME",
            help="share the trials with the other drivers that are given the same, in the Optuna study NAME of"
            " --optuna-storage: what one learns, all know; each driver has its own --name, and runs its own --trials",
        )
        add(
            "--trials-only",
            action="store_true",
            default=None,
            help="end after the trials; without it, the same command goes on to the winner: the best trial of this"
            " search, or, with --together, the best by then of all drivers",
        )
    add(
        "--optuna-storage",
        metavar="URL",
        help="database that records the trials for Optuna's tools, such as postgresql://… or sqlite:///…"
        " (default: a journal file in the study's folder, unless that is in a bucket)",
    )
    add(
        "--wait",
        type=_whole,
        metavar="SECONDS",
        default=120,
        help="how long an autoscaler has to make room for one trial (default: 120)",
    )
    add(
        "--workers",
        type=count,
        metavar="N",
        help="training workers of each trial and of the winner; 1 trains in the"
        f" trial's own process (default: {config.hardware.workers})",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help=f"seed of the searcher and of training, or of each arm's first trial (default: {experiment.seed})",
    )
    add(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="set a configuration value, such as loss/content=mse, which then is not searched; repeatable;"
        " an unknown path lists all",
    )
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, but is {text!r}")
    return int(text)


def count(text: str) -> int:
    """A whole number of at least 1, as `argparse` takes its types."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but is {text!r}")
    return int(text)


def _objectives(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(OBJECTIVES):
        raise argparse.ArgumentTypeError(f"must be some of {', '.join(OBJECTIVES)}, parted by commas, but is {text!r}")
    return names


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be of letters, digits, '.', '_' and '-', but is {text!r}")
    return text
