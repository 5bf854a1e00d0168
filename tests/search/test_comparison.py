"""Comparisons of arms, as a user runs them."""

import csv
import json
import math
import runpy
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from conftest import ROOT, TINY, TINY_EXPERIMENT, Study, raygan_here, run_search, warnings_of, write_vgg19
from optuna.distributions import FloatDistribution
from scipy import stats

from raygan.config.section import ConfigError, with_values
from raygan.noise import NormalPolicy, UniformPolicy
from raygan.presets import DENOISER, PAPER_V1, quick
from raygan.report.study import report
from raygan.report.tables import arms_table
from raygan.search.experiment import Comparison, Search
from raygan.search.options import parse_options
from raygan.search.prepare import read_inputs
from raygan.search.space import Space
from raygan.storage import Folder
from raygan.study.ledger import Ledger, TrialRow, write_study
from raygan.study.reader import StudyFiles
from raygan.train.denoisers import load_generator, starting_weights

pytestmark = pytest.mark.timeout(900)


ARMS = ("single_score", "patch", "single_score-1.5x", "patch-1.5x")


@pytest.mark.slow
def test_every_arm_trains_with_every_seed(comparison: Study) -> None:
    assert warnings_of(comparison.run) == ""
    assert comparison.run.returncode == 0
    trials = comparison.table("trials.csv")
    assert {(row["arm"], row["seed"]) for row in trials} == {(arm, str(seed)) for arm in ARMS for seed in (0, 1)}
    assert {(row["state"], row["epochs"]) for row in trials} == {("complete", "2")}
    for row in trials:
        _, config = load_generator(Folder(comparison.folder / "denoisers" / row["trial"]))
        assert config.discriminator.key == ("PatchGAN" if row["arm"].startswith("patch") else "SingleScore")
        speckle = next(noise for noise in config.noises if noise.key == "speckle")
        assert speckle.high == pytest.approx(0.3 if row["arm"].endswith("-1.5x") else 0.2)
        assert config.training.seed == int(row["seed"])
        metrics = json.loads((comparison.folder / "denoisers" / row["trial"] / "metrics.json").read_text())
        assert metrics["val_psnr"] == float(row["val_psnr"])
        assert len(comparison.table(f"steps/{row['trial']}.csv")) == 4


@pytest.mark.slow
def test_result_is_mean_and_deviation_over_seeds(comparison: Study) -> None:
    """Means and deviations over the seeds, computed here from the table of single images."""
    per_image = comparison.table("evaluation/per_image.csv")
    scores = {
        arm: [
            fmean(
                float(row["psnr"])
                for row in per_image
                if (row["set"], row["kind"], row["level"]) == ("evaluation", "speckle", "high")
                and row["method"] == f"{arm}-seed-{seed}"
            )
            for seed in (0, 1)
        ]
        for arm in ARMS
    }
    lines = comparison.run.stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("high intensity"))
    block = iter(lines[start + 1 : start + 7])
    for first, second in (ARMS[:2], ARMS[2:]):
        for arm, line in ((first, next(block)), (second, next(block))):
            assert line.split()[0] == arm
            assert f"{fmean(scores[arm]):.2f} ± {stdev(scores[arm]):.2f} / " in line
        # Each noise has its own first arm.
        interval = stats.ttest_ind(scores[second], scores[first], equal_var=False).confidence_interval()
        difference = np.mean(scores[second]) - np.mean(scores[first])
        assert f"{difference:+.2f} ({interval.low:+.2f} … {interval.high:+.2f})" in next(block)


