"""The command lines: `raygan COMMAND`, and those of search files. One function per command."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import pkgutil
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from raygan.config.kinds import LEVELS, Level
from raygan.config.run import MAX_MEGAPIXELS, Precision
from raygan.config.service import Service
from raygan.errors import InputError, redacted
from raygan.weights import DEFAULT

if TYPE_CHECKING:
    from raygan.storage import Folder

logger = logging.getLogger(__name__)

DATABASE = "RAYGAN_OPTUNA_STORAGE"
"""Environment variable for `--optuna-storage`, whose password a command line would show to all on the machine."""
FILTERS = Literal[
    "median", "decision_median", "bilateral", "nonlocal_means", "total_variation", "wavelet", "bm3d", "all"
]


def run_search(experiment: Any, arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run a search file: apply the command line's options to its experiment, run the study, show the result.

    Ends the process: with 0, with 2 on bad input, or with 130 on Ctrl-C or SIGTERM.
    """
    # As Ctrl-C, from the start: before Ray runs, downloads may take minutes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        from raygan.search.options import parse_options

        given = sys.argv[1:] if arguments is None else arguments
        experiment, options = parse_options(experiment, prog or Path(sys.argv[0]).name, given)
        experiment.check()
        from raygan.search.prepare import with_starting_network
        from raygan.search.study import run_study

        experiment = with_starting_network(experiment)
        database = options.optuna_storage or os.environ.get(DATABASE)
        run_study(experiment, options.storage, options.wait, database, options.track)
    except (InputError, OSError) as error:
        _end_with(error)
    except KeyboardInterrupt:
        # A second Ctrl-C ends what the first one still waits for.
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        command = ["python", *sys.argv] if prog is None else ["raygan", *sys.argv[1:]]
        print(f"\nStopped. Resume with the same command: {redacted(shlex.join(command))}")
        sys.exit(130)


def main(arguments: Sequence[str] | None = None) -> None:
    """The `raygan` command; ends the process with 2 on bad input, or with 130 on Ctrl-C."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    functions = (
        *(_search, _train, _denoise, _evaluate, _noise, _report, _compare),
        *(_dashboard, _track, _serve, _export, _fetch),
    )
    commands: dict[str, Callable[..., None]] = {function.__name__[1:]: function for function in functions}
    description = "Find, train and evaluate image denoisers on Ray."
    config = (tyro.conf.FlagCreatePairsOff,)
    try:
        # What follows the experiment's name depends on the experiment.
        if len(given) > 1 and given[0] in ("search", "train") and not given[1].startswith("-"):
            commands[given[0]](*given[1:])
        else:
            tyro.extras.subcommand_cli_from_dict(
                commands, prog="raygan", description=description, args=given, config=config
            )
        sys.stdout.flush()
    except (InputError, OSError) as error:
        _end_with(error)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)


def load_experiment(name: str) -> Any:
    """The `SEARCH` of a Python file, or of the search of that name that comes with RayGAN.

    Raises `InputError` if there is none.
    """
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise InputError(f"{name} is not a file; give a search file, or the name of a search such as v1")
        # Its own classes are stored by its name, and sent to workers by value, which need not have the file.
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(module)
    else:
        try:
            module = importlib.import_module(f"raygan.searches.{name}")
        except ModuleNotFoundError as error:
            searches = pkgutil.iter_modules(importlib.import_module("raygan.searches").__path__)
            known = ", ".join(search.name for search in searches)
            raise InputError(f"there is no search {name!r}; there are {known}, or give a .py file") from error
    if not hasattr(module, "SEARCH"):
        raise InputError(f"{name} defines no SEARCH: assign it a Search or a Comparison")
    return module.SEARCH


def _search(experiment: Positional[str], *options: Positional[str]) -> None:
    """Run a search or a comparison: trials, the winner's training, evaluation.

    Args:
        experiment: A search file (FILE.py), or the name of one that comes with RayGAN, such as v1.
        options: Options of the experiment: see `raygan search EXPERIMENT --help`.
    """
    run_search(load_experiment(experiment), options, prog=f"raygan search {experiment}")


def _train(experiment: Positional[str], *options: Positional[str]) -> None:
    """Train a search's configuration as it is, without trials.

    Args:
        experiment: A search file (FILE.py), or the name of one that comes with RayGAN, such as v1.
        options: Options of the experiment: see `raygan train EXPERIMENT --help`.
    """
    loaded = load_experiment(experiment)
    if not loaded.has_winner:
        raise InputError(f"{experiment} is a comparison: run it with raygan search {experiment}")
    if any(option.partition("=")[0] == "--trials" for option in options):
        raise InputError(f"raygan train runs no trials: leave --trials out, or run raygan search {experiment}")
    run_search(loaded, (*options, "--trials", "0"), prog=f"raygan train {experiment}")


@dataclass(frozen=True)
class _Computation:
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on."""
    precision: Precision = "auto"
    """bfloat16 is slightly less exact, and faster on processors that support it, but much slower on others; auto
    chooses it where it is faster, for residual U-Nets, such as those that come with RayGAN."""
    self_ensemble: bool = False
    """Average over all flips and turns of the image: a little better, and eight times as slow."""
    strength: float = 1.0
    """How much of the noise is removed: 0 (none) to 1.5; 1 is what the denoiser was trained for."""


