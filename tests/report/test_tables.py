"""Tables of a comparison whose numbers are written by hand."""

import math
from pathlib import Path

import pytest
from report.hand_written import KINDS, write_evaluation, write_study, write_table
from scipy import stats

from raygan.config.section import with_values
from raygan.models import PatchGAN
from raygan.noise import NormalPolicy
from raygan.presets import PAPER_ABLATION, PAPER_V0, PAPER_V1
from raygan.report.paper import RESULTS, paper_system, paper_table
from raygan.report.study import report
from raygan.report.tables import (
    arms_table,
    evaluation_table,
    methods_table,
    result_table,
    scores_beside_the_papers,
)
from raygan.report.terminal import comparison
from raygan.storage import Folder
from raygan.study.reader import StudyFiles

SCORES = {"0.01": (20.0, 21.0, 22.0), "0.001": (18.0, 18.5), "diverging": ()}
SEEDS = 3
STEP = {
    "epoch": 1,
    "step": 1,
    "generator_loss": 3,
    **{f"discriminator_{metric}_{images}": 0.5 for metric in ("loss", "accuracy") for images in ("clean", "denoised")},
}


def write_comparison(folder: Path, *, lpips: bool = False) -> Folder:
    """Three arms of three seeds: one complete, one with a seed that diverged, one of which all seeds did."""
    arms = {
        "0.01": {},
        "0.001": {"loss/adversarial_weight": 0.001},
        "diverging": {"optimizers/generator/learning_rate": 5.0},
    }
    study = write_study(folder, name="ablation", arms=arms, seeds=SEEDS)
    trials, metrics, images = [], [], []
    for arm, scores in SCORES.items():
        for seed in range(SEEDS):
            trial = f"{arm}-seed-{seed}"
            state = "complete" if seed < len(scores) else "failed"
            trials.append({"trial": trial, "state": state, "arm": arm, "seed": seed})
        for seed, score in enumerate(scores):
            trial = f"{arm}-seed-{seed}"
            metrics += [
                {"trial": trial, "epoch": e, "val_psnr": 20 - abs(e - 2), "val_ssim": 0.5, "seconds": 2.0}
                for e in (1, 2, 3)
            ]
            write_table(study, f"steps/{trial}.csv", [STEP])
            images += [
                {
                    "task": 0,
                    "image": image,
                    "set": photos,
                    "kind": kind,
                    "level": "mean",
                    "intensity": 0.1,
                    "method": trial,
                    "psnr": score + offset,
                    "ssim": 0.5 + offset / 10,
                    "seconds": 0.25,
                    **({"lpips": (30 - score - offset) / 100} if lpips else {}),
                    "picture": "",
                }
                for photos in ("validation", "evaluation")
                for kind in KINDS
                for image, offset in (("a.png", -1.0), ("b.png", 1.0))
            ]
    write_evaluation(study, images)
    write_table(study, "trials.csv", trials)
    write_table(study, "metrics.csv", metrics)
    return study


@pytest.fixture
def study(tmp_path: Path) -> StudyFiles:
    return StudyFiles(write_comparison(tmp_path / "study"))


def test_arms_table_over_seeds(study: StudyFiles) -> None:
    table = arms_table(study)
    assert table["arm"].unique().tolist() == ["0.01", "0.001", "diverging"]
    assert table[table["arm"] == "diverging"]["psnr_mean"].isna().all()
    first, second = (table[(table["arm"] == arm) & (table["kind"] == "speckle")].iloc[0] for arm in ("0.01", "0.001"))
    assert (first["psnr_mean"], first["psnr_deviation"], first["seeds"], first["failed"]) == (21.0, 1.0, 3, 0)
    assert math.isnan(first["psnr_difference"])
    assert (second["psnr_mean"], second["seeds"], second["failed"]) == (18.25, 2, 1)
    assert second["psnr_deviation"] == pytest.approx(math.sqrt(0.125))
    assert second["psnr_difference"] == pytest.approx(-2.75)
    interval = stats.ttest_ind((18.0, 18.5), (20.0, 21.0, 22.0), equal_var=False).confidence_interval()
    assert second["psnr_difference_low"] == pytest.approx(interval.low)
    assert second["psnr_difference_high"] == pytest.approx(interval.high)


def test_terminal_shows_diverged_seeds(study: StudyFiles) -> None:
    text = comparison(study)
    assert "21.00 ± 1.00 / 0.500" in text
    assert "-2.75 (" in text
    assert "0.001: 1 of 3 seeds failed and are left out" in text
    assert "diverging: 3 of 3 seeds failed and are left out" in text


def test_report_with_a_diverged_arm(study: StudyFiles) -> None:
    folder = report([study.folder])
    markdown = folder.read("report.md").decode()
    assert "All seeds failed: there are no scores." in markdown
    assert "ablation, 0.01 (the paper's v1), first seed: best epoch 2 of 3, val PSNR 20.00 dB" in markdown
    assert "ablation, diverging: failed in its first epoch." in markdown
    assert "beside the paper's Table 8" in markdown


