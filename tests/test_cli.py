import dataclasses
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, raygan, raygan_here, search_command
from PIL import Image

from raygan.cli import load_experiment, main
from raygan.config.section import ConfigError, with_values
from raygan.data.sources import PhotoFolder, Samples
from raygan.errors import InputError
from raygan.losses import MeanSquaredError, Vgg19Features
from raygan.noise import NormalPolicy
from raygan.presets import DENOISER, PAPER_V1, quick
from raygan.search.experiment import Comparison, Search, TrialSettings
from raygan.search.options import RunOptions, parse_options
from raygan.search.prepare import resolved
from raygan.search.space import When
from searches.adversarial_weight import SEARCH as ABLATION
from searches.system import SEARCH as SYSTEM
from searches.v1 import SEARCH


def parsed(*arguments: str, search: Search = SEARCH) -> Search:
    experiment, _ = parse_options(search, "v1.py", arguments)
    assert isinstance(experiment, Search)
    experiment.check()
    return experiment


def parsed_comparison(*arguments: str) -> Comparison:
    experiment, _ = parse_options(ABLATION, "adversarial_weight.py", arguments)
    assert isinstance(experiment, Comparison)
    return experiment


def test_defaults_are_those_of_the_search_file() -> None:
    assert parse_options(SEARCH, "v1.py", []) == (SEARCH, RunOptions())
    assert SEARCH.config == PAPER_V1
    assert (SEARCH.config.training.epochs, SEARCH.trials, SEARCH.trial_epochs) == (30, 50, 30)


def test_quick_needs_no_data_and_no_weights() -> None:
    search = parsed("--quick")
    assert search.name == "v1-quick"
    assert search.config == quick(PAPER_V1)
    assert (search.config.data.photos, search.config.data.evaluate_on) == (Samples(), Samples())
    assert search.config.loss.content == MeanSquaredError()
    assert search.space == SEARCH.space
    assert (search.trials, search.trial_epochs) == (8, 4)
    # More repeats than a quick search has room for are those of the long one.
    repeating = dataclasses.replace(SEARCH, repeats=20).quick()
    repeating.check()
    shorter = dataclasses.replace(SEARCH, trials=3, trial_epochs=2).quick()
    assert (shorter.trials, shorter.trial_epochs) == (3, 2)


def test_what_a_file_system_says_is_shown_in_a_line() -> None:
    nowhere = "s3://bucket/study?region=us-east-1&endpoint_override=http://127.0.0.1:9"
    run = raygan("compare", nowhere)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1, run.stderr


