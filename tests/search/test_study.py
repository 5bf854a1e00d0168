"""One tiny search through every part, as a user runs it, and all that it leaves behind."""

import csv
import json
import shutil
import signal
from pathlib import Path
from statistics import fmean

import optuna
import pandas as pd
import pytest
import torch
from conftest import TINY, TINY_EXPERIMENT, Study, raygan_here, run_search, start_and_stop, warnings_of
from PIL import Image

from raygan.config.section import with_values
from raygan.models.cost import epochs_of_equal_computation
from raygan.report.study import report
from raygan.storage import Folder
from raygan.study.reader import StudyFiles
from raygan.study.trials import dashboard_storage
from raygan.train.denoisers import DENOISER_FILES, load_generator

pytestmark = pytest.mark.timeout(900)


def test_search_ends_without_warnings(study: Study) -> None:
    assert warnings_of(study.run) == ""
    assert study.run.returncode == 0


def test_terminal_output(study: Study) -> None:
    lines = study.run.stdout.splitlines()
    text = study.run.stdout
    assert "Content loss: mean squared error of the pixels (no VGG19 weights are used)" in lines
    assert "Photos: 8 to train, 2 to validate" in text
    for trial in ("trial-0001", "trial-0002", "trial-0003"):
        assert f"{trial} starts: " in text
        assert any(line.startswith(f"{trial} epoch  1/2  val PSNR ") and " val SSIM " in line for line in lines)
    assert "optimizers/generator/learning_rate=0.005" in text
    assert " left]" in text
    assert "winner epoch  2/2  val PSNR" in text
    noisy, median, raygan = (
        next(line for line in lines if line.startswith(name)) for name in ("noisy input", "median filter", "RayGAN")
    )
    assert noisy.count(" dB / ") == median.count(" dB / ") == raygan.count(" dB / ") == 3
    assert f"  {study.folder}/trials.csv" in text


def test_study_json_records_how_it_was_made(study: Study) -> None:
    record = json.loads((study.folder / "study.json").read_text())
    assert (record["schema"], record["status"], record["seed"], record["trials"]) == (2, "finished", 0, 3)
    assert record["config"]["training"]["steps_per_epoch"] == 2
    assert record["space"]["loss/adversarial_weight"]["attributes"]["log"] is True
    assert record["content_loss"].startswith("mean squared error of the pixels")
    assert record["search_algorithm"] == "tpe"
    assert {"python", "ray", "torch", "optuna"} <= set(record["versions"])
    # The first points are the paper's two systems.
    assert [point["loss/adversarial_weight"] for point in record["first_points"]] == [0.01, 0.001]


def test_trials_table(study: Study) -> None:
    trials = study.table("trials.csv")
    assert [row["trial"] for row in trials] == ["trial-0001", "trial-0002", "trial-0003"]
    columns = [
        *("trial", "state", "epochs", "val_psnr", "val_ssim", "operations_per_pixel", "seconds", "collapsed"),
        *("checkpoint", "error", "repeats"),
    ]
    assert list(trials[0])[:11] == columns
    assert set(list(trials[0])[11:]) == set(json.loads((study.folder / "study.json").read_text())["space"])
    assert float(trials[0]["optimizers/generator/learning_rate"]) in (0.005, 0.0005)
    for row in trials:
        assert row["state"] == ("complete" if row["epochs"] == "2" else "pruned")
        metrics = json.loads((study.folder / row["checkpoint"] / "denoiser" / "metrics.json").read_text())
        assert metrics["val_psnr"] == float(row["val_psnr"])