def _denoise(
    noisy: Positional[str],
    denoised: Positional[str],
    checkpoint: str = DEFAULT,
    computation: OmitArgPrefixes[_Computation] = _Computation(),
    error_map: str | None = None,
    ray: bool = False,
    max_megapixels: int = MAX_MEGAPIXELS,
) -> None:
    """Denoise an image file or a folder of them.

    Args:
        noisy: An image file, or a folder or s3:// gs:// prefix of images.
        denoised: The file or folder to write; never the input.
        checkpoint: A denoiser's folder, such as STUDY/best, one that comes with RayGAN: synthetic, camera (for photos
            from cameras), small (faster), found (by a search) or baseline, a model file of another project, such as
            drunet.pth, or OWNER/NAME or OWNER/NAME@REVISION on the Hugging Face hub.
        computation: How to compute.
        error_map: PNG or TIFF file to write as well, for a single image: 16-bit grey, where value / 65535 bounds each
            pixel's error before rounding, in the image's scale from 0 to 1, for about 90 % of the pixels, if the
            denoiser knows the noise.
        ray: Distribute a folder over the GPUs, or else the cores, of a Ray cluster.
        max_megapixels: Refuse larger images, before they take memory.
    """
    from raygan.inference.denoiser import Denoiser
    from raygan.inference.files import denoise_path

    # Loaded here also for a cluster, whose machines may be unable to read the checkpoint or import its network.
    device = computation.device
    denoiser = Denoiser.from_pretrained(
        checkpoint,
        device="cpu" if ray else device,
        precision=computation.precision,
        self_ensemble=computation.self_ensemble,
        strength=computation.strength,
    )
    problems = denoise_path(
        denoiser,
        noisy,
        denoised,
        max_megapixels=max_megapixels,
        ray_device=device if ray else None,
        error_map=error_map,
    )
    if problems:
        print("\n".join(["Skipped:", *problems]), file=sys.stderr)
        sys.exit(1)