def test_report_without_a_good_epoch(study: StudyFiles) -> None:
    study.folder.delete("metrics.csv")
    markdown = report([study.folder]).read("report.md").decode()
    assert markdown.count("failed in its first epoch.") == len(SCORES)


def test_lpips_is_shown_if_evaluated(study: StudyFiles, tmp_path: Path) -> None:
    assert "LPIPS" not in comparison(study) + result_table(study)
    measured = StudyFiles(write_comparison(tmp_path / "lpips", lpips=True))
    arms = arms_table(measured).set_index(["arm", "kind"])
    assert arms.loc[("0.01", "speckle"), "lpips_mean"] == pytest.approx(0.09)
    assert arms.loc[("0.001", "speckle"), "lpips_difference"] == pytest.approx(0.0275)
    assert "21.00 ± 1.00 / 0.500 / 0.090" in comparison(measured)
    methods = methods_table(measured, "evaluation").set_index("method")
    assert methods.loc["0.01-seed-1", "speckle"] == "21.00 / 0.500 / 0.090"
    lines = result_table(measured).splitlines()
    assert next(line for line in lines if line.startswith("0.01-seed-1")).count("21.00 / 0.500 / 0.090") == 3
    assert lines[-1] == "PSNR (dB) / SSIM / LPIPS (lower is better)"
    assert "LPIPS" in report([measured.folder]).read("report.md").decode()


def test_result_table_ends_with_papers_scores(study: StudyFiles) -> None:
    lines = result_table(study).splitlines()
    assert lines[0].split()[:6] == ["mean", "of", "2", "photos,", "mean", "intensity"]
    assert lines[-1].startswith("the paper: v1 on BSD300")
    assert lines[-1].endswith("26.11 dB / 0.724  26.36 dB / 0.742  26.70 dB / 0.767")
    assert max(map(len, lines)) <= 110


def test_evaluation_table_has_seconds(study: StudyFiles) -> None:
    heading, first, *_ = evaluation_table(study.summary).splitlines()
    assert heading.split() == [
        "mean",
        "intensity,",
        "2",
        "photos",
        "Gaussian",
        "salt",
        "&",
        "pepper",
        "speckle",
        "seconds",
    ]
    assert first.split() == ["0.01-seed-0", *["20.00", "/", "0.500"] * 3, "0.250"]


def test_scores_beside_the_papers_right_table(study: StudyFiles) -> None:
    v1, ablation, _ = study.systems()
    for system, photos, paper in (
        (v1, "validation", 25.808),
        (v1, "evaluation", 26.705),
        (ablation, "validation", 23.639),
    ):
        table = scores_beside_the_papers(study, system, photos).set_index(["noise", "over the images"])
        mean = sum(SCORES[system.arm]) / len(SCORES[system.arm])
        row = table.loc["speckle", "average"]
        assert (row["PSNR"], row["PSNR, paper"]) == pytest.approx((mean, paper))
        assert row["PSNR, difference"] == pytest.approx(mean - paper)
        # The mean over the seeds of their best image.
        assert table.loc["speckle", "maximum"]["PSNR"] == pytest.approx(mean + 1)


def test_papers_systems_are_recognized_at_any_size() -> None:
    smaller = {"generator/base_width": 8, "training/epochs": 2, "data/photos": "samples", "hardware/workers": 2}
    assert paper_system(with_values(PAPER_V0, smaller)) == "v0"
    assert paper_system(with_values(PAPER_V1, smaller)) == "v1"
    assert paper_system(with_values(PAPER_ABLATION, smaller)) == "λd ablation"
    for path, value in (
        ("loss/content_weight", 0.2),
        ("loss/content/scale", "relative"),
        ("discriminator", PatchGAN()),
        ("generator", "ResidualUNet"),
        ("sampling", NormalPolicy()),
        ("noises/speckle/high", 0.3),
        ("generator/dropout", 0.5),
    ):
        assert paper_system(with_values(PAPER_V1, {path: value})) is None


def test_paper_has_no_results_for_other_noise() -> None:
    assert paper_table(with_values(PAPER_V1, {"noises/speckle/high": 0.3}), "evaluation") is None
    assert paper_table(with_values(PAPER_V1, {"sampling": NormalPolicy()}), "evaluation") is not None


def test_paper_results_agree_with_its_finding() -> None:
    """The ablation loses about 2 dB and 0.12 SSIM on the test photos."""
    assert RESULTS["table"].tolist() == [4] * 3 + [5] * 3 + [6] * 3 + [8] * 3
    ours, theirs = (paper_table(config, "validation") for config in (PAPER_V1, PAPER_ABLATION))
    loss = ours.loc[list(KINDS), ["psnr_mean", "ssim_mean"]] - theirs[["psnr_mean", "ssim_mean"]]
    assert loss["psnr_mean"].between(2.0, 2.2).all()
    assert loss["ssim_mean"].between(0.12, 0.131).all()
