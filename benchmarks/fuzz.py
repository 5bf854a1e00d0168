"""Damaged files through everything that reads files: `python benchmarks/fuzz.py [--images 10000] [--studies 500]`.

Every file is a whole one with some of its bytes changed, removed, repeated or cut off. Counted are exceptions that are
not RayGAN's own, calls that compute for more than 10 s, or take 100 s (so that a busy machine changes nothing), and
memory above 2 GB. Ends with 1 if there are any.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from raygan.cli import load_experiment
from raygan.data.photos import decode_photo
from raygan.errors import InputError
from raygan.inference.denoiser import Denoiser
from raygan.inference.image_file import denoise_file
from raygan.models import ResidualUNet
from raygan.presets import PAPER_V1
from raygan.report.compare import read_studies, side_by_side
from raygan.report.study import report
from raygan.report.terminal import final_report
from raygan.search.study import run_study
from raygan.storage import Folder
from raygan.study.ledger import Ledger, read_study
from raygan.study.lock import refuse_if_held
from raygan.study.trials import Trials, dashboard_storage
from raygan.train.checkpoint import keep_denoiser
from raygan.train.denoisers import DENOISER_FILES, load_generator

LONGEST, MOST_MEMORY = 10.0, 2e9
KEPT = (
    *("study.json", "lock.json", "trials.csv", "metrics.csv", "optuna.log", "best/config.json", "best/metrics.json"),
    *("best/metrics.csv", "best/generator.safetensors", "evaluation/summary.csv", "evaluation/per_image.csv"),
    *("steps/winner.csv",),
)
"""The files of a study that something reads."""


def images() -> dict[str, bytes]:
    """A small image in every format, by suffix and content."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 56, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[315] = "Somebody"
    found = {}
    for suffix, options in {
        ".png": {},
        ".jpg": {"exif": exif},
        ".webp": {"exif": exif},
        ".tif": {},
        ".tiff": {"compression": "tiff_lzw"},
        ".jpeg": {"progressive": True},
    }.items():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, Image.registered_extensions()[suffix], **options)
        found[suffix] = file.getvalue()
    file = io.BytesIO()
    tifffile.imwrite(file, pixels.astype(np.uint16) * 257, photometric="rgb", tile=(16, 16))
    return found | {".16.tif": file.getvalue()}


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with one to five places changed."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 5)):
        place, length = chance.randrange(len(changed) + 1), chance.choice((1, 1, 2, 4, 50))
        match chance.randrange(6):
            case 0:
                changed[place : place + length] = chance.randbytes(length)
            case 1:
                del changed[place : place + length]
            case 2:
                changed[place:place] = changed[place : place + length]
            case 3:
                del changed[place:]
            case 4:
                changed[place : place + length] = b"\x00" * length
            case 5:
                changed[place : place + length] = chance.choice((b"\xff", b"NaN", b"-1", b"1e999", b"{}", b",", b"\n"))
    return bytes(changed)