@dataclass(frozen=True)
class _Evaluation:
    evaluate_on: str = "bsd300"
    """bsd300, samples, or a folder or prefix of clean photos."""
    pairs: str | None = None
    """Evaluate on pairs instead: a folder or prefix with files of the same names in noisy/ and clean/, or a CSV file
    with the columns noisy and clean."""
    protocol: Literal["awgn15", "awgn25", "awgn50"] | None = None
    """Unclipped Gaussian noise of standard deviation 15, 25 or 50 (of 255), as in the literature, on CBSD68 if the
    photos contain it. None: the denoiser's own noises, clipped to [0, 1]."""
    out_of_distribution: bool = False
    """Add noise that `baseline` was not trained on: stronger, Poisson, JPEG and others."""
    max_megapixels: int = MAX_MEGAPIXELS
    """Skip larger photos, before they take memory."""
    self_ensemble: bool = False
    """Let the denoisers average over all flips and turns of an image, which takes eight times as long."""
    undo_clipping: bool = False
    """Show nonlocal_means and bm3d on Gaussian noise a second time, without the bias that clipping gives them, which
    takes the noise's standard deviation as known."""


def _evaluate(
    checkpoints: Positional[tuple[str, ...]] = (DEFAULT,),
    evaluation: OmitArgPrefixes[_Evaluation] = _Evaluation(),
    output: str = "evaluation",
    filters: tuple[FILTERS, ...] = ("median",),
    levels: tuple[Level, ...] = LEVELS,
    lpips: bool = False,
) -> None:
    """Compare denoisers with each other and with classical filters.

    Args:
        checkpoints: Folders or prefixes of denoisers, such as STUDY/best, or those that come with RayGAN: synthetic,
            camera, small, found or baseline.
        evaluation: What to evaluate on, and how to denoise.
        output: Folder for the tables and pictures.
        filters: Classical filters; bm3d needs the package bm3d.
        levels: Noise levels.
        lpips: Compute LPIPS too, at the mean level; needs pip install 'raygan[lpips]' and its pretrained weights.
    """
    from raygan.data.sources import PairFolder
    from raygan.evaluation.classical import AVERAGING, filters_named
    from raygan.evaluation.evaluate import evaluate_checkpoints
    from raygan.evaluation.job import EvaluationSettings
    from raygan.evaluation.out_of_distribution import OUT_OF_DISTRIBUTION
    from raygan.evaluation.perceptual import Lpips
    from raygan.evaluation.protocols import PROTOCOLS
    from raygan.report.tables import evaluation_table

    if lpips and "mean" not in levels:
        raise InputError("--lpips is computed at the mean level: add mean to --levels, or leave one of them out")
    settings = EvaluationSettings(
        filters_named(filters),
        levels,
        Lpips() if lpips else None,
        evaluation.self_ensemble,
        evaluation.undo_clipping,
    )
    protocol = PROTOCOLS[evaluation.protocol] if evaluation.protocol is not None else None
    if (evaluation.pairs is not None) + evaluation.out_of_distribution + (protocol is not None) > 1:
        raise InputError("give one of --pairs, --out-of-distribution and --protocol: each has its own noise")
    if evaluation.undo_clipping and not set(AVERAGING) & set(settings.filters):
        raise InputError(
            f"--undo-clipping is for filters that average: give --filters {' or '.join(AVERAGING)} as well"
        )
    if evaluation.undo_clipping and (evaluation.pairs is not None or protocol is not None):
        raise InputError(
            "leave --undo-clipping out: the noise of pairs is not known, and that of protocols not clipped"
        )
    if evaluation.pairs is not None and evaluation.evaluate_on != _Evaluation.evaluate_on:
        raise InputError("give --pairs or --evaluate-on: pairs are evaluated instead of photos")
    if levels != LEVELS and (evaluation.pairs is not None or protocol is not None):
        raise InputError("leave --levels out: pairs and protocols have no noise levels")
    if protocol is not None:
        settings = replace(settings, levels=("mean",))
    summary = evaluate_checkpoints(
        checkpoints,
        PairFolder(location=evaluation.pairs) if evaluation.pairs is not None else evaluation.evaluate_on,
        output,
        settings,
        max_megapixels=evaluation.max_megapixels,
        noises=OUT_OF_DISTRIBUTION if evaluation.out_of_distribution else None,
        protocol=protocol,
    )
    print(f"\n{evaluation_table(summary)}\n\nWritten to {output}: per_image.csv, summary.csv, pictures/")


