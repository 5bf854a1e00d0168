"""The command lines: of every search file, and `raygan` itself."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from raygan.config.run import PRECISIONS
from raygan.errors import InputError
from raygan.search.experiment import Experiment
from raygan.search.options import apply_options, count, search_parser
from raygan.weights import SHIPPED


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(text.split(","))


def run_search(experiment: Experiment, arguments: Sequence[str] | None = None) -> None:
    """Run a search file: apply the command line's options to its experiment, run the study, show the result.

    Ends the process: with 0, with 2 on bad input, or with 130 on Ctrl-C or SIGTERM.
    """
    options = search_parser(experiment).parse_args(arguments)
    # As Ctrl-C, from the start: before Ray runs, downloads may take minutes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        experiment = apply_options(experiment, options)
    except InputError as error:
        _refuse(error)
    try:
        # Here, since importing Ray and torch takes seconds, which a wrong option need not wait for.
        from raygan.search.study import run_study

        run_study(experiment, options.storage, options.wait, options.optuna_storage)
    except InputError as error:
        _refuse(error)
    except KeyboardInterrupt:
        print(f"\nStopped. Go on with the same command: {shlex.join(['python', *sys.argv])}")
        sys.exit(130)


def main(arguments: Sequence[str] | None = None) -> None:
    """The `raygan` command; ends the process with 2 on bad input."""
    parser = argparse.ArgumentParser(prog="raygan", description="Find, train and evaluate image denoisers on Ray.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetched = commands.add_parser("fetch", help="download public data ahead of a search, and print where it lies")
    fetched.add_argument("asset", choices=["coco", "bsd300", "vgg19"])
    reported = commands.add_parser("report", help="write a page of tables and figures of finished studies")
    reported.add_argument(
        "studies", metavar="STUDY", nargs="+", help="a study's folder, or its s3:// gs:// prefix; several share a page"
    )
    reported.add_argument("--output", metavar="PATH", help="where to write (default: the first STUDY's report/)")
    compared = commands.add_parser("compare", help="tabulate studies, running or finished, side by side")
    compared.add_argument(
        "studies", metavar="STUDY", nargs="+", help="a study's folder, or its s3:// gs:// prefix; a row each"
    )
    compared.add_argument("--csv", metavar="FILE", help="write the table, its values in full, as CSV too")
    watched = commands.add_parser(
        "dashboard", help="watch a study, running or finished, in optuna-dashboard and TensorBoard"
    )
    watched.add_argument("study", metavar="STUDY", help="a study's folder, or its s3:// gs:// prefix")
    watched.add_argument("--port", type=count, default=8080, help="optuna-dashboard's, on 127.0.0.1 (default: 8080)")
    watched.add_argument(
        "--tensorboard-port", type=count, default=6006, help="TensorBoard's, on 127.0.0.1 (default: 6006)"
    )
    watched.add_argument(
        "--optuna-storage", metavar="URL", help="the database that the search was given (default: the study's files)"
    )
    denoised = commands.add_parser("denoise", help="denoise an image file, or a folder of them")
    denoised.add_argument("noisy", metavar="NOISY", help="an image file, or a folder or s3:// gs:// prefix of images")
    denoised.add_argument("denoised", metavar="DENOISED", help="the file, or the folder, to write; never the input")
    denoised.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        default=SHIPPED,
        help="a denoiser's folder, such as STUDY/best (default: the denoiser that comes with RayGAN)",
    )
    denoised.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: auto)")
    denoised.add_argument(
        "--tile", type=count, default=512, metavar="PIXELS", help="side of the tiles, which bound memory (default: 512)"
    )
    denoised.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="bfloat16: faster where the processor computes in it, a little less exact (default: float32)",
    )
    denoised.add_argument(
        "--ray", action="store_true", help="divide a folder among the GPUs, or else cores, of a Ray cluster"
    )
    evaluated = commands.add_parser("evaluate", help="compare denoisers with each other and with classical filters")
    evaluated.add_argument(
        "checkpoints",
        metavar="CHECKPOINT",
        nargs="*",
        default=[SHIPPED],
        help="a denoiser's folder, such as STUDY/best, or its prefix (default: the denoiser that comes with RayGAN)",
    )
    evaluated.add_argument(
        "--evaluate-on", metavar="PHOTOS", default="bsd300", help='"bsd300" (default), "samples", or a folder or prefix'
    )
    evaluated.add_argument("--output", metavar="FOLDER", default="evaluation", help="(default: evaluation)")
    evaluated.add_argument(
        "--filters",
        metavar="NAMES",
        type=names,
        default=("median",),
        help="classical filters, commas between: median (default), bilateral, nonlocal_means, total_variation, "
        "wavelet, bm3d (where that package is installed), or all",
    )
    evaluated.add_argument(
        "--levels", metavar="NAMES", type=names, default=("low", "mean", "high"), help="(default: low,mean,high)"
    )
    evaluated.add_argument(
        "--unseen",
        action="store_true",
        help="noise that no denoiser is trained on instead: stronger, Poisson, JPEG, two kinds at once, grey, smooth",
    )
    evaluated.add_argument("--vgg19", metavar="FILE", help="VGG19's weights, for vgg_distance")
    exported = commands.add_parser(
        "export", help="write a denoiser as ONNX, as a torch.export program, or in half precision"
    )
    exported.add_argument("checkpoint", metavar="CHECKPOINT", help="a denoiser's folder, such as STUDY/best")
    exported.add_argument(
        "file",
        metavar="FILE",
        help="what to write: a name that ends in .onnx or .pt2, or generator.safetensors, in half precision",
    )
    options = parser.parse_args(arguments)
    try:
        if options.command == "evaluate":
            from raygan.evaluation.evaluate import evaluate_checkpoints
            from raygan.report.tables import evaluation_table

            summary = evaluate_checkpoints(
                options.checkpoints,
                options.evaluate_on,
                options.output,
                options.filters,
                options.levels,
                options.vgg19,
                unseen=options.unseen,
            )
            print(f"\n{evaluation_table(summary)}")
            print(f"\nWritten: {options.output}/per_image.csv, summary.csv, pictures/")
        elif options.command == "export":
            from raygan.inference.export import export

            export(options.checkpoint, options.file)
        elif options.command == "denoise":
            from raygan.inference.files import denoise_path

            problems = denoise_path(
                options.noisy,
                options.denoised,
                options.checkpoint,
                options.device,
                options.tile,
                options.precision,
                on_ray=options.ray,
            )
            if problems:
                print("\n".join(["Passed over:", *problems]), file=sys.stderr)
                sys.exit(1)
        elif options.command == "dashboard":
            from raygan.dashboard import watch
            from raygan.study.storage import Folder

            watch(Folder(options.study), options.port, options.tensorboard_port, options.optuna_storage)
        elif options.command == "fetch":
            from raygan.data.download import ASSETS, cache_folder, fetch

            print(fetch(ASSETS[options.asset], cache_folder()))
        elif options.command == "compare":
            from raygan.report.compare import read_studies, side_by_side, studies_table
            from raygan.study.storage import Folder

            place, name = os.path.split(options.csv or "")
            if options.csv:
                Folder(place or ".").require_writable()
            rows = read_studies(Folder(study) for study in options.studies)
            print(side_by_side(rows))
            if options.csv:
                Folder(place or ".").write(name, studies_table(rows).to_csv(index=False))
                print(f"\nWritten: {options.csv}")
        else:
            from raygan.report.study import report
            from raygan.report.terminal import final_report
            from raygan.study.storage import Folder

            studies = [Folder(study) for study in options.studies]
            written = report(studies, Folder(options.output) if options.output else None)
            print("\n\n".join(final_report(study) for study in studies))
            print(f"\nOpen {written}/report.html; the same tables are in report.md and tables/")
    except InputError as error:
        _refuse(error)


def _refuse(error: InputError) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    sys.exit(2)
