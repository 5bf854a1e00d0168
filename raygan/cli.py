"""The command lines: of every search file, and `raygan` itself."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from raygan.config import Config
from raygan.errors import InputError
from raygan.search.experiment import Search
from raygan.section import ConfigError, parse_value, with_values


def run_search(search: Search, arguments: Sequence[str] | None = None) -> None:
    """Run a search file: apply the command line's options to its search, run the study, show the result.

    Ends the process: with 0, with 2 on bad input, or with 130 on Ctrl-C.
    """
    options = search_parser(search).parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    from raygan.search.study import Interrupted, run_study

    try:
        run_study(apply_options(search, options), options.storage)
    except InputError as error:
        _refuse(error)
    except (Interrupted, KeyboardInterrupt):
        print(f"\nStopped. Go on with the same command: {shlex.join(['python', *sys.argv])}")
        sys.exit(130)


def main(arguments: Sequence[str] | None = None) -> None:
    """The `raygan` command; ends the process with 2 on bad input."""
    parser = argparse.ArgumentParser(prog="raygan", description="Find, train and evaluate image denoisers on Ray.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetched = commands.add_parser("fetch", help="download public data ahead of a search, and print where it lies")
    fetched.add_argument("asset", choices=["coco", "bsd300", "vgg19"])
    reported = commands.add_parser("report", help="show what a finished study found")
    reported.add_argument("study", metavar="STUDY", help="the study's folder, or its s3:// gs:// prefix")
    options = parser.parse_args(arguments)
    try:
        if options.command == "fetch":
            from raygan.data.download import ASSETS, cache_folder, fetch

            print(fetch(ASSETS[options.asset], cache_folder()))
        else:
            from raygan.report import final_report
            from raygan.storage import Folder

            print(final_report(Folder(options.study)))
    except InputError as error:
        _refuse(error)


def _refuse(error: InputError) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    sys.exit(2)


def apply_options(search: Search, options: argparse.Namespace) -> Search:
    """The search as the command line changes it; raises `ConfigError` for values that break a rule."""
    if options.quick:
        search = search.quick()
    values: dict[str, object] = {
        path: value
        for path, value in {
            "data/photos": options.photos,
            "data/evaluate_on": options.evaluate_on,
            "loss/vgg19_weights": options.vgg19,
            "loss/content": "vgg19" if options.vgg19 else None,
            "training/epochs": options.epochs,
            "training/seed": options.seed,
            "hardware/workers": options.workers,
        }.items()
        if value is not None
    }
    assigned = _set_values(search.config, options.set)
    config = with_values(search.config, values | assigned)
    changes: dict[str, Any] = {
        name: value
        for name, value in {
            "name": options.name,
            "trials": options.trials,
            "trial_epochs": options.trial_epochs,
            "concurrent": options.concurrent,
            "seed": options.seed,
        }.items()
        if value is not None
    }
    changes["trial_epochs"] = min(changes.get("trial_epochs", search.trial_epochs), config.training.epochs)
    # A value that is set is not searched.
    space = {path: distribution for path, distribution in search.space.items() if path not in assigned}
    return dataclasses.replace(search, config=config, space=space, **changes)


def _set_values(config: Config, assignments: Sequence[str]) -> dict[str, object]:
    values = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set needs path=value, such as loss/adversarial_weight=0.01, but got {assignment!r}")
        values[path] = parse_value(config, path, text)
    return values


def search_parser(search: Search) -> argparse.ArgumentParser:
    """The options that every search file has."""
    parser = argparse.ArgumentParser(
        description=f"Search {search.name}: find, train and evaluate a denoiser.",
        allow_abbrev=False,
    )
    quick = search.quick()
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="the same search shrunk to minutes on two cores, on the sample photos",
    )
    add(
        "--photos",
        metavar="PATH",
        help="folder or s3:// gs:// prefix of clean photos"
        f" (default: {search.config.data.photos}, downloaded; with --quick the generated samples)",
    )
    add(
        "--evaluate-on",
        metavar="PATH",
        help="folder or prefix of photos to evaluate on"
        f" (default: {search.config.data.evaluate_on}, downloaded; with --quick the samples' evaluation photos)",
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
        help=f"the study's name; an existing one goes on (default: {search.name}, {quick.name} with --quick)",
    )
    add(
        "--trials",
        type=_count,
        metavar="N",
        help=f"trials to run (default: {search.trials}, quick {quick.trials})",
    )
    add(
        "--epochs",
        type=_count,
        metavar="N",
        help="epochs of the winner's training"
        f" (default: {search.config.training.epochs}, quick {quick.config.training.epochs})",
    )
    add(
        "--trial-epochs",
        type=_count,
        metavar="N",
        help="most epochs of a trial"
        f" (default: {search.trial_epochs}, quick {quick.trial_epochs}, never more than --epochs)",
    )
    add(
        "--concurrent",
        type=_count,
        metavar="N",
        help="trials at once (default: as many as the cluster holds)",
    )
    add(
        "--workers",
        type=_count,
        metavar="N",
        help="training workers of each trial and of the winner; 1 trains in the"
        f" trial's own process (default: {search.config.hardware.workers})",
    )
    add("--seed", type=int, metavar="N", help=f"seed of the searcher and of training (default: {search.seed})")
    add(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="set a configuration value, such as loss/content=mse, which then is not searched; repeatable;"
        " an unknown path lists all",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but is {text!r}")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", text):
        raise argparse.ArgumentTypeError(f"must be of letters, digits, '.', '_' and '-', but is {text!r}")
    return text