@dataclass(frozen=True)
class _Frames:
    flat_frames: str | None = None
    """Folder of your own raw frames of a grey card: 16-bit grey TIFF or PNG files of the mosaic, not demosaicked."""
    black: float = 0.0
    """Value of black in these frames."""
    white: float = 65535.0
    """Value of white in these frames."""


def _noise(
    photo: Positional[str],
    picture: Positional[str],
    camera: str | None = None,
    iso: float = 3200.0,
    profiles: str | None = None,
    frames: OmitArgPrefixes[_Frames] = _Frames(),
) -> None:
    """Show the noise of a camera model on a clean photo, and print the settings to train with it.

    Args:
        photo: A clean photo.
        picture: PNG file to write: the photo without and with noise, and the variance curve.
        camera: Camera model that darktable has measured, such as "Canon EOS 6D".
        iso: ISO of the shot.
        profiles: darktable's noiseprofiles.json; the default is that of the installed darktable.
        frames: Your own measurement.
    """
    from raygan.noise.calibration import darktable_profile, profile_of_frames, read_frames
    from raygan.report.noise import noise_picture

    if (camera is None) == (frames.flat_frames is None):
        raise InputError("give --camera MODEL or --flat-frames FOLDER")
    if camera is not None:
        profile = darktable_profile(camera, iso, profiles)
    else:
        profile = profile_of_frames(read_frames(str(frames.flat_frames)), iso, frames.black, frames.white)
    noise_picture(photo, profile, picture)
    model = profile.camera()
    # Of another camera's model, these would stay.
    values = {"shot": model.shot, "read": model.read, "low": 0.0, "high": profile.stops}
    print(f"Variance of raw values x in [0, 1] at ISO {iso:g}: {profile.shot:.4g} x + {profile.read:.4g}")
    options = " ".join(f"--set noises/camera/{name}={value:.4g}" for name, value in values.items())
    print(f"To train with it: --set noises=camera {options}\nWritten: {picture}")


def _folders_of(studies: tuple[str, ...]) -> list[Folder]:
    """The folders; of several, such as studies/*, those that hold no study, or none yet, are left out."""
    from raygan.storage import Folder

    if not studies:
        raise InputError("give the folder of a study")
    folders = [Folder(study) for study in studies]
    if not (found := [folder for folder in folders if folder.exists("study.json")]):
        # What reads them tells why.
        return folders
    if without := [str(folder) for folder in folders if folder not in found]:
        logger.warning("no study, or none yet: %s", ", ".join(without))
    return found


def _report(studies: Positional[tuple[str, ...]], output: str | None = None) -> None:
    """Write a page of tables and figures about finished studies.

    Args:
        studies: Folders or s3:// gs:// prefixes of studies; several share a page.
        output: Folder to write to; the default is the first study's report/.
    """
    from raygan.report.study import report
    from raygan.storage import Folder

    written = report(_folders_of(studies), Folder(output) if output else None)
    print(f"Open {written.address('report.html')}; the same tables are in report.md and tables/")


def _compare(studies: Positional[tuple[str, ...]], csv: str | None = None) -> None:
    """Tabulate studies, running or finished, side by side.

    Args:
        studies: Folders or s3:// gs:// prefixes of studies.
        csv: File to write the table to, with all digits.
    """
    from raygan.report.compare import read_studies, side_by_side, studies_table
    from raygan.storage import split_file

    rows = read_studies(_folders_of(studies))
    if csv is not None:
        target, name = split_file(csv)
        target.require_writable()
        target.write(name, studies_table(rows).to_csv(index=False))
    print(side_by_side(rows) + (f"\n\nWritten: {csv}" if csv else ""))