class Run:
    """Calls with damaged files, and how they ended."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}
        self.slowest: dict[str, float] = {}
        self.shown: set[str] = set()

    def call(self, name: str, function: Callable[[], object]) -> None:
        """One call."""
        started, began = time.process_time(), time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function()
            outcome = "works"
        except InputError:
            outcome = "refused"
        except Exception as error:  # noqa: BLE001  (these are what is looked for)
            outcome = "exception"
            where = f"{name}: {type(error).__name__} at {traceback.extract_tb(error.__traceback__)[-1]}"
            if where not in self.shown:
                self.shown.add(where)
                traceback.print_exc()
        # A call that hangs computes nothing.
        seconds = max(time.process_time() - started, (time.monotonic() - began) / 10)
        counts = self.outcomes.setdefault(name, Counter())
        counts[outcome] += 1
        counts["over 10 s"] += seconds > LONGEST
        self.slowest[name] = max(seconds, self.slowest.get(name, 0))

    def table(self) -> bool:
        """Print the counts; whether all is well."""
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print("| read by | files | work | are refused | other exceptions | over 10 s | slowest, s |")
        print("|---|---|---|---|---|---|---|")
        for name, counts in self.outcomes.items():
            files = counts["works"] + counts["refused"] + counts["exception"]
            shown = (files, counts["works"], counts["refused"], counts["exception"], counts["over 10 s"])
            print(f"| {name} | {' | '.join(map(str, shown))} | {self.slowest[name]:.1f} |")
        print(f"Peak memory: {memory / 1e9:.2f} GB")
        bad = sum(counts["exception"] + counts["over 10 s"] for counts in self.outcomes.values())
        return bad == 0 and memory <= MOST_MEMORY


def fuzz_images(run: Run, count: int, chance: random.Random, scratch: Path) -> None:
    """Image files through `raygan denoise` and the photo reader."""
    whole = images()
    small = ResidualUNet(base_width=4, depth=2, blocks=1, residual=True, normalization="none")
    denoiser = Denoiser.from_pretrained(save_denoiser(scratch / "small", small), tile=128)
    # A changed header may ask for any size, and a whole image of so many pixels takes seconds to denoise.
    megapixels = 4
    folder = Folder(scratch)
    for _ in range(count // 2):
        suffix, content = chance.choice(list(whole.items()))
        content, output = damaged(content, chance), f".{suffix.rpartition('.')[2]}"
        run.call("denoise", lambda content=content, output=output: denoise_file(denoiser, content, output, megapixels))
        (scratch / f"photo{output}").write_bytes(content)
        run.call("photos", lambda output=output: decode_photo(folder, f"photo{output}", 16, megapixels))


def fuzz_checkpoints(run: Run, count: int, chance: random.Random, scratch: Path) -> None:
    """A denoiser's files through what loads them."""
    small = ResidualUNet(base_width=4, depth=2, blocks=1, residual=True, normalization="none")
    folder = save_denoiser(scratch / "denoiser", small)
    for _ in range(count):
        name = chance.choice(DENOISER_FILES[:2])
        whole = folder.read(name)
        folder.write(name, damaged(whole, chance))
        run.call("--checkpoint", lambda: load_generator(folder))
        folder.write(name, whole)


def save_denoiser(place: Path, generator: ResidualUNet) -> Folder:
    """A small denoiser of random weights."""
    import safetensors.torch

    from raygan.config.section import with_values

    folder = Folder(place)
    folder.write("generator.safetensors", safetensors.torch.save(generator.build().state_dict()))
    folder.write("config.json", json.dumps(with_values(PAPER_V1, {"generator": generator}).to_json()))
    return folder


def fuzz_studies(run: Run, count: int, chance: random.Random, scratch: Path, study: Path) -> None:
    """A study's files through report, comparison, dashboard and what a resumed search reads first."""
    for index in range(count):
        place = scratch / f"study-{index}"
        shutil.copytree(study, place, ignore=shutil.ignore_patterns("tensorboard", "checkpoints", "report"))
        file = place / chance.choice([name for name in KEPT if (place / name).exists()])
        file.write_bytes(b"" if chance.random() < 0.1 else damaged(file.read_bytes(), chance))
        folder = Folder(place)
        run.call("report", lambda folder=folder: (report([folder], None), final_report(folder)))
        run.call("compare", lambda folder=folder: side_by_side(read_studies([folder])))
        run.call("dashboard", lambda folder=folder: _open_dashboard(folder))
        run.call("resume", lambda folder=folder: _resume(folder))
        shutil.rmtree(place)


def _open_dashboard(folder: Folder) -> None:
    with dashboard_storage(folder, None) as storage:
        storage.get_all_studies()


def _resume(folder: Folder) -> None:
    refuse_if_held(folder)
    record = read_study(folder)
    trials = Trials(folder, (record or {}).get("name", "study"), ["val_psnr"])
    trials.rows(Ledger(folder), [])
    keep_denoiser(folder.child("checkpoints/trial-0001"))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    run, chance = Run(), random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        fuzz_images(run, options.images, chance, scratch)
        fuzz_checkpoints(run, options.images // 10, chance, scratch)
        if options.studies:
            tiny = {"training/steps_per_epoch": 2, "training/batch_size": 4, "data/val_crops": 2, "data/val_photos": 2}
            tiny |= {"generator/base_width": 4, "discriminator/base_width": 4, "training/epochs": 2}
            study = run_study(tiny_search(load_experiment("v1"), tiny), str(scratch / "studies"))
            fuzz_studies(run, options.studies, chance, scratch, Path(study.path))
    sys.exit(0 if run.table() else 1)


def tiny_search(search: object, values: dict[str, object]) -> object:
    """A search of three trials in a minute."""
    import dataclasses

    from raygan.config.section import with_values

    quick = search.quick()  # type: ignore[attr-defined]
    return dataclasses.replace(quick, config=with_values(quick.config, values), trials=3, trial_epochs=2)


if __name__ == "__main__":
    main()