def test_what_reads_the_output_may_have_enough() -> None:
    for options in (["search", "v1", "--help"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        command = [Path(sys.executable).with_name("raygan"), *options]
        run = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writing)
        assert (run.returncode, run.stderr) == (128 + signal.SIGPIPE, "")


def test_ctrl_c_says_so(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (6000, 6000)).save(tmp_path / "photos" / "large.png")
    command = [Path(sys.executable).with_name("raygan"), "denoise", tmp_path / "photos", tmp_path / "denoised"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        # The progress bar of the folder.
        while process.stderr.read(1) != "%":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        text = process.stderr.read()
        assert (process.wait(timeout=60), "Traceback" in text, text.endswith("\nStopped.\n")) == (130, False, True)


def test_every_option_reaches_its_value() -> None:
    options = [
        *("--quick", "--photos", "p", "--evaluate-on", "e", "--vgg19", "w.npz", "--name", "n", "--trials", "5"),
        *("--epochs", "7", "--trial-epochs", "2", "--concurrent", "3", "--workers", "2", "--seed", "9"),
        *("--set", "loss/content/scale=relative", "--set", "noises=gaussian,speckle"),
        *("--search-algorithm", "random", "--grace-epochs", "1", "--stop-collapsed", "--warm-start", "studies/old"),
        *("--time-budget", "1.5", "--max-parameters", "3000000", "--max-operations", "2e5"),
        *("--objectives", "val_ssim", "operations_per_pixel", "--storage", "s3://bucket/studies", "--wait", "9"),
        *("--optuna-storage", "sqlite:///x.db"),
    ]
    search, run = parse_options(SEARCH, "v1.py", options)
    assert isinstance(search, Search)
    config = search.config
    assert (config.data.photos, config.data.evaluate_on) == (PhotoFolder(location="p"), PhotoFolder(location="e"))
    assert config.loss.content == Vgg19Features(weights="w.npz", scale="relative")
    assert [noise.key for noise in config.noises] == ["gaussian", "speckle"]
    assert (config.training.epochs, config.training.seed, config.hardware.workers) == (7, 9, 2)
    assert (search.name, search.trials, search.trial_epochs, search.concurrent, search.seed) == ("n", 5, 2, 3, 9)
    assert (search.search_algorithm, search.grace_epochs, search.stop_collapsed) == ("random", 1, True)
    assert (search.warm_start, search.time_budget) == ("studies/old", 1.5)
    assert (search.max_parameters, search.max_operations) == (3_000_000, 2e5)
    assert (search.objectives, search.scheduler) == (("val_ssim", "operations_per_pixel"), "asha")
    assert (run.storage, run.wait, run.optuna_storage) == ("s3://bucket/studies", 9, "sqlite:///x.db")


def test_set_values_are_not_searched() -> None:
    search = parsed("--set", "sampling=NormalPolicy")
    assert search.config.sampling == NormalPolicy()
    assert set(search.space) == set(SEARCH.space) - {"sampling"}
    assert search.space["sampling/deviation"] == SEARCH.space["sampling/deviation"].distribution  # type: ignore[union-attr]
    assert parsed("--set", "sampling=normal_policy").space == search.space
    assert set(parsed("--set", "sampling=UniformPolicy").space) == set(SEARCH.space) - {
        "sampling",
        "sampling/deviation",
    }
    assert parsed("--epochs", "5", "--set", "training/epochs=4").config.training.epochs == 4
    # What a network, say, has that takes the place of another.
    options = Search(name="s", config=DENOISER, space=SYSTEM.space, trials=9, trial_epochs=9)
    changed = options.changed(with_values(DENOISER, {"noises": ["gaussian"]}), {"noises"}, {})
    assert not any(path.startswith("noises/salt") for path in changed.space)


def test_trial_epochs_do_not_exceed_epochs() -> None:
    assert parsed("--epochs", "3").trial_epochs == 3
    assert parsed("--quick", "--epochs", "3").trial_epochs == 3
    assert parsed("--epochs", "3", "--trial-epochs", "5").trial_epochs == 3
    assert parsed("--set", "training/epochs=2").trial_epochs == 2


@pytest.mark.parametrize(
    ("search", "options", "best_by"),
    [
        (SEARCH, [], "val_psnr"),
        (SEARCH, ["--objectives", "val_ssim"], "val_ssim"),
        (SEARCH, ["--objectives", "operations_per_pixel", "val_ssim"], "val_psnr"),
        (SEARCH, ["--objectives", "val_ssim", "--set", "training/best_by=val_psnr"], "val_psnr"),
        (dataclasses.replace(SEARCH, objectives=("val_ssim",)), ["--objectives", "val_psnr"], "val_psnr"),
    ],
)
def test_best_epoch_metric(search: Search, options: list[str], best_by: str) -> None:
    changed = parsed(*options, "--set", "hardware/device=cpu", search=search)
    assert resolved(changed.config, changed.objectives[0]).training.best_by == best_by


def test_values_do_not_rewrite_themselves() -> None:
    """Drawn by an algorithm that cannot leave values out, a conditional value is still conditional in the search."""
    back = dataclasses.replace(dataclasses.replace(SEARCH, search_algorithm="gp"), search_algorithm="tpe")
    assert back == SEARCH
    assert isinstance(back.sampled_space["sampling/deviation"], When)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "loss/adversarial_weight"], "--set needs path=value"),
        (["--set", "loss/lambda=1"], "no setting 'loss/lambda'"),
        (["--set", "data/crop_size=100"], "multiple of 32"),
        (["--workers", "3"], "multiple of hardware/workers"),
        (["--vgg19", "w.npz", "--set", "loss/content=MeanSquaredError"], "no setting 'loss/content/weights'"),
        (["--quick", "--set", "loss/content/weights=w.npz"], "no setting 'loss/content/weights'"),
        (["--set", "loss/content=VGG16"], "no ContentLoss 'VGG16'; there are "),
        (["--name", "../x"], "--name must have letters"),
    ],
)
def test_invalid_values_raise(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parsed(*arguments)


def test_comparison_options() -> None:
    options = ["--quick", "--photos", "p", "--evaluate-on", "e", "--vgg19", "w.npz", "--name", "n", "--seeds", "5"]
    options += ["--concurrent", "3", "--workers", "2", "--seed", "9", "--set", "loss/content/scale=relative"]
    comparison = parsed_comparison(*options, "--epochs", "7")
    expected = {
        "data/photos": "p",
        "data/evaluate_on": "e",
        "hardware/workers": 2,
        "training/seed": 9,
        "training/epochs": 7,
        "loss/content": Vgg19Features(weights="w.npz", scale="relative"),
    }
    assert comparison.config == with_values(quick(ABLATION.config), expected)
    assert (comparison.name, comparison.seeds, comparison.concurrent) == ("n", 5, 3)
    # Every trial gets the full budget.
    assert (comparison.settings.trials, comparison.settings.trial_epochs) == (10, 7)
    assert {point["seed"] for point in comparison.points()} == {9, 10, 11, 12, 13}
    assert comparison.values_at({"arm": "0.001", "seed": 11}) == {
        "loss/adversarial_weight": 0.001,
        "training/seed": 11,
    }
    with pytest.raises(ConfigError, match="--set loss/adversarial_weight: the arms differ in it"):
        parsed_comparison("--set", "loss/adversarial_weight=0.1")


def test_help_derives_from_the_fields(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    search = dataclasses.replace(SEARCH, trials=77, scheduler="none")
    with pytest.raises(SystemExit) as ended:
        parse_options(search, "v1.py", ["--help"])
    assert ended.value.code == 0
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    source = Path(str(__import__(TrialSettings.__module__, fromlist=["x"]).__file__)).read_text()
    for owner in (TrialSettings, RunOptions):
        for field in dataclasses.fields(owner):
            assert f" --{field.name.replace('_', '-')}" in text
    # The docstrings of the source are the help.
    documented = re.findall(r'^    (\w+): [^\n]+\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL)
    docs = {name: " ".join(doc.split()) for name, doc in documented}
    for field in dataclasses.fields(TrialSettings):
        value = getattr(search, field.name)
        shown = " ".join(value) if isinstance(value, tuple) else str(value)
        assert f"{docs[field.name]} (default: {shown})" in text
    assert "Epochs of a full training; the best one by validation is kept. (default: 30)" in text
    assert "--photos STR Clean photos to train on: coco (downloaded)" in text


def test_shipped_searches_run_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = raygan("search", "v1", "--quick", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "usage: raygan search v1 " in shown.stdout
    assert "v1-quick" in shown.stdout
    unknown = raygan_here("search", "v2")
    assert unknown.returncode == 2
    shipped = sorted(file.stem for file in (ROOT / "searches").glob("*.py") if file.stem != "__init__")
    assert {"v0", "v1"} <= set(shipped)
    assert unknown.stderr == f"raygan: there is no search 'v2'; there are {', '.join(shipped)}, or give a .py file\n"


def test_search_files_that_cannot_be_loaded_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.py is not a file"):
        load_experiment("absent.py")
    (tmp_path / "empty_search.py").write_text("SEARCHES = 1\n")
    with pytest.raises(InputError, match="defines no SEARCH: assign it a Search or a Comparison"):
        load_experiment(str(tmp_path / "empty_search.py"))


def test_train_command_parses_the_options_of_its_experiment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "discriminator"])
    assert ended.value.code == 2
    assert "discriminator is a comparison: run it with raygan search discriminator" in capsys.readouterr().err
    ran = []
    monkeypatch.setattr("raygan.search.study.run_study", lambda experiment, *options: ran.append((experiment, options)))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    main(["train", "v1", "--quick", "--epochs", "3", "--storage", "there", "--set", "generator=ResidualUNet"])
    [(search, options)] = ran
    expected = {"training/epochs": 3, "generator": "ResidualUNet"}
    assert (search.trials, search.config) == (0, with_values(quick(PAPER_V1), expected))
    assert options == ("there", 120, None, None)


def test_a_signal_during_imports_ends_the_search_cleanly(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPROFILEIMPORTTIME": "1"}
    command = search_command("--quick", "--storage", tmp_path)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        # What raygan.search.study imports, from inside `run_search`.
        assert any("raygan.data.photos" in line for line in process.stderr)
        process.terminate()
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Stopped. Resume with the same command: python " in output
    assert "Traceback" not in errors


def test_train_refuses_a_number_of_trials(capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--trials", "5"], ["--trials=5"]):
        with pytest.raises(SystemExit, match="2"):
            main(["train", "v1", *option])
        assert "raygan train runs no trials: leave --trials out, or run raygan search v1" in capsys.readouterr().err