@pytest.mark.slow
def test_arms_are_evaluated_on_their_own_noise(comparison: Study) -> None:
    summary = comparison.table("evaluation/summary.csv")
    for task, share, arms in (("0", 1.0, ARMS[:2]), ("1", 1.5, ARMS[2:])):
        rows = [row for row in summary if row["task"] == task and row["set"] == "evaluation"]
        assert {row["method"] for row in rows} == {
            "noisy",
            "median",
            *(f"{arm}-seed-{s}" for arm in arms for s in (0, 1)),
        }
        intensities = {(row["kind"], row["level"]): float(row["intensity"]) for row in rows}
        assert intensities["gaussian", "mean"] == pytest.approx(share * 0.0425)
        assert intensities["salt_and_pepper", "low"] == pytest.approx(share * 0.02)
        assert intensities["speckle", "high"] == pytest.approx(share * 0.2)
    noisy = {
        row["task"]: float(row["psnr_mean"])
        for row in summary
        if (row["set"], row["kind"], row["level"], row["method"]) == ("evaluation", "gaussian", "mean", "noisy")
    }
    assert noisy["1"] < noisy["0"] - 1


@pytest.mark.slow
def test_finished_comparison_shows_its_result_again(comparison: Study) -> None:
    again = raygan_here("search", "discriminator", *comparison.options)
    assert again.returncode == 0
    assert "is finished" in again.stdout
    assert comparison.run.stdout.partition("tiny-comparison: mean")[2] in again.stdout


@pytest.mark.parametrize(
    "file",
    ["v0", "adversarial_weight", "content_loss", "noise_policy", "discriminator", "ablation", "perception"],
)
def test_shipped_comparisons_are_valid(file: str) -> None:
    """At full size, shrunk, and with VGG19 weights."""
    search: Comparison = runpy.run_path(str(ROOT / "searches" / f"{file}.py"))["SEARCH"]
    options: list[list[str]] = [[], ["--quick"], ["--quick", "--vgg19", "vgg19.npz"]]
    for arguments in options:
        experiment, _ = parse_options(search, file, arguments)
        experiment.check()
        assert len(experiment.points()) == experiment.settings.trials == search.seeds * len(search.arms)
        configs = [with_values(experiment.config, experiment.values_at(point)) for point in experiment.points()]
        assert len(set(map(str, configs))) == len(configs)
        for config in configs:
            starting_weights(config)


@pytest.mark.long
def test_trials_of_several_workers(tiny_photos: Path, tmp_path: Path) -> None:
    """Each trial under a TorchTrainer of two workers; arms that need VGG19's weights, and arms that do not."""
    run = run_search(
        *TINY_EXPERIMENT,
        *("--seeds", "1", "--workers", "2", "--storage", tmp_path, "--name", "c"),
        *("--vgg19", write_vgg19(tmp_path / "vgg19.npz")),
        *("--photos", tiny_photos / "photos", "--evaluate-on", tiny_photos / "evaluation"),
        file="content_loss",
    )
    assert (run.returncode, warnings_of(run)) == (0, "")
    assert ": one seed, 3 photos" in run.stdout
    assert "  difference" in run.stdout
    with (tmp_path / "c" / "trials.csv").open() as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert {arm: (row["state"], row["epochs"]) for arm, row in rows.items()} == dict.fromkeys(
        ("mse", "vgg19"), ("complete", "2")
    )
    for arm, row in rows.items():
        kept = tmp_path / "c" / "denoisers" / f"{arm}-seed-0"
        assert json.loads((kept / "metrics.json").read_text())["val_psnr"] == float(row["val_psnr"])
        assert (
            load_generator(Folder(kept))[1].loss.content.key
            == {"mse": "MeanSquaredError", "vgg19": "Vgg19Features"}[arm]
        )


