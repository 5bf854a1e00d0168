"""Studies in experiment trackers: MLflow's own database, and wandb's offline files."""

import csv
import logging
import os
import re
import shutil
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Study, run_search
from report.hand_written import write_study, write_table

from raygan.cli import main
from raygan.inference.denoiser import Denoiser
from raygan.report.track import open_tracker, tracking
from raygan.storage import Folder

# The trackers warn about their own code and that of their databases.
pytestmark = pytest.mark.filterwarnings("ignore")
Table = dict[str, dict[int, dict[str, float]]]
"""Metrics by run, epoch and name."""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database, which takes seconds to make."""
    package = pytest.importorskip("mlflow", reason="needs MLflow: pip install 'raygan[mlflow]'")
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    package.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def mlflow(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with a database and artifacts in the test's folder."""
    import mlflow as package

    shutil.copy(empty_database, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return package


@pytest.fixture
def wandb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where wandb writes."""
    package = pytest.importorskip("wandb", reason="needs wandb: pip install 'raygan[wandb]'")
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield tmp_path / "wandb"
    package.teardown()


@pytest.fixture
def finished(study: Study, tmp_path: Path) -> Path:
    """A copy of the tiny search, one trial of which failed with a password in its error."""
    assert study.run.returncode == 0, study.run.stderr
    shutil.copytree(study.folder, tmp_path / "study")
    return _with_error(tmp_path / "study")


def _with_error(folder: Path) -> Path:
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows[-1] |= {"state": "failed", "error": "ValueError: postgresql://raygan:hunter2@host/studies"}
    with (folder / "trials.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path) -> Path:
    """The same study, as it was when each trial had trained for one epoch."""
    folder = tmp_path / "earlier"
    shutil.copytree(finished, folder)
    for name, pattern, replacement in (
        ("metrics.csv", r"^trial-\d+,2,.*\n", ""),
        ("trials.csv", r",(complete|pruned|failed),", ",running,"),
        ("study.json", '"finished",', '"running trials",'),
    ):
        text = (folder / name).read_text()
        changed = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        assert changed != text
        (folder / name).write_text(changed)
    shutil.rmtree(folder / "best")
    return folder


def ledger(folder: Path) -> Table:
    """What a study's tables say, with the winner's epochs as those of the study."""
    table: Table = {}
    for name in ("metrics.csv", "best/metrics.csv"):
        with (folder / name).open() as file:
            for row in csv.DictReader(file):
                run = row.pop("trial").replace("winner", "tiny")
                metrics = {metric: float(value) for metric, value in row.items() if value not in ("", "nan")}
                table.setdefault(run, {})[int(row["epoch"])] = metrics
    return table


def parameters(folder: Path) -> dict[str, dict[str, str]]:
    """Each trial's values, as text."""
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    searched = [path for path in rows[0] if "/" in path or path == "sampling"]
    return {row["trial"]: {path: row[path] for path in searched if row[path]} for row in rows}


def mlflow_runs(mlflow: Any) -> dict[str, Any]:
    found = mlflow.search_runs(experiment_names=["raygan"], output_format="list")
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def mlflow_metrics(mlflow: Any) -> Table:
    client, table = mlflow.MlflowClient(), {}
    for name, run in mlflow_runs(mlflow).items():
        for metric in run.data.metrics:
            for one in client.get_metric_history(run.info.run_id, metric):
                table.setdefault(name, {}).setdefault(one.step, {})[metric] = one.value
    return table


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of an offline run: protocol buffers in LevelDB's log format, blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, record = file.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        # Whole, or the last part.
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


def wandb_runs(folder: Path) -> dict[str, list[Any]]:
    import wandb

    # Waits for its service, as a process that ends does: a run's `finish` returns before its file is whole.
    wandb.teardown()
    runs = {}
    for file in folder.glob("offline-run-*/*.wandb"):
        records = list(wandb_records(file))
        name = next(one.run.display_name for one in records if one.HasField("run"))
        assert name not in runs
        runs[name] = records
    return runs


def wandb_metrics(folder: Path) -> Table:
    table: Table = {}
    for name, records in wandb_runs(folder).items():
        for record in records:
            if record.HasField("history"):
                values = {(one.key or "/".join(one.nested_key)): one.value_json for one in record.history.item}
                metrics = {key: float(value) for key, value in values.items() if not key.startswith("_")}
                assert record.history.step.num == metrics["epoch"]
                assert int(metrics["epoch"]) not in table.get(name, {})
                table.setdefault(name, {})[int(metrics["epoch"])] = metrics
    return table


def test_mlflow_holds_the_ledger(mlflow: Any, finished: Path) -> None:
    main(["track", str(finished), "mlflow"])
    assert mlflow_metrics(mlflow) == ledger(finished)
    runs = mlflow_runs(mlflow)
    study, client = runs.pop("tiny"), mlflow.MlflowClient()
    assert (study.info.status, study.data.tags["state"]) == ("FINISHED", "finished")
    assert study.data.params["training/batch_size"] == "4"
    assert study.data.params["trials"] == "3"
    failed = list(runs)[[run.data.tags["state"] for run in runs.values()].index("failed")]
    assert runs[failed].data.tags["error"] == "ValueError: postgresql://raygan:***@host/studies"
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
        assert run.info.status == ("FAILED" if name == failed else "FINISHED")
        assert run.data.params == parameters(finished)[name]
        picture = client.download_artifacts(run.info.run_id, "picture.png")
        assert np.array_equal(_pixels(picture), _pixels(finished / "pictures" / f"{name}.png"))


def _pixels(file: str | Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from PIL import Image

    return np.asarray(Image.open(file))


def test_a_comparison(mlflow: Any, tmp_path: Path) -> None:
    study = write_study(tmp_path / "arms", arms={"one": {}, "2": {}}, seeds=1, started="2026-11-27T12:00:00+0000")
    shared = {"state": "complete", "val_psnr": 20.5, "seed": 0}
    write_table(study, "trials.csv", [{"trial": f"{arm}-seed-0", "arm": arm} | shared for arm in ("one", "2")])
    epoch = {"epoch": 1, "val_psnr": 20.5, "seconds": 1.5}
    write_table(study, "metrics.csv", [{"trial": f"{arm}-seed-0"} | epoch for arm in ("one", "2")])
    main(["track", str(study), "mlflow"])
    assert mlflow_metrics(mlflow) == {"one-seed-0": {1: epoch}, "2-seed-0": {1: epoch}}
    runs = mlflow_runs(mlflow)
    assert runs["2-seed-0"].data.params == {"arm": "2", "seed": "0"}
    assert runs["2-seed-0"].info.end_time - runs["arms"].info.start_time == 1500
    assert mlflow.MlflowClient().search_registered_models() == []


def test_mlflow_model_denoises(mlflow: Any, finished: Path) -> None:
    import mlflow.pyfunc

    main(["track", str(finished), "mlflow"])
    model, denoiser = mlflow.pyfunc.load_model("models:/tiny/1"), Denoiser.from_pretrained(str(finished / "best"))
    for shape in ((40, 50, 3), (2, 40, 50, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        denoised = model.predict(images)
        assert (denoised.shape, denoised.dtype) == (shape, np.uint8)
        for noisy, result in zip(images.reshape(-1, 40, 50, 3), denoised.reshape(-1, 40, 50, 3), strict=True):
            assert np.array_equal(result, denoiser(noisy))


def test_mlflow_gets_each_thing_once(mlflow: Any, unfinished: Path, finished: Path, tmp_path: Path) -> None:
    main(["track", str(unfinished), "mlflow"])
    assert {run.info.status for run in mlflow_runs(mlflow).values()} == {"RUNNING"}
    assert {step for epochs in mlflow_metrics(mlflow).values() for step in epochs} == {1}
    counts = []
    for _ in range(2):
        main(["track", str(finished), "mlflow"])
        with sqlite3.connect(tmp_path / "mlflow.db") as database:
            tables = ("runs", "metrics", "params", "tags", "model_versions")
            counts.append([database.execute(f"SELECT COUNT(*) FROM {name}").fetchone() for name in tables])
    assert counts[0] == counts[1]
    assert mlflow_metrics(mlflow) == ledger(finished)


def test_wandb_holds_the_ledger(wandb_folder: Path, finished: Path) -> None:
    main(["track", str(finished), "wandb"])
    assert wandb_metrics(wandb_folder) == ledger(finished)
    for name, records in wandb_runs(wandb_folder).items():
        run = next(one.run for one in records if one.HasField("run"))
        assert (run.run_group, run.job_type, run.project) == ("tiny", "study" if name == "tiny" else "trial", "raygan")
        config = {item.key: item.value_json for one in records for item in (*one.run.config.update, *one.config.update)}
        expected = {"trials": "3"} if name == "tiny" else parameters(finished)[name]
        assert {path: config[path].strip('"') for path in expected} == expected
        summary = {item.key: item.value_json for one in records for item in one.summary.update}
        assert ("picture" in summary, "state" in summary) == (True, True)
        artifacts = [one.artifact.name for one in records if one.HasField("artifact")]
        assert artifacts == (["tiny"] if name == "tiny" else [])


def test_wandb_gets_each_thing_once(wandb_folder: Path, unfinished: Path, finished: Path) -> None:
    main(["track", str(unfinished), "wandb"])
    assert {step for epochs in wandb_metrics(wandb_folder).values() for step in epochs} == {1}
    main(["track", str(finished), "wandb"])
    assert wandb_metrics(wandb_folder) == ledger(finished)
    files = {file: file.read_bytes() for file in wandb_folder.glob("offline-run-*/*.wandb")}
    main(["track", str(finished), "wandb"])
    assert {file: file.read_bytes() for file in wandb_folder.glob("offline-run-*/*.wandb")} == files


@pytest.mark.usefixtures("mlflow", "wandb_folder")
@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_no_password_is_recorded(tracker: str, finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["raygan", "--optuna-storage", "postgresql://raygan:hunter2@host/studies"])
    main(["track", str(finished), tracker])
    written = [file for file in tmp_path.rglob("*") if file.is_file() and not file.is_relative_to(finished)]
    assert any(b"trial-0001" in file.read_bytes() for file in written)
    assert not [file for file in written if b"hunter2" in file.read_bytes()]


@pytest.mark.parametrize("read", [mlflow_metrics, wandb_metrics])
def test_a_running_study_is_written_to_its_end(
    read: Callable[[Any], Table], mlflow: Any, wandb_folder: Path, unfinished: Path, finished: Path
) -> None:
    name, where = ("mlflow", mlflow) if read is mlflow_metrics else ("wandb", wandb_folder)
    with tracking(Folder(unfinished), open_tracker(name)):  # type: ignore[arg-type]
        for file in ("metrics.csv", "trials.csv", *(f"best/{name}" for name in Folder(finished / "best").files())):
            Folder(unfinished).write(file, (finished / file).read_bytes())
        # Written last, as by a study.
        Folder(unfinished).write("study.json", (finished / "study.json").read_bytes())
    assert read(where) == ledger(finished)


@pytest.mark.usefixtures("mlflow")
def test_a_tracker_that_fails_warns_once(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unknown://user:hunter2@host")
    tracker = open_tracker("mlflow")
    with caplog.at_level(logging.WARNING, "raygan"):
        for _ in range(2):
            with tracking(Folder(finished), tracker):
                pass
    assert "hunter2" not in caplog.text
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == ["mlflow cannot be written"] * 2
    assert f"raygan track {finished} mlflow" in caplog.text


@pytest.mark.usefixtures("mlflow")
def test_a_tracker_that_fails_ends_the_command(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unknown://host")
    with pytest.raises(SystemExit, match="2"):
        main(["track", str(finished), "mlflow"])
    assert "mlflow cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_missing_package(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(SystemExit, match="2"):
        main(["track", str(tmp_path), tracker])
    assert f"pip install 'raygan[{tracker}]'" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("broken", [False, True])
def test_a_search_with_a_tracker(broken: bool, mlflow: Any, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "unknown://host")
    where = ("--storage", os.getcwd(), "--name", "tiny", "--track", "mlflow")
    run = run_search(*study.options, *where)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("mlflow cannot be written") == int(broken)
    if not broken:
        assert mlflow_metrics(mlflow) == ledger(Path("tiny"))
