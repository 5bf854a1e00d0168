"""`raygan compare` of studies whose numbers are written by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import raygan_here
from report import hand_written
from report.hand_written import KINDS, write_table

from raygan.noise import Gaussian
from raygan.report.compare import read_studies, side_by_side, studies_table
from raygan.storage import Folder
from raygan.study.ledger import StudyError


def write_study(
    folder: Path,
    trials: Mapping[str, str],
    epochs: list[tuple[str, int, float]],
    scores: Mapping[str, float] | None = None,
    config: Mapping[str, object] | None = None,
    lpips: float | None = None,
    **record: Any,
) -> Folder:
    """Trials by name and state, epochs (trial, epoch, val PSNR) in order, mean PSNR by denoiser."""
    study = hand_written.write_study(folder, config=config, **{"status": "running trials", **record})
    if trials:
        table = pd.DataFrame({"trial": list(trials), "state": list(trials.values())})
        if "arms" in record:
            table[["arm", "seed"]] = table["trial"].str.extract(r"(.*)-seed-(\d+)")
        write_table(study, "trials.csv", table)
    if epochs:
        metrics = pd.DataFrame(epochs, columns=["trial", "epoch", "val_psnr"])
        write_table(study, "metrics.csv", metrics.assign(val_ssim=metrics["val_psnr"] / 100, seconds=2.5))
    if scores:
        columns = ["set", "kind", "level", "method", "psnr_mean", "ssim_mean"]
        rows = [
            ("evaluation", kind, level, method, psnr + offset + KINDS.index(kind), 0.5)
            for method, psnr in {"noisy": 1.0, **scores}.items()
            for kind in KINDS
            for level, offset in (("low", 5), ("mean", 0), ("high", -5))
        ]
        summary = pd.DataFrame(rows, columns=columns)
        write_table(study, "evaluation/summary.csv", summary.assign(**({"lpips_mean": lpips} if lpips else {})))
    return study


@pytest.fixture
def finished(tmp_path: Path) -> Folder:
    """A search: the trial with the best epoch of all failed later, the best of the others came third."""
    return write_study(
        tmp_path / "finished",
        {"trial-0001": "complete", "trial-0002": "failed", "trial-0003": "pruned", "trial-0004": "pruned"},
        [
            ("trial-0001", 1, 20.0),
            ("trial-0002", 1, 29.0),
            ("trial-0001", 2, 22.0),
            ("trial-0003", 1, 24.0),
            ("trial-0001", 3, 23.0),
            ("trial-0004", 1, 10.0),
        ],
        scores={"raygan": 25.0},
        status="finished",
    )


@pytest.fixture
def comparison(tmp_path: Path) -> Folder:
    """Two arms of two seeds, one of which failed."""
    return write_study(
        tmp_path / "arms",
        {"a-seed-0": "complete", "b-seed-0": "complete", "a-seed-1": "complete", "b-seed-1": "failed"},
        [("a-seed-0", 1, 20.0), ("b-seed-0", 1, 22.0), ("a-seed-1", 1, 21.0), ("b-seed-0", 2, 22.5)],
        scores={"a-seed-0": 20.0, "a-seed-1": 21.0, "b-seed-0": 22.0},
        status="finished",
        arms={"a": {}, "b": {"loss/adversarial_weight": 0.001}},
        seeds=2,
    )


def table_of(*folders: Folder) -> list[dict[str, Any]]:
    return studies_table(read_studies(folders)).to_dict("records")


def test_search_row(finished: Folder) -> None:
    (row,) = table_of(finished)
    # Not the failed trial's best; and the epochs of all trials, the failed one's too, were spent until then.
    best = {"val_psnr": 24.0, "val_ssim": 0.24, "best_trial": "trial-0003", "epochs_to_best": 4}
    about = {"study": "finished", "arm": "", "state": "finished", "epochs": 6, "seconds": 15.0}
    trials = {"trials": 4, "complete": 1, "pruned": 2, "failed": 1}
    psnr = {"psnr_gaussian": 25.0, "psnr_salt_and_pepper": 26.0, "psnr_speckle": 27.0}
    assert row == best | about | trials | psnr | {f"ssim_{kind}": 0.5 for kind in KINDS}


def test_arm_row_has_mean_over_good_seeds(comparison: Folder) -> None:
    a, b = table_of(comparison)
    assert (a["study"], a["arm"], a["trials"], a["complete"], a["failed"], a["epochs"]) == ("arms", "a", 2, 2, 0, 2)
    assert (b["arm"], b["complete"], b["failed"], b["epochs"], b["seconds"]) == ("b", 1, 1, 2, 5.0)
    assert (a["best_trial"], a["val_psnr"], a["epochs_to_best"]) == ("a-seed-1", 21.0, 2)
    assert (b["best_trial"], b["val_psnr"], b["epochs_to_best"]) == ("b-seed-0", 22.5, 2)
    assert (a["psnr_gaussian"], b["psnr_gaussian"]) == (20.5, 22.0)


def test_running_and_new_studies(tmp_path: Path, finished: Folder) -> None:
    running = write_study(
        tmp_path / "running",
        {"trial-0001": "complete", "trial-0002": "running", "trial-0003": "pending"},
        [("trial-0001", 1, 20.0), ("trial-0002", 1, 21.0)],
    )
    begun = write_study(tmp_path / "begun", {}, [])
    first_failed = write_study(tmp_path / "first-failed", {"trial-0001": "failed"}, [("trial-0001", 1, 20.0)])
    arms = write_study(tmp_path / "arms-begun", {}, [], arms={"x": {}}, seeds=1)
    table = studies_table(read_studies([running, begun, first_failed, arms, finished])).set_index("study")
    assert table["state"].tolist() == ["running trials"] * 4 + ["finished"]
    assert table["trials"].tolist() == [3, 0, 1, 0, 4]
    assert table["epochs"].tolist() == [2, 0, 1, 0, 6]
    assert table.loc["running", ["best_trial", "epochs_to_best"]].tolist() == ["trial-0002", 2]
    assert table["val_psnr"].notna().tolist() == [True, False, False, False, True]
    assert table["psnr_speckle"].notna().tolist() == [False] * 4 + [True]
    text = side_by_side(read_studies([running, begun]))
    assert "Evaluation photos" not in text
    assert "21.00 / 0.210" in text


@pytest.mark.parametrize(
    ("config", "record", "reason"),
    [
        ({"noises/speckle/high": 0.3}, {}, "the noises to remove"),
        ({"noises": (Gaussian(),)}, {}, "the noises to remove"),
        ({"data/seed": 1}, {}, "data/seed"),
        ({"data/crop_size": 64}, {}, "data/crop_size"),
        ({"data/val_crops": 5}, {}, "data/val_crops"),
        ({}, {"photos": {"train": 8, "validation": 2, "sha256": "b"}}, "the photos"),
    ],
)
def test_warning_if_val_scores_cannot_be_compared(
    tmp_path: Path, finished: Folder, config: dict[str, object], record: dict[str, Any], reason: str
) -> None:
    other = write_study(tmp_path / "other", {}, [], config=config, **record)
    warnings = [line for line in side_by_side(read_studies([finished, other])).splitlines() if "Warning" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"Warning: val scores cannot be compared, because the rows differ in {reason}")


def test_differing_settings_are_listed_in_the_order_of_the_rows(tmp_path: Path, finished: Folder) -> None:
    other = write_study(
        tmp_path / "other",
        {},
        [],
        config={"loss/adversarial_weight": 0.5},
        search_algorithm="gp",
        space={"sampling": {}},
    )
    text = side_by_side(read_studies([finished, other]))
    assert "Warning" not in text
    assert text.partition("in the order of the rows:\n")[2].splitlines() == [
        "  search_algorithm: tpe | gp",
        "  sampling: UniformPolicy | searched",
        "  loss/content_weight: searched | 0.1",
        "  loss/adversarial_weight: 0.01 | 0.5",
    ]
    assert side_by_side(read_studies([finished])).endswith("The settings do not differ.")


def test_warning_if_evaluations_are_on_different_photos(tmp_path: Path, finished: Folder) -> None:
    photos = {"count": 300, "sha256": "b"}
    other = write_study(tmp_path / "other", {}, [], scores={"raygan": 20.0}, evaluation_photos=photos)
    assert (
        "Warning: evaluation scores cannot be compared, because the rows differ in the photos (evaluation_photos in "
        "study.json)."
    ) in side_by_side(read_studies([finished, other])).splitlines()
    moved = write_study(tmp_path / "moved", {}, [], scores={"raygan": 20.0}, config={"data/evaluate_on": "mine"})
    assert "Warning" not in side_by_side(read_studies([finished, moved]))


def test_a_training_without_trials_has_its_own_epochs(tmp_path: Path) -> None:
    study = hand_written.write_study(tmp_path / "trained", trials=0)
    metrics = {"trial": "winner", "epoch": [1, 2], "val_psnr": [20.0, 21.0], "val_ssim": 0.5, "seconds": 2.5}
    write_table(study, "best/metrics.csv", pd.DataFrame(metrics))
    (row,) = table_of(study)
    assert (row["epochs"], row["seconds"], row["val_psnr"], row["best_trial"]) == (2, 5.0, 21.0, "winner")


def test_lpips_beside_studies_without_it(tmp_path: Path, finished: Folder) -> None:
    other = write_study(tmp_path / "other", {}, [], scores={"raygan": 20.0}, lpips=0.25)
    rows = read_studies([finished, other])
    assert studies_table(rows)["lpips_speckle"].isna().tolist() == [True, False]
    text = side_by_side(rows)
    assert "PSNR (dB) / SSIM / LPIPS (lower is better)" in text
    assert "25.00 / 0.500 / -" in text
    assert "20.00 / 0.500 / 0.250" in text


def test_table_for_users_own_noise(tmp_path: Path) -> None:
    own = Gaussian(name="film_grain")
    study = hand_written.write_study(tmp_path / "own", config={"noises": (own,)})
    row = {"set": "evaluation", "kind": own.key, "level": "mean", "method": "raygan", "psnr_mean": 21.0}
    write_table(study, "evaluation/summary.csv", [row | {"ssim_mean": 0.5}])
    text = side_by_side(read_studies([study]))
    assert "film_grain" in text
    assert "21.00 / 0.500" in text


def test_table_as_text(finished: Folder, comparison: Folder) -> None:
    lines = side_by_side(read_studies([finished, comparison])).splitlines()
    assert lines[0].split()[:3] == ["study", "state", "trials"]
    assert lines[1].split()[:6] == ["finished", "finished", "4", "1", "2", "1"]
    assert [line.split("  ")[0] for line in lines[2:4]] == ["arms, a", "arms, b"]
    assert "25.00 / 0.500" in [line for line in lines if line.startswith("finished")][-1]
    assert max(map(len, lines)) <= 110


def test_command_line_writes_csv(finished: Folder, comparison: Folder, tmp_path: Path) -> None:
    run = raygan_here("compare", finished, comparison, "--csv", tmp_path / "new" / "table.csv")
    assert (run.returncode, run.stderr) == (0, "")
    written = pd.read_csv(tmp_path / "new" / "table.csv", keep_default_na=False)
    assert written["arm"].tolist() == ["", "a", "b"]
    assert written["val_psnr"].tolist() == [24.0, 21.0, 22.5]
    # As of studies/*, while one of them has not begun.
    run = raygan_here("compare", finished, tmp_path / "new")
    assert run.returncode == 0
    assert f"no study, or none yet: {tmp_path / 'new'}" in run.stderr
    assert raygan_here("compare", tmp_path / "new").returncode == 2


def test_studies_of_the_same_name_are_shown_by_folder(finished: Folder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = write_study(tmp_path / "elsewhere" / "finished", {}, [])
    assert [row["study"] for row in table_of(finished, other)] == [str(finished), str(other)]


def test_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"holds no study \(no study.json\)"):
        read_studies([Folder(tmp_path)])


def test_old_schema_is_refused(tmp_path: Path) -> None:
    study = hand_written.write_study(tmp_path / "old", schema=1)
    with pytest.raises(StudyError, match="schema 1"):
        read_studies([study])
