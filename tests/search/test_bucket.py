"""A study in a bucket, on a real S3 server of this machine's own."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from conftest import TINY_OPTIONS, raygan_here, run_search, warnings_of
from moto.server import ThreadedMotoServer
from optuna.distributions import IntDistribution

from raygan.data.pairs import evaluation_pairs
from raygan.data.sources import PairFolder
from raygan.inference.denoiser import Denoiser
from raygan.inference.files import denoise_path
from raygan.storage import Folder
from raygan.study.trials import Trials, dashboard_storage
from raygan.train.denoisers import load_generator

REGION = "us-east-1"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tiny_photos: Path) -> Iterator[str]:
    """An `s3://` prefix, and its server's options, with tiny photos in it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    try:
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name=REGION)
        client.create_bucket(Bucket="bucket")
        for path in (tiny_photos / "photos").iterdir():
            client.upload_file(str(path), "bucket", f"photos/{path.name}")
        yield f"s3://bucket/NAME?region={REGION}&endpoint_override=http://127.0.0.1:{port}"
    finally:
        server.stop()


@pytest.mark.usefixtures("ray_here")
def test_pairs_in_a_bucket(bucket: str, tiny_photos: Path) -> None:
    folder = Folder(bucket.replace("NAME", "pairs"))
    files = sorted((tiny_photos / "photos").iterdir())[:3]
    for file in files:
        for part in ("noisy", "clean"):
            folder.write(f"{part}/{file.name}", file.read_bytes())
    folder.write("list.csv", f"noisy,clean\nnoisy/{files[0].name},clean/{files[1].name}\n")
    pairs = [(f"noisy/{file.name}", f"clean/{file.name}") for file in files]
    assert PairFolder(location=folder.location).find()[1] == pairs
    where, found = PairFolder(location=bucket.replace("NAME", "pairs/list.csv")).find()
    assert (where.location, found) == (folder.location, [(pairs[0][0], pairs[1][1])])
    rows = evaluation_pairs(PairFolder(location=folder.location), 100).take_all()
    assert sorted(row["name"] for row in rows) == [noisy for noisy, _ in pairs]
    assert all(row["pixels"].shape[2] == 6 for row in rows)


def test_files_in_a_bucket_are_denoised(bucket: str, tiny_photos: Path) -> None:
    denoiser = Denoiser.from_pretrained("small")
    folder, results = (bucket.replace("NAME", name) for name in ("noisy", "noisy/denoised"))
    files = sorted((tiny_photos / "photos").iterdir())[:3]
    for file in files:
        Folder(folder).write(file.name, file.read_bytes())
    single = (bucket.replace("NAME", name) for name in (f"noisy/{files[0].name}", "noisy/denoised/one.png"))
    assert denoise_path(denoiser, *single) == []
    # The results of the first run are no input of the second.
    for _ in range(2):
        assert denoise_path(denoiser, folder, results) == []
    assert set(Folder(results).files()) == {"one.png", *(file.name for file in files)}
    assert Folder(results).read(files[0].name) == Folder(results).read("one.png")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_photos_and_study_in_a_bucket(bucket: str, tiny_photos: Path) -> None:
    places = [
        *("--photos", bucket.replace("NAME", "photos"), "--storage", bucket.replace("NAME", "studies")),
        *("--evaluate-on", str(tiny_photos / "evaluation"), "--name", "study", "--set", "data/cache=stream"),
    ]
    run = run_search(*TINY_OPTIONS, *places, timeout=1000)
    assert (run.returncode, warnings_of(run)) == (0, "")
    assert "streamed; evaluation on" in run.stdout
    folder = Folder(bucket.replace("NAME", "studies/study"))
    record = json.loads(folder.read("study.json"))
    assert record["status"] == "finished"
    trials = list(csv.DictReader(io.StringIO(folder.read("trials.csv").decode())))
    assert [row["trial"] for row in trials] == ["trial-0001", "trial-0002", "trial-0003"]
    assert {row["state"] for row in trials} <= {"complete", "pruned"}
    load_generator(folder.child(f"{trials[0]['checkpoint']}/denoiser"))
    _, config = load_generator(folder.child("best"))
    assert config.data.cache == "stream"
    scores = list(csv.DictReader(io.StringIO(folder.read("evaluation/per_image.csv").decode())))
    assert {row["method"] for row in scores} == {"noisy", "median", "raygan"}
    assert not folder.exists("lock.json")
    assert any(name.startswith("tensorboard/winner/events") for name in folder.files())
    # Run again, it is found finished.
    again = raygan_here("search", "v1", *TINY_OPTIONS, *places)
    assert again.returncode == 0
    assert "is finished; run under another --name" in again.stdout


def test_optuna_study_in_a_bucket_is_copied_there_after_each_change(bucket: str) -> None:
    folder = Folder(bucket.replace("NAME", "optuna"))
    trials = Trials(folder, "s", ["val_psnr"])
    trials.enqueue([{"x": 1}])
    trial = trials.study.ask({"x": IntDistribution(1, 3)})
    trials.begin(trial, lambda number, _: f"trial-{number:04d}")
    # Another machine takes over, and a reader looks at it.
    [resumed] = Trials(folder, "s", ["val_psnr"]).unfinished()
    assert (resumed.params, resumed.user_attrs["trial"]) == ({"x": 1}, "trial-0001")
    with dashboard_storage(folder, None) as storage:
        assert len(storage.get_all_trials(storage.get_study_id_from_name("s"))) == 1
