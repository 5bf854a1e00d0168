import dataclasses
from pathlib import Path

import pytest

from raygan.config.section import ConfigError, with_values
from raygan.presets import DENOISER
from raygan.search.prepare import resolved
from searches.denoiser import SEARCH


def test_denoisers_to_start_from_become_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settled = with_values(DENOISER, {"hardware/device": "cpu", "training/best_by": "val_ssim"})
    config = with_values(settled, {"training/start_from": "studies/v1/best"})
    assert resolved(config, "val_psnr").training.start_from == str(tmp_path / "studies" / "v1" / "best")
    for unchanged in (None, "shipped", "s3://bucket/studies/v1/best?region=us-east-1"):
        config = with_values(settled, {"training/start_from": unchanged})
        assert resolved(config, "val_psnr") == config


def test_trials_that_start_from_a_denoiser_cannot_search_the_generator() -> None:
    fine_tuning = with_values(SEARCH.config, {"training/start_from": "shipped"})
    dataclasses.replace(SEARCH, config=fine_tuning).check()
    with pytest.raises(ConfigError, match="cannot search generator/base_width, generator/blocks"):
        dataclasses.replace(SEARCH, config=fine_tuning, trials=5).check()
