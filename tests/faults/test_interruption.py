"""A search that is stopped or killed resumes under the same command: nothing finished is lost or repeated."""

import csv
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_OPTIONS, run_search, start_and_stop

pytestmark = pytest.mark.timeout(3000)
Rows = dict[tuple[str, str], dict[str, str]]


def table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def finished(study: Path) -> set[str]:
    return {row["trial"] for row in table(study / "trials.csv") if row["state"] in ("complete", "pruned")}


def epochs(study: Path) -> Rows:
    return {(row["trial"], row["epoch"]): row for row in table(study / "metrics.csv")}


@pytest.fixture
def options(write_photos: Callable[..., Path], tmp_path: Path) -> list[str]:
    photos = str(write_photos(10))
    places = ["--photos", photos, "--evaluate-on", photos, "--storage", str(tmp_path), "--name", "study"]
    return [*TINY_OPTIONS, *places, "--trials", "4", "--epochs", "3", "--set", "training/steps_per_epoch=8"]


@pytest.mark.slow
def test_killed_copied_damaged_and_stopped_search_ends_like_an_uninterrupted_one(
    options: list[str], tmp_path: Path
) -> None:
    options += ["--concurrent", "1", "--scheduler", "none", "--trials", "3", "--trial-epochs", "3"]
    study, whole = tmp_path / "study", tmp_path / "whole"
    reference = run_search(*options, "--name", "whole", timeout=1200)
    assert reference.returncode == 0

    def in_the_second_trials_last_epoch() -> bool:
        return ("trial-0002", "2") in epochs(study) and (
            study / "checkpoints" / "trial-0002" / "epoch-0002" / "checksums.json"
        ).is_file()

    code, _ = start_and_stop(options, in_the_second_trials_last_epoch, signal.SIGKILL)
    assert code == -signal.SIGKILL
    # A copy under another name, with the photos elsewhere, goes on alone.
    original, study = study, tmp_path / "elsewhere" / "renamed"
    # Workers outlive the main process by a moment.
    before, seen = contents(original), dict[str, bytes]()
    while before != seen:
        time.sleep(5)
        before, seen = contents(original), before
    shutil.copytree(original, study)
    (tmp_path / "photos").rename(tmp_path / "moved")
    options += ["--storage", str(study.parent), "--name", study.name]
    options += ["--photos", f"{tmp_path}/moved/", "--evaluate-on", f"{tmp_path}/./moved"]
    done, known = finished(study), epochs(study)
    assert "trial-0001" in done
    if "trial-0002" not in done:
        # The kill may have come while the next one was written.
        newest = max((study / "checkpoints" / "trial-0002").glob("epoch-*/checksums.json")).parent
        (newest / "training.pt").write_bytes((newest / "training.pt").read_bytes()[:1000])

    code, output = start_and_stop(options, lambda: bool(table(study / "best" / "metrics.csv")), signal.SIGINT)
    assert code == 130, output
    assert "Stopped. Resume with the same command: python " in output
    assert "Traceback" not in output
    # A finished trial is not trained again: its epochs are those of its first start, to the measured second.
    assert {key: row for key, row in epochs(study).items() if key[0] in done} == {
        key: row for key, row in known.items() if key[0] in done
    }
    assert finished(study) == {"trial-0001", "trial-0002", "trial-0003"}

    # What a kill leaves of Ray's own state is of no use, and of no harm.
    (study / "ray" / "winner").mkdir(parents=True, exist_ok=True)
    (study / "ray" / "winner" / "checkpoint_manager_snapshot.json").write_text("{")
    ended = run_search(*options, timeout=1200)
    assert ended.returncode == 0
    # The epochs that a checkpoint holds are not trained again.
    assert "trial-0001 starts" not in ended.stdout
    assert "winner epoch  1/3" not in ended.stdout

    assert contents(original) == before
    # To the last bit.
    for name in ("metrics.csv", "trials.csv", "best/metrics.csv", "evaluation/summary.csv"):
        assert [unmeasured(row) for row in table(study / name)] == [unmeasured(row) for row in table(whole / name)]
    # Of a run only its denoiser stays, and of Ray's state nothing.
    assert files(study / "checkpoints") == files(whole / "checkpoints")
    assert not (study / "ray").exists()
    weights = "best/generator.safetensors"
    assert (study / weights).read_bytes() == (whole / weights).read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def unmeasured(row: dict[str, str]) -> dict[str, str]:
    """The row without the seconds that things took."""
    return {name: value for name, value in row.items() if "seconds" not in name}
