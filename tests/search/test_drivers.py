"""Several drivers on one search, through one Optuna database."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import TINY_OPTIONS, run_search, search_command
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState, create_trial
from raygan.search.drivers import Drivers
from raygan.search.optuna_record import OptunaRecord, open_study
from sqlalchemy import event
from sqlalchemy.pool import Pool

from raygan.config.section import ConfigError, flat_values, with_values
from raygan.presets import PAPER_V0, PAPER_V1
from raygan.search.algorithms import EpochOptunaSearch, sampler
from raygan.search.experiment import Search
from raygan.study.ledger import Ledger, StudyError, TrialRow
from raygan.study.storage import Folder
from raygan.train.checkpoint import load_denoiser, verify_checkpoint

RATE, WEIGHT = "optimizers/generator/learning_rate", "loss/adversarial_weight"
SEARCH = Search(
    name="one",
    config=PAPER_V1,
    space={
        RATE: FloatDistribution(1e-4, 1e-2, log=True),
        WEIGHT: FloatDistribution(1e-4, 1e-1, log=True),
        "noise/policy": CategoricalDistribution(["uniform", "normal"]),
    },
    first_points=[PAPER_V1, PAPER_V0],
    trials=5,
    trial_epochs=3,
    together="all",
)
PHOTOS = {"train": 8, "validation": 2, "names_sha256": "0"}


class Driver:
    """What one process of a search has: its searcher, and the record of its trials."""

    def __init__(self, place: str, folder: Path, search: Search = SEARCH) -> None:
        self.folder = Folder(folder)
        self.ledger = Ledger(self.folder)
        self.drivers = Drivers(place, search, search.points(), self.folder)
        self.record = OptunaRecord(place, search.name, search.space, self.folder, search.together)
        search = dataclasses.replace(search, seed=self.drivers.own_seed(search.seed))
        self.searcher = _Searcher(sampler(search), search.space, [], search.trial_epochs, flat_values(search.config))
        self.searcher.drivers = self.drivers
        self.rows: dict[str, TrialRow] = {}

    def begin(self, trial: str) -> dict[str, Any]:
        proposed = self.searcher.suggest(trial)
        assert proposed is not None
        values = {
            RATE: proposed["optimizers"]["generator"]["learning_rate"],
            WEIGHT: proposed["loss"]["adversarial_weight"],
            "noise/policy": proposed["noise"]["policy"],
        }
        self.rows[trial] = TrialRow(
            trial, "running", 0, float("nan"), float("nan"), float("nan"), 0.0, None, "", values
        )
        self.record.update(self.rows.values(), self.ledger)
        return values

    def report(self, trial: str, *scores: float, state: str = "running") -> None:
        for epoch, score in enumerate(scores, start=1):
            self.ledger.add_epoch(trial, {"epoch": epoch, "best_val_psnr": score})
        row = dataclasses.replace(self.rows[trial], state=state, epochs=len(scores), val_psnr=scores[-1], val_ssim=0.5)
        self.rows[trial] = dataclasses.replace(row, checkpoint=f"tune/{trial}/checkpoint")
        self.record.update(self.rows.values(), self.ledger)

    def known(self) -> dict[float, optuna.trial.FrozenTrial]:
        """The others' trials as this one's searcher knows them, by learning rate."""
        self.drivers.exchange(self.searcher._ot_study)
        trials = self.searcher._ot_study.get_trials()
        return {trial.params[RATE]: trial for trial in trials if "folder" in trial.user_attrs}


class _Searcher(EpochOptunaSearch):
    """Whose drivers are its own, since two of them share a process here."""


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


def check_that_drivers_share(place: str, tmp_path: Path) -> None:
    one, two = Driver(place, tmp_path / "one"), Driver(place, tmp_path / "two")
    # The first points are divided, whoever asks first.
    first, second = one.begin("trial-0001"), two.begin("trial-0001")
    assert [first[RATE], second[RATE]] == [0.005, 0.0005]
    drawn, other = one.begin("trial-0002"), two.begin("trial-0002")
    assert len({first[RATE], second[RATE], drawn[RATE], other[RATE]}) == 4
    # What runs is known, with its scores so far.
    one.report("trial-0001", 20.0)
    known = two.known()
    assert {rate: trial.state for rate, trial in known.items()} == dict.fromkeys(
        (first[RATE], drawn[RATE]), TrialState.RUNNING
    )
    assert known[first[RATE]].params == first
    assert known[first[RATE]].intermediate_values == {1: 20.0}
    # And how it ended.
    one.report("trial-0001", 20.0, 22.0, 23.0, state="complete")
    one.report("trial-0002", 18.0, state="pruned")
    known = two.known()
    complete, pruned = known[first[RATE]], known[drawn[RATE]]
    assert (complete.state, complete.value) == (TrialState.COMPLETE, 23.0)
    assert complete.intermediate_values == {1: 20.0, 2: 22.0, 3: 23.0}
    assert (pruned.state, pruned.intermediate_values) == (TrialState.PRUNED, {1: 18.0})
    two.report("trial-0001", 15.0, state="failed")
    assert one.known()[second[RATE]].state == TrialState.FAIL
    # A driver that comes later knows all at once, and its searcher counts none of them as its own.
    three = Driver(place, tmp_path / "three")
    assert three.begin("trial-0001")[RATE] not in (first[RATE], second[RATE], drawn[RATE], other[RATE])
    assert {trial.state for trial in three.known().values()} == {
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
    }
    assert set(three.searcher._ot_trials) == {"trial-0001"}
    best = three.drivers.best_of_others()
    assert best is not None
    assert (best["trial"], best["folder"], best["checkpoint"]) == (
        "trial-0001",
        str(tmp_path / "one"),
        "tune/trial-0001/checkpoint",
    )
    assert (best["val_psnr"], best["epochs"], best["state"], best["values"]) == (23.0, 3, "complete", first)
    # The winner's own driver has no better one among the others'.
    assert one.drivers.best_of_others() is None


def test_drivers_share_what_runs_and_what_has_ended(sqlite: str, tmp_path: Path) -> None:
    check_that_drivers_share(sqlite, tmp_path)


def test_first_points_are_divided_among_drivers_that_start_at_once(sqlite: str, tmp_path: Path) -> None:
    check_that_first_points_are_divided(sqlite, tmp_path)


def check_that_first_points_are_divided(place: str, tmp_path: Path) -> None:
    search = dataclasses.replace(SEARCH, together="at-once")

    def first_of(name: str) -> float:
        rate: float = Driver(place, tmp_path / name, search).begin("trial-0001")[RATE]
        return rate

    with ThreadPoolExecutor(3) as pool:
        rates = list(pool.map(first_of, ("one", "two", "three")))
    assert {0.005, 0.0005} < set(rates)
    assert len(set(rates)) == 3


def test_a_trial_that_a_kill_took_from_tune_is_proposed_again(sqlite: str, tmp_path: Path) -> None:
    one = Driver(sqlite, tmp_path / "one")
    one.begin("trial-0001")
    one.searcher.save(str(tmp_path / "state"))
    lost = one.begin("trial-0002")
    drawn = one.begin("trial-0003")
    claimed = Driver(sqlite, tmp_path / "two").begin("trial-0001")
    later = Driver(sqlite, tmp_path / "one")
    later.searcher.restore(str(tmp_path / "state"))
    assert [later.begin("trial-0002"), later.begin("trial-0003")] == [lost, drawn]
    assert later.begin("trial-0004") not in (lost, drawn, claimed)
    names = [trial.user_attrs["trial"] for trial in later.drivers.study.get_trials() if later.drivers._is_mine(trial)]
    assert sorted(names) == ["trial-0001", "trial-0002", "trial-0003", "trial-0004"]


def test_what_one_driver_found_moves_the_others_proposals(sqlite: str, tmp_path: Path) -> None:
    """After twenty trials of another driver near one rate, TPE proposes there without any of its own."""
    space = {RATE: SEARCH.space[RATE]}
    search = dataclasses.replace(SEARCH, space=space, first_points=(), seed=3)
    rates = {}
    for told in (False, True):
        place = f"{sqlite}{told}"
        shared = Drivers(place, search, [], Folder(tmp_path / "two"))
        for rate in np.geomspace(1e-4, 1e-2, 20 if told else 0):
            shared.study.add_trial(
                create_trial(
                    value=30 - 100 * abs(rate - 3e-4) / 3e-4,
                    params={RATE: float(rate)},
                    distributions=search.space,
                    user_attrs={"folder": str(tmp_path / "one")},
                )
            )
        two = _Searcher(sampler(search), search.space, [], 3, flat_values(search.config))
        two.drivers = shared
        rates[told] = [
            proposed["optimizers"]["generator"]["learning_rate"]
            for proposed in (two.suggest(f"t{index}") for index in range(5))
            if proposed is not None
        ]
    assert all(1.5e-4 < rate < 6e-4 for rate in rates[True])
    assert not all(1.5e-4 < rate < 6e-4 for rate in rates[False])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"config": with_values(PAPER_V1, {"training/batch_size": 4})},
            "differ from this search in training/batch_siz",
        ),
        (
            {"space": {**SEARCH.space, RATE: FloatDistribution(1e-4, 0.1, log=True)}},
            f"differ from this search in the search space at {RATE}: give the same options",
        ),
        ({"trial_epochs": 2}, r"in --trial-epochs \(3 there, 2 here\)"),
    ],
)
def test_another_search_is_not_mixed_in(sqlite: str, tmp_path: Path, change: dict[str, Any], named: str) -> None:
    Drivers(sqlite, SEARCH, SEARCH.points(), Folder(tmp_path / "one"))
    other = dataclasses.replace(SEARCH, **change)
    with pytest.raises(StudyError, match=named):
        Drivers(sqlite, other, other.points(), Folder(tmp_path / "two"))
    allowed = {"hardware/workers": 2, "training/epochs": 9, "training/seed": 5}
    same = dataclasses.replace(SEARCH, config=with_values(PAPER_V1, allowed), trials=9, seed=4)
    Drivers(sqlite, same, same.points(), Folder(tmp_path / "two"))


def test_a_study_is_either_shared_or_ones_own(sqlite: str, tmp_path: Path) -> None:
    Drivers(sqlite, SEARCH, [], Folder(tmp_path / "one"))
    with pytest.raises(StudyError, match="several drivers share the study 'all'"):
        open_study(sqlite, "all", Folder(tmp_path / "all"))
    open_study(sqlite, "own", Folder(tmp_path / "own"))
    with pytest.raises(StudyError, match=r"--together own: .* is the record of the search in .*/own, .*another name"):
        Drivers(sqlite, dataclasses.replace(SEARCH, together="own"), [], Folder(tmp_path / "one"))


def test_drivers_have_folders_of_their_own_and_the_same_photos(sqlite: str, tmp_path: Path) -> None:
    one = Drivers(sqlite, SEARCH, [], Folder(tmp_path / "one"))
    one.join("a", PHOTOS)
    one.join("a", PHOTOS)
    with pytest.raises(StudyError, match=r"another driver, perhaps on another machine, .*/one: give another --name"):
        one.join("b", PHOTOS)
    with pytest.raises(StudyError, match="scores compare only on the same photos"):
        Drivers(sqlite, SEARCH, [], Folder(tmp_path / "two")).join("b", PHOTOS | {"train": 9})


def test_a_database_that_does_not_answer_for_a_moment_stops_no_search(
    sqlite: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Driver(sqlite, tmp_path / "one"), Driver(sqlite, tmp_path / "two")
    one.begin("trial-0001")
    with monkeypatch.context() as broken:
        broken.setattr(two.drivers.study, "get_trials", _refuse)
        assert two.searcher.suggest("trial-0001") is not None
        assert "the Optuna storage cannot be read, so the other drivers' trials are missed" in caplog.text
        with pytest.raises(StudyError, match="run the same command again once it answers"):
            two.drivers.best_of_others()
    assert 0.005 in two.known()


def _refuse(**options: Any) -> None:  # noqa: ARG001
    raise StorageInternalError("no connection")


@pytest.mark.parametrize(
    "change",
    [{"searcher": "nsga2"}, {"scheduler": "pbt"}, {"trials": 0}, {"together": None, "trials_only": True, "trials": 0}],
)
def test_what_cannot_be_shared_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--together"):
        dataclasses.replace(SEARCH, **change).check()


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of a database of a PostgreSQL server that lives as long as the test."""
    psycopg = pytest.importorskip("psycopg", reason="needs PostgreSQL's driver: pip install 'psycopg[binary]'")
    installed = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), Path(shutil.which("postgres") or "/none").parent]
    programs = next((path for path in installed if (path / "initdb").exists() and (path / "postgres").exists()), None)
    if programs is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    # The server refuses to run as root, and tests' own folders are their user's alone.
    user = "nobody" if os.getuid() == 0 else None
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        if user is not None:
            shutil.chown(folder, user)
        options = ["--pgdata", f"{folder}/data", "--username", "raygan", "--auth", "trust", "--no-sync"]
        subprocess.run([programs / "initdb", *options], user=user, cwd=folder, check=True, stdout=DEVNULL)
        options = ["-D", f"{folder}/data", "-k", folder, "-h", "127.0.0.1", "-p", str(port), "-F"]
        with subprocess.Popen([programs / "postgres", *options], user=user, cwd=folder, stderr=DEVNULL) as server:
            opened: list[Any] = []

            def remember(connection: Any, _: Any) -> None:
                opened.append(connection)

            event.listen(Pool, "connect", remember)
            try:
                url = f"raygan@127.0.0.1:{port}/postgres"
                deadline = time.monotonic() + 60
                while True:
                    try:
                        psycopg.connect(f"postgresql://{url}").close()
                        break
                    except psycopg.OperationalError:
                        assert server.poll() is None
                        assert time.monotonic() < deadline
                        time.sleep(0.1)
                yield f"postgresql+psycopg://{url}"
            finally:
                event.remove(Pool, "connect", remember)
                # Optuna leaves them to the garbage collector, at whose sight they warn.
                for connection in opened:
                    connection.close()
                server.send_signal(signal.SIGINT)


