import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from raygan.config.section import ConfigError, with_values
from raygan.presets import DENOISER, PAPER_V1
from raygan.search.experiment import TrialSettings
from raygan.search.preflight import check_disk
from raygan.search.prepare import resolved
from raygan.storage import Folder
from raygan.study.ledger import StudyError
from searches.denoiser import SEARCH


def test_denoisers_to_start_from_become_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settled = with_values(
        DENOISER, {"hardware/device": "cpu", "training/best_by": "val_ssim", "training/precision": "float32"}
    )
    config = with_values(settled, {"training/start_from": "studies/v1/best"})
    assert resolved(config, "val_psnr").training.start_from == str(tmp_path / "studies" / "v1" / "best")
    for unchanged in (None, "baseline", "s3://bucket/studies/v1/best?region=us-east-1"):
        config = with_values(settled, {"training/start_from": unchanged})
        assert resolved(config, "val_psnr") == config


def test_trials_that_start_from_a_denoiser_cannot_search_the_generator() -> None:
    fine_tuning = with_values(SEARCH.config, {"training/start_from": "baseline"})
    dataclasses.replace(SEARCH, config=fine_tuning).check()
    with pytest.raises(ConfigError, match="cannot search generator/base_width, generator/depth"):
        dataclasses.replace(SEARCH, config=fine_tuning, trials=5).check()


def test_a_study_that_the_disk_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = TrialSettings(trials=9, trial_epochs=3)
    check_disk(Folder(tmp_path / "new"), PAPER_V1, settings, concurrent=2)
    weights, discriminator = 4 * 29_247_491, 4 * 20_585_921
    # Two that run, with three checkpoints each, and four that wait.
    needed = 10 * (4 * weights + 3 * discriminator) + 10 * weights
    assert capsys.readouterr().out.startswith(f"Disk: about {needed / 1e9:.2f} GB are needed")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(StudyError, match=r"2 trials at once, and 4 that wait, need 8.3 GB for their checkpoints"):
        check_disk(Folder(tmp_path / "new"), PAPER_V1, settings, concurrent=2)
    (tmp_path / "resumed" / "checkpoints").mkdir(parents=True)
    check_disk(Folder(tmp_path / "resumed"), PAPER_V1, settings, concurrent=2)