def test_an_arm_of_an_instance_can_be_read_back(tmp_path: Path) -> None:
    arms = {"uniform": {"sampling": UniformPolicy()}, "normal": {"sampling": NormalPolicy(deviation=0.3)}}
    comparison = Comparison(name="c", config=PAPER_V1, arms=arms)
    write_study(Folder(tmp_path), {"schema": 2, "name": "c", "trials": [], **comparison.identity()})
    row = TrialRow(
        "uniform-seed-0", "failed", 0, math.nan, math.nan, math.nan, 0.0, None, "", "", "", {"arm": "uniform"}
    )
    Ledger(Folder(tmp_path)).write_trials([row])
    recorded = StudyFiles(Folder(tmp_path)).record["arms"]
    assert {name: with_values(PAPER_V1, arm) for name, arm in recorded.items()} == comparison.configs()
    assert Comparison(name="c", config=PAPER_V1, arms={"uniform": arms["normal"]}).identity() != comparison.identity()


def test_starting_weights_are_known_by_no_name_of_the_study() -> None:
    """A study may be resumed under another name."""
    config = with_values(DENOISER, {"training/start_from": "baseline"})
    space: Space = {"optimizers/generator/beta1": FloatDistribution(0, 0.9)}
    first, renamed = (
        read_inputs(Search(name=name, config=config, space=space, trials=1, trial_epochs=1)) for name in ("a", "b")
    )
    assert first.starting_weights == renamed.starting_weights
    arms = read_inputs(Comparison(name="c", config=config, arms={"a": {}, "b": {"training/start_from": None}}))
    assert list(arms.starting_weights) == ["a"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_arms_that_failed_or_are_drawn_more_often(tiny_photos: Path, tmp_path: Path) -> None:
    """The first noises' arms are compared, though training draws them differently; all of the second's diverge."""
    config = with_values(quick(PAPER_V1), {**TINY, "data/photos": str(tiny_photos / "photos"), "training/epochs": 2})
    config = with_values(config, {"data/evaluate_on": str(tiny_photos / "evaluation")})
    diverging = {"noises/speckle/high": 0.3, "optimizers/generator/learning_rate": 1e30}
    arms = {"even": {}, "speckle": {"noises/speckle/odds": 3.0}, "strong": diverging}
    (file := tmp_path / "odds.py").write_text(
        "from raygan.config.run import Config\n"
        "from raygan.search.experiment import Comparison\n"
        f"config = Config.from_json({config.to_json()!r})\n"
        f"SEARCH = Comparison(name='c', config=config, arms={arms!r}, seeds=1)\n"
    )
    run = raygan_here("search", file, "--storage", tmp_path)
    assert (run.returncode, warnings_of(run)) == (0, "")
    assert "strong: 1 of 1 seeds failed" in run.stdout
    table = arms_table(StudyFiles(Folder(tmp_path / "c"))).set_index("arm")
    assert table.loc["speckle", "psnr_difference"].notna().all()
    assert table.loc["strong", "psnr_mean"].isna().all()
    assert report([Folder(tmp_path / "c")]).exists("report.html")


def test_an_arm_starts_from_an_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    comparison = Comparison(name="c", config=PAPER_V1, arms={"a": {}, "b": {"training/start_from": "mine"}})
    with pytest.raises(ConfigError, match="arm b: training/start_from=mine must be an absolute path"):
        read_inputs(comparison)


def test_invalid_arms_raise() -> None:
    for arms, message in (
        ({"a": {"loss/content_weight": -1.0}}, "content_weight >= 0"),
        ({"a": {"loss/lambda": 1.0}}, "no setting 'loss/lambda'"),
        ({}, "arms not empty must hold"),
        ({"a/b": {}}, "the name of an arm has letters"),
        ({"a": {}, "few": {"data/train_photos": 10}}, "arm few differs in data/train_photos, but photos and machines"),
        ({"a": {"data/pairs": "folder"}}, "arm a differs in data/pairs, data/pairs/location"),
        ({"a": {"hardware/workers": 2}}, "arm a differs in hardware/workers"),
        ({"a": {}, "b": {"training/epochs": 60}}, "arm b has training/epochs, which all arms have in common"),
    ):
        with pytest.raises(ConfigError, match=message):
            Comparison(name="c", config=PAPER_V1, arms=arms).check()