def test_ended_trials_keep_their_denoisers_only(study: Study) -> None:
    assert sorted(path.name for path in (study.folder / "checkpoints").iterdir()) == [
        *("trial-0001", "trial-0002", "trial-0003"),
    ]
    for row in study.table("trials.csv"):
        folder = study.folder / row["checkpoint"]
        kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert kept == {f"denoiser/{name}" for name in DENOISER_FILES}
        assert load_generator(Folder(folder / "denoiser"))[0](torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    assert not (study.folder / "ray").exists()
    assert not (study.folder / "lock.json").exists()


def test_optuna_study_holds_the_trials(study: Study) -> None:
    with dashboard_storage(Folder(study.folder), None) as storage:
        found = optuna.load_study(study_name="tiny", storage=storage).trials
    for trial, row in zip(found, study.table("trials.csv"), strict=True):
        assert (trial.user_attrs["trial"], trial.state.name.lower()) == (row["trial"], row["state"])
        assert max(trial.intermediate_values.values()) == float(row["val_psnr"])
        values = {path: value for path, value in list(row.items())[10:] if value}
        assert {path: str(value) for path, value in trial.params.items()} == values


def test_metrics_table_has_one_row_per_trial_and_epoch(study: Study) -> None:
    metrics = study.table("metrics.csv")
    for trial in study.table("trials.csv"):
        rows = [row for row in metrics if row["trial"] == trial["trial"]]
        assert [row["epoch"] for row in rows] == [str(epoch + 1) for epoch in range(int(trial["epochs"]))]
        assert max(float(row["val_psnr"]) for row in rows) == float(trial["val_psnr"])
    assert "discriminator_accuracy_denoised" in metrics[0]
    assert {"pid", "done", "date", "should_checkpoint"}.isdisjoint(metrics[0])


def test_steps_are_logged_and_average_to_the_epochs_metrics(study: Study) -> None:
    for run, epochs in (("trial-0001", study.table("metrics.csv")), ("winner", study.table("best/metrics.csv"))):
        epochs = [row for row in epochs if row["trial"] == run]
        steps = study.table(f"steps/{run}.csv")
        assert [row["step"] for row in steps] == [str(step + 1) for step in range(2 * len(epochs))]
        for row in epochs:
            for name in ("generator_loss", "discriminator_accuracy_clean"):
                mean = fmean(float(step[name]) for step in steps if step["epoch"] == row["epoch"])
                assert mean == pytest.approx(float(row[name]), rel=1e-4)


def test_winner_is_the_best_trials_configuration_trained_in_full(study: Study) -> None:
    record = json.loads((study.folder / "study.json").read_text())["best_trial"]
    best = max(study.table("trials.csv"), key=lambda row: float(row["val_psnr"]))
    assert record["trial"] == best["trial"]
    generator, config = load_generator(Folder(study.folder / "best"))
    assert config.optimizers.generator.learning_rate == float(best["optimizers/generator/learning_rate"])
    assert config.training.epochs == 2
    assert generator(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    metrics = json.loads((study.folder / "best" / "metrics.json").read_text())
    rows = study.table("best/metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert metrics["val_psnr"] == max(float(row["val_psnr"]) for row in rows)


def test_evaluation_tables_agree(study: Study) -> None:
    per_image, summary = study.table("evaluation/per_image.csv"), study.table("evaluation/summary.csv")
    # All levels of the 3 evaluation photos, and the mean level of the 8 photos trained and 2 validated on.
    assert len(per_image) == (3 * 3 + 8 + 2) * 3 * 3
    images = {"training": 8, "validation": 2, "evaluation": 3, "evaluation/test": 2, "evaluation/train": 1}
    assert [row["set"] for row in summary] == [
        *["training"] * 9,
        *["validation"] * 9,
        *["evaluation"] * 27,
        *["evaluation/test"] * 27,
        *["evaluation/train"] * 27,
    ]
    assert [row["method"] for row in summary[:3]] == ["noisy", "median", "raygan"]
    for row in summary:
        scores = [
            (float(one["psnr"]), float(one["ssim"]))
            for one in per_image
            if all(one[key] == row[key] for key in ("kind", "level", "method"))
            and f"{one['set']}/{one['image']}".startswith(row["set"] + "/")
        ]
        assert int(row["images"]) == len(scores) == images[row["set"]]
        assert float(row["psnr_mean"]) == pytest.approx(fmean(score[0] for score in scores))
        assert float(row["ssim_max"]) == pytest.approx(max(score[1] for score in scores))
    assert len(list((study.folder / "evaluation" / "pictures").glob("*.png"))) == 9


def test_tensorboard_has_scalars_hyperparameters_and_images(study: Study) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for run in ("trial-0001", "winner"):
        events = EventAccumulator(str(study.folder / "tensorboard" / run))
        events.Reload()
        tags = events.Tags()
        assert {"val_psnr", "val_ssim", "content_loss"} <= set(tags["scalars"])
        assert len(tags["images"]) == 3
        assert "_hparams_/session_start_info" in events.summary_metadata
    assert [event.step for event in events.Scalars("val_psnr")] == [1, 2]


def test_finished_search_shows_its_result_without_repeating_anything(study: Study) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.folder.rglob("*") if path.is_file()}
    again = raygan_here("search", "v1", *study.options, "--time-budget", "9")
    assert again.returncode == 0, again.stderr
    assert "is finished; run under another --name" in again.stdout
    assert study.run.stdout.rpartition("noisy input")[2] in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in study.folder.rglob("*") if path.is_file()}


def test_finished_search_is_not_taken_for_one_of_other_photos(study: Study, tmp_path: Path) -> None:
    other = ["--photos", "samples", "--pairs", str(tmp_path)]
    again = raygan_here("search", "v1", *study.options, *other)
    assert again.returncode == 2
    assert f"{study.folder} is finished, and differs in config/data/photos/class" in again.stderr
    assert "config/data/pairs" in again.stderr


@pytest.mark.usefixtures("ray_here")
def test_a_trained_winner_is_not_trained_again(study: Study, tmp_path: Path) -> None:
    """A kill between the end of its training and the next phase."""
    copy = shutil.copytree(study.folder, tmp_path / study.folder.name)
    record = json.loads((copy / "study.json").read_text())
    (copy / "study.json").write_text(json.dumps(record | {"status": "training the winner"}))
    options = [str(tmp_path) if option == str(study.folder.parent) else option for option in study.options]
    again = raygan_here("search", "v1", *options)
    assert again.returncode == 0, again.stderr
    assert "winner trained in" not in again.stdout
    tables = [run.stdout.rpartition("noisy input")[2].partition("\n\n")[0] for run in (study.run, again)]
    assert tables[0] == tables[1]
    assert "median filter" in tables[0]
    assert (copy / "best/metrics.csv").read_bytes() == (study.folder / "best/metrics.csv").read_bytes()


def test_different_configuration_under_the_same_name_is_refused(study: Study) -> None:
    other = raygan_here("search", "v1", *study.options, "--trials", "5", "--set", "training/steps_per_epoch=4")
    assert other.returncode == 2
    assert "holds a study that differs in config/training/steps_per_epoch, trials" in other.stderr


@pytest.mark.slow
def test_a_stopped_search_ends_with_a_smaller_time_budget(tiny_photos: Path, tmp_path: Path) -> None:
    photos = ("--photos", tiny_photos / "photos", "--evaluate-on", tiny_photos / "evaluation")
    options = [*TINY_EXPERIMENT, "--trials", "40", "--trial-epochs", "9", *photos, "--storage", tmp_path, "--name", "s"]
    metrics = tmp_path / "s" / "metrics.csv"
    code, output = start_and_stop([str(option) for option in options], metrics.exists, signal.SIGTERM)
    assert code == 130, output
    assert "Stopped. Resume with the same command: python " in output
    assert "Traceback" not in output
    elsewhere = raygan_here("search", "v1", *options, "--optuna-storage", f"sqlite:///{tmp_path}/trials.db")
    assert elsewhere.returncode == 2
    assert "began with another trial storage: the study's folder then, a database now" in elsewhere.stderr
    ended = run_search(*options, "--time-budget", "0.001")
    assert ended.returncode == 0, ended.stderr
    assert "The time budget of 0.001 minutes is spent" in ended.stdout
    assert json.loads((tmp_path / "s" / "study.json").read_text())["time_budget"] == 0.001
    trials = pd.read_csv(tmp_path / "s" / "trials.csv")
    assert 1 <= len(trials) < 40
    assert set(trials["state"]) <= {"complete", "pruned", "failed"}
    # An ended trial keeps its denoiser, and nothing else.
    left = {path.parent.name for path in (tmp_path / "s" / "checkpoints").rglob("*") if path.is_file()}
    assert left == {"denoiser"}
    assert (tmp_path / "s" / "best" / "generator.safetensors").exists()


EQUAL = """
from optuna.distributions import CategoricalDistribution
from raygan.config.section import with_values
from raygan.presets import PAPER_V1, quick
from raygan.search.experiment import Search

SEARCH = Search(
    name="equal",
    config=with_values(quick(PAPER_V1), {VALUES}),
    space={"generator/base_width": CategoricalDistribution([4])},
    trials=1,
    trial_epochs=1,
    equal_compute=True,
)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_the_winner_gets_equal_computation_too(tiny_photos: Path, tmp_path: Path) -> None:
    values = TINY | {"generator/base_width": 32, "training/epochs": 2}
    (tmp_path / "equal.py").write_text(EQUAL.replace("{VALUES}", repr(values)))
    photos = ("--photos", tiny_photos / "photos", "--evaluate-on", tiny_photos / "evaluation")
    run = raygan_here("search", tmp_path / "equal.py", *photos, "--storage", tmp_path)
    assert run.returncode == 0, run.stderr
    base = StudyFiles.finished(Folder(tmp_path / "equal")).config
    epochs = epochs_of_equal_computation(with_values(base, {"generator/base_width": 4}), base, 2)
    assert epochs > 2
    assert len(pd.read_csv(tmp_path / "equal" / "best" / "metrics.csv")) == epochs


@pytest.mark.alone
@pytest.mark.timeout(3000)
def test_quick_search_denoises(tmp_path: Path) -> None:
    """`make search`, with fewer trials and epochs, ends 6 dB above Gaussian noise, and 4 above the others.

    Its report and its denoiser follow, as in the first tutorial.
    """
    run = run_search(
        "--quick", "--trials", "2", "--trial-epochs", "1", "--epochs", "6", "--storage", tmp_path, timeout=2900
    )
    assert run.returncode == 0, run.stderr
    assert raygan_here("report", tmp_path / "v1-quick").returncode == 0
    assert (tmp_path / "v1-quick" / "report" / "report.html").exists()
    Image.new("RGB", (60, 50)).save(tmp_path / "noisy.jpg")
    files = (tmp_path / "noisy.jpg", tmp_path / "denoised.png")
    assert raygan_here("denoise", *files, "--checkpoint", tmp_path / "v1-quick" / "best").returncode == 0
    with Image.open(files[1]) as denoised:
        assert denoised.size == (60, 50)
    with (tmp_path / "v1-quick" / "evaluation" / "summary.csv").open() as file:
        means = {
            (row["kind"], row["method"]): float(row["psnr_mean"])
            for row in csv.DictReader(file)
            if (row["set"], row["level"]) == ("evaluation", "mean")
        }
    gains = {kind: means[kind, "raygan"] - means[kind, "noisy"] for kind, _ in means}
    assert gains["gaussian"] >= 6
    assert gains["salt_and_pepper"] >= 4
    assert gains["speckle"] >= 4


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_train_command_trains_the_configuration_without_trials(tiny_photos: Path, tmp_path: Path) -> None:
    run = raygan_here(
        *("train", "v1", *TINY_EXPERIMENT, "--storage", tmp_path, "--name", "as-it-is"),
        *("--photos", tiny_photos / "photos", "--evaluate-on", tiny_photos / "evaluation"),
        *("--set", "optimizers/generator/learning_rate=0.002"),
    )
    assert (run.returncode, warnings_of(run)) == (0, "")
    assert "The base configuration, trained for 2 epochs" in run.stdout
    _, config = load_generator(Folder(tmp_path / "as-it-is" / "best"))
    assert config.optimizers.generator.learning_rate == 0.002
    assert not (tmp_path / "as-it-is" / "trials.csv").exists()
    report([Folder(tmp_path / "as-it-is")])
    markdown = (tmp_path / "as-it-is" / "report" / "report.md").read_text()
    assert "as-it-is, base configuration: evaluation photos, beside the paper's Table 6" in markdown