def _dashboard(
    studies: Positional[tuple[str, ...]],
    port: int = 8080,
    tensorboard_port: int = 6006,
    optuna_storage: str | None = None,
) -> None:
    """Watch studies, running or finished, in a browser, on this machine only: progress, trials, scalars and pictures.

    Args:
        studies: Folders or s3:// gs:// prefixes of studies.
        port: Port of the page on 127.0.0.1, and of the first study's optuna-dashboard; others take the next ports.
        tensorboard_port: Port of TensorBoard on 127.0.0.1.
        optuna_storage: The database that the search was given; the default is the study's own file.
    """
    from raygan.dashboard import watch

    watch(_folders_of(studies), port, tensorboard_port, optuna_storage or os.environ.get(DATABASE))


def _serve(
    service: OmitArgPrefixes[Service] = Service(),  # noqa: B008  (it is immutable)
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Denoise images over HTTP, on Ray Serve: a page to drop images on, and an API.

    Args:
        service: What to offer, and its limits.
        host: Address to listen on. On others than 127.0.0.1, requests must have the token of the environment variable
            RAYGAN_SERVE_TOKEN, or else the one that is printed.
        port: Port to listen on.
    """
    try:
        from raygan.inference.serve import run_service
    except ModuleNotFoundError as error:
        raise InputError(f"{error}; raygan serve needs: pip install 'raygan[serve]'") from error
    run_service(service, host, port)


def _track(study: Positional[str], tracker: Positional[Literal["mlflow", "wandb"]]) -> None:
    """Write a study, running or finished, to an experiment tracker; what it has already is not added twice.

    Args:
        study: A study's folder, or its s3:// gs:// prefix.
        tracker: Where to: by its own environment variables, such as MLFLOW_TRACKING_URI and WANDB_MODE. The defaults
            are MLflow's local database, and offline files of wandb.
    """
    from raygan.report.track import open_tracker
    from raygan.storage import Folder

    opened = open_tracker(tracker)
    try:
        opened.update(Folder(study))
        opened.close()
    except InputError:
        raise
    # Whatever the tracker's client raises.
    except Exception as error:
        raise InputError(f"{tracker} cannot be written: {error}") from error
    print(f"{study} is in {tracker}")


def _export(
    checkpoint: Positional[str],
    file: Positional[str],
    precision: Literal["float32", "float16", "int8"] | None = None,
) -> None:
    """Write a denoiser as ONNX, for darktable, as a torch.export program, or in half precision.

    Args:
        checkpoint: A denoiser's folder, such as STUDY/best.
        file: File to write: its name ends in .onnx or .pt2, or is denoise-NAME.dtmodel, for darktable, or
            generator.safetensors, in half precision.
        precision: Precision of .onnx and .dtmodel files; float16 and int8 need onnxruntime, and what they lose is
            measured, printed, and written beside the file. The default is float32.
    """
    from raygan.inference.export import export

    if (parity := export(checkpoint, file, precision)) is not None:
        print(parity)


def _fetch(asset: Positional[Literal["coco", "bsd300", "vgg19"]]) -> None:
    """Download public data ahead of a search, and print its location.

    Args:
        asset: What to download.
    """
    from raygan.data.download import BSD300, COCO, VGG19, cache_folder, fetch

    print(fetch({"coco": COCO, "bsd300": BSD300, "vgg19": VGG19}[asset], cache_folder()))


def _end_with(error: InputError | OSError) -> NoReturn:
    """End the process with what the user or a file system did, in a line; what Ray's processes raise stays as it is."""
    if isinstance(error, BrokenPipeError):
        # What reads our output, such as `head`, has enough; Python would complain at its end once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # As a shell reports a program that the signal ended.
        sys.exit(128 + signal.SIGPIPE)
    if not isinstance(error, InputError) and (isinstance(error, TimeoutError) or type(error).__module__ != "builtins"):
        raise error
    print(f"{Path(sys.argv[0]).name}: {redacted(str(error))}", file=sys.stderr)
    sys.exit(2)