def test_drivers_share_through_postgresql(postgresql: str, tmp_path: Path) -> None:
    check_that_drivers_share(postgresql, tmp_path / "shared")
    check_that_first_points_are_divided(postgresql, tmp_path / "at-once")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_drivers_search_together(tiny_photos: Path, tmp_path: Path) -> None:
    """At once, each on a Ray of its own; then one of them trains the winner, the best of both."""
    database = f"sqlite:///{tmp_path}/optuna.db"
    options = [
        *(*TINY_OPTIONS, "--together", "all", "--optuna-storage", database, "--storage", tmp_path, "--concurrent", "1"),
        *("--photos", tiny_photos / "photos", "--evaluate-on", tiny_photos / "evaluation"),
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "RAY_ADDRESS": "local"}
    both = {name: search_command(*options, "--name", name, "--trials-only") for name in ("one", "two")}
    running = {
        name: subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=environment)
        for name, command in both.items()
    }
    for name, process in running.items():
        output, errors = process.communicate(timeout=500)
        assert (process.returncode, errors) == (0, "")
        assert f"The trials of {tmp_path}/{name} have ended" in output
        assert json.loads((tmp_path / name / "study.json").read_text())["status"] == "trials only"
        assert not (tmp_path / name / "best").exists()

    rows = {}
    for name in both:
        with (tmp_path / name / "trials.csv").open() as file:
            rows |= {(str(tmp_path / name), row["trial"]): row for row in csv.DictReader(file)}
    trials = optuna.load_study(study_name="all", storage=database).get_trials()
    found = {(trial.user_attrs["folder"], trial.user_attrs["trial"]): trial for trial in trials}
    assert len(trials) == len(found) == len(rows) == 6
    for key, row in rows.items():
        assert found[key].state.name.lower() == row["state"]
        assert max(found[key].intermediate_values.values()) == float(row["val_psnr"])
        assert found[key].params[RATE] == float(row[RATE])
    assert len({trial.params[RATE] for trial in trials}) == 6
    assert {0.005, 0.0005} < {trial.params[RATE] for trial in trials}

    folder, trial = max(rows, key=lambda key: float(rows[key]["val_psnr"]))
    # Whichever did not find it trains it.
    name = "two" if folder.endswith("one") else "one"
    run = run_search(*options, "--name", name)
    assert (run.returncode, run.stderr) == (0, "")
    assert f"Winner: {trial} of the search in {folder}, trained for 2 epochs" in run.stdout
    assert f"best trial ({trial} of {folder})" in run.stdout
    best = json.loads((tmp_path / name / "study.json").read_text())["best_trial"]
    assert (best["folder"], best["trial"]) == (folder, trial)
    verify_checkpoint(Path(folder) / best["checkpoint"])
    _, config = load_denoiser(Folder(tmp_path / name / "best"))
    assert config.optimizers.generator.learning_rate == float(rows[folder, trial][RATE])
    again = run_search(*options, "--name", name, "--trials-only")
    assert "is finished; run under another --name" in again.stdout
