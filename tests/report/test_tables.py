"""Tables of a study whose numbers are written by hand."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from raygan.evaluation.evaluate import summarise
from raygan.presets import PAPER_ABLATION, PAPER_V0, PAPER_V1
from raygan.study.files import StudyFiles
from raygan.report.paper import ABLATION_TABLE, TABLES, paper_system, paper_table
from raygan.report.study import report
from raygan.report.tables import arms_table, methods_table, result_table, scores_beside_the_papers
from raygan.report.terminal import comparison
from raygan.config.section import with_values
from raygan.study.storage import Folder

SCORES = {"0.01": (20.0, 21.0, 22.0), "0.001": (18.0, 18.5), "diverging": ()}
SEEDS = 3


@pytest.fixture
def study(tmp_path: Path) -> StudyFiles:
    """Three arms of three seeds: one complete, one with a seed that diverged, one of which every seed did."""
    folder = tmp_path / "study"
    for part in ("evaluation", "steps"):
        (folder / part).mkdir(parents=True)
    arms = {
        "0.01": {},
        "0.001": {"loss/adversarial_weight": 0.001},
        "diverging": {"optimizers/generator/learning_rate": 5.0},
    }
    record = {
        "name": "ablation",
        "status": "finished",
        "started": "today",
        "versions": {"raygan": "0"},
        "config": PAPER_V1.to_json(),
        "arms": arms,
        "seeds": SEEDS,
        "content_loss": "features",
        "photos": {"train": 1, "validation": 1},
    }
    (folder / "study.json").write_text(json.dumps(record))
    trials, metrics, images = [], [], []
    for arm, scores in SCORES.items():
        for seed in range(SEEDS):
            trial = f"{arm}-seed-{seed}"
            good = seed < len(scores)
            trials.append({"trial": trial, "state": "complete" if good else "failed", "arm": arm, "seed": seed})
            if not good:
                continue
            metrics += [{"trial": trial, "epoch": e, "val_psnr": 20 - abs(e - 2), "val_ssim": 0.5} for e in (1, 2, 3)]
            steps = "generator_loss,discriminator_loss_clean,discriminator_loss_denoised,"
            steps += "discriminator_accuracy_clean,discriminator_accuracy_denoised"
            (folder / "steps" / f"{trial}.csv").write_text(f"epoch,step,{steps}\n1,1,3,1,1,0.5,0.5\n")
            for photos in ("validation", "evaluation"):
                for kind in ("gaussian", "salt_and_pepper", "speckle"):
                    images += [
                        (0, image, photos, kind, "mean", 0.1, trial, scores[seed] + offset, 0.5 + offset / 10, "")
                        for image, offset in (("a.png", -1.0), ("b.png", 1.0))
                    ]
    columns = ["task", "image", "set", "kind", "level", "intensity", "method", "psnr", "ssim", "picture"]
    table = pd.DataFrame(images, columns=columns)
    table.to_csv(folder / "evaluation" / "per_image.csv", index=False)
    summarise(table).to_csv(folder / "evaluation" / "summary.csv", index=False)
    pd.DataFrame(trials).to_csv(folder / "trials.csv", index=False)
    pd.DataFrame(metrics).to_csv(folder / "metrics.csv", index=False)
    return StudyFiles(Folder(folder))


def test_arms_are_compared_over_seeds(study: StudyFiles) -> None:
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


def test_the_terminal_tells_which_seeds_diverged(study: StudyFiles) -> None:
    text = comparison(study)
    assert "21.00 ± 1.00 / 0.500" in text
    assert "-2.75 (" in text
    assert "0.001: 1 of 3 seeds failed and are left out" in text
    assert "diverging: 3 of 3 seeds failed and are left out" in text


def test_an_arm_that_diverged_leaves_a_report(study: StudyFiles) -> None:
    folder = report([study.folder])
    markdown = folder.read("report.md").decode()
    assert "With every seed: there are no scores." in markdown
    assert "ablation, 0.01 (the paper's v1): epoch 2 of 3, val PSNR 20.00 dB" in markdown
    assert "ablation, diverging: failed in its first epoch." in markdown
    assert "beside the paper's Table 8" in markdown


def test_a_comparison_without_one_good_epoch_leaves_a_report(study: StudyFiles) -> None:
    study.folder.delete("metrics.csv")
    markdown = report([study.folder]).read("report.md").decode()
    assert markdown.count("failed in its first epoch.") == len(SCORES)


def test_distances_are_shown_where_the_evaluation_has_them(study: StudyFiles) -> None:
    assert "vgg" not in comparison(study) + methods_table(study, "evaluation").to_string()
    table = study.per_image
    table.assign(vgg_distance=(30 - table["psnr"]) / 100).pipe(summarise).to_csv(
        Path(study.folder.path) / "evaluation" / "summary.csv", index=False
    )
    measured = StudyFiles(study.folder)
    arms = arms_table(measured).set_index(["arm", "kind"])
    assert arms.loc[("0.01", "speckle"), "vgg_distance_mean"] == pytest.approx(0.09)
    assert arms.loc[("0.001", "speckle"), "vgg_distance_difference"] == pytest.approx(0.0275)
    assert "21.00 ± 1.00 / 0.500 / 0.090" in comparison(measured)
    assert "PSNR in dB, SSIM, and vgg_distance (lower is better)" in comparison(measured)
    methods = methods_table(measured, "evaluation").set_index("method")
    assert methods.loc["0.01-seed-1", "speckle"] == "21.00 / 0.500 / 0.090"
    lines = result_table(measured).splitlines()
    assert next(line for line in lines if line.startswith("0.01-seed-1")).count("21.00 dB / 0.500 / 0.090") == 3
    assert "LPIPS" in report([study.folder]).read("report.md").decode()


def test_maxima_and_averages_stand_beside_the_right_table(study: StudyFiles) -> None:
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


def test_the_papers_systems_are_recognised_whatever_their_size() -> None:
    smaller = {"generator/base_width": 8, "training/epochs": 2}
    assert paper_system(with_values(PAPER_V0, smaller)) == "v0"
    assert paper_system(with_values(PAPER_V1, smaller)) == "v1"
    assert paper_system(with_values(PAPER_ABLATION, smaller)) == "λd ablation"
    for path, value in (
        ("loss/content_weight", 0.2),
        ("loss/feature_scale", "relative"),
        ("discriminator/architecture", "patch"),
        ("noise/policy", "normal"),
        ("noise/speckle/high", 0.3),
        ("generator/dropout", 0.5),
    ):
        assert paper_system(with_values(PAPER_V1, {path: value})) is None


def test_other_noise_than_the_papers_has_nothing_to_stand_beside() -> None:
    assert paper_table(with_values(PAPER_V1, {"noise/speckle/high": 0.3}), "evaluation") is None
    assert paper_table(with_values(PAPER_V1, {"noise/policy": "normal"}), "evaluation") is not None


def test_paper_values_agree_with_its_finding() -> None:
    """The ablation loses about 2 dB and 0.12 SSIM on the test photos."""
    for kind in ("gaussian", "salt_and_pepper", "speckle"):
        v1 = TABLES["validation"].scores[kind]
        ablation = ABLATION_TABLE.scores[kind]
        assert 2.0 < v1.psnr_mean - ablation.psnr_mean < 2.2
        assert 0.12 <= v1.ssim_mean - ablation.ssim_mean <= 0.131
