"""What Ray and RayGAN add to a trial: `python benchmarks/overhead.py`, six minutes on two idle cores.

The same four trainings, at values drawn beforehand, with the networks of `--quick`, one thread each: in a plain Optuna
loop in this process (ask, train, report, tell; no checkpoints, no records), and as RayGAN's trials, one at a time and
two at a time. Then trials of one tiny epoch, in their own process and on two workers of a TorchTrainer each: what a
nested trial costs besides its training. "Everything else" are processes that start, checkpoints, TensorBoard, the
ledger, Optuna and Tune. What a search of one tiny trial takes beyond what each further one does, is its start: Tune,
and the first process that imports torch.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import optuna
import ray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import RandomSampler

from raygan.config.section import with_values
from raygan.data.crops import CachedCrops, validation_crops
from raygan.data.photos import TrainingPhotos, training_photos
from raygan.presets import PAPER_V1, quick
from raygan.search.experiment import Search
from raygan.search.tuner import run_trials
from raygan.search.warm_start import WarmStart
from raygan.storage import Folder
from raygan.study.ledger import Ledger
from raygan.study.trials import Trials
from raygan.train.cluster import photo_memory, share_photos, start_ray
from raygan.train.driver import Job
from raygan.train.loop import train

SPACE: dict[str, BaseDistribution] = {
    "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "loss/adversarial_weight": FloatDistribution(1e-4, 1e-1, log=True),
}
TRIALS, EPOCHS = 4, 3
CONFIG = with_values(quick(PAPER_V1), {"hardware/device": "cpu", "training/best_by": "val_psnr"})
TINY: dict[str, object] = {"training/steps_per_epoch": 2, "training/batch_size": 4, "data/val_crops": 2}
NESTED_TRIALS = 3


def points(count: int) -> list[dict[str, Any]]:
    """Values that all alternatives train with."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    return [study.ask(SPACE).params for _ in range(count)]


def plain_loop(photos: TrainingPhotos) -> float:
    """Seconds that the plain Optuna loop takes."""
    started = time.perf_counter()
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=0))
    for _ in range(TRIALS):
        trial = study.ask(SPACE)
        config = with_values(CONFIG, trial.params | {"training/epochs": EPOCHS})
        scores: list[float] = []
        crops = CachedCrops(photos.train, config.data, config.training)  # type: ignore[arg-type]
        for epoch in train(config, crops, validation_crops(photos.validation, config.data), {}):
            trial.report(epoch.metrics["val_psnr"], epoch.metrics["epoch"])
            scores.append(epoch.metrics["val_psnr"])
        study.tell(trial, max(scores))
    return time.perf_counter() - started


@dataclass(frozen=True)
class Taken:
    """What trials took, in seconds."""

    whole: float
    """Without starting Ray."""
    steps: float
    """Training, over all epochs."""
    validation: float


def as_trials(photos: TrainingPhotos, at_once: int, trials: int, epochs: int, values: dict[str, object]) -> Taken:
    """Run RayGAN's trials."""
    config = with_values(CONFIG, values)
    search = Search(
        name="overhead",
        config=config,
        space=SPACE,
        first_points=[with_values(config, point) for point in points(trials)],
        trials=trials,
        trial_epochs=epochs,
        search_algorithm="random",
        scheduler="none",
    )
    with tempfile.TemporaryDirectory() as storage:
        folder = Folder(storage)
        job = Job(folder, share_photos(photos), {})
        started = time.perf_counter()
        studied = Trials(folder, search.name, search.objectives)
        run_trials(search, config, job, studied, WarmStart([], [], ""), at_once)
        whole = time.perf_counter() - started
        rows = [row for epochs_of in Ledger(folder).epochs.values() for row in epochs_of.values()]
        return Taken(whole, *(sum(row[part] for row in rows) for part in ("train_seconds", "val_seconds")))


def main() -> None:
    """Print the tables."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    started = time.perf_counter()
    start_ray()
    starting = time.perf_counter() - started
    photos = training_photos(CONFIG.data, photo_memory())
    plain = plain_loop(photos)
    alone, two = (as_trials(photos, at_once, TRIALS, EPOCHS, {}) for at_once in (1, 2))
    tiny = [as_trials(photos, 1, trials, 1, TINY).whole for trials in (1, 1 + NESTED_TRIALS)]
    workers = TINY | {"hardware/workers": 2}
    nested = [as_trials(photos, 1, trials, 1, workers).whole for trials in (1, 1 + NESTED_TRIALS)]
    in_process, on_workers = ((many - one) / NESTED_TRIALS for one, many in (tiny, nested))
    begun = tiny[0] - in_process
    rows = [
        ("plain Optuna loop", plain),
        ("RayGAN, 1 at a time", alone.whole),
        ("the same without the search's start", alone.whole - begun),
        ("RayGAN, 2 at a time", two.whole),
    ]
    print(f"\n{TRIALS} trials of {EPOCHS} epochs, {ray.cluster_resources().get('CPU', 0):.0f} cores; starting Ray once")
    print(f"took {starting:.1f} s more\n\n| | seconds | ratio to the plain loop |\n|---|---|---|")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.1f} | {seconds / plain:.2f} |")
    print("\n| of these trials, 1 at a time | seconds | share |\n|---|---|---|")
    parts = {"steps": alone.steps, "validation": alone.validation, "the search's start": begun}
    for name, seconds in (*parts.items(), ("everything else", alone.whole - sum(parts.values()))):
        print(f"| {name} | {seconds:.1f} | {seconds / alone.whole:.1%} |")
    print("\n| a trial of one epoch of two small steps | seconds a trial, after the first |\n|---|---|")
    print(f"| in its own process | {in_process:.1f} |\n| on two workers of a TorchTrainer | {on_workers:.1f} |")


if __name__ == "__main__":
    main()
