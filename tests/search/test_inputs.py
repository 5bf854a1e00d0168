import dataclasses
from pathlib import Path

import pytest
from raygan.search.inputs import with_absolute_start

from raygan.config.section import ConfigError, with_values
from raygan.presets import DENOISER
from searches.denoiser import SEARCH


def test_what_trials_start_from_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = with_values(DENOISER, {"training/start_from": "studies/v1/best"})
    assert with_absolute_start(config).training.start_from == str(tmp_path / "studies" / "v1" / "best")
    for unchanged in (None, "shipped", "s3://bucket/studies/v1/best?region=us-east-1"):
        config = with_values(DENOISER, {"training/start_from": unchanged})
        assert with_absolute_start(config) == config


def test_trials_that_start_from_a_denoiser_search_no_other_generator() -> None:
    fine_tuning = with_values(SEARCH.config, {"training/start_from": "shipped"})
    dataclasses.replace(SEARCH, config=fine_tuning).check()
    with pytest.raises(ConfigError, match="cannot search generator/base_width, generator/blocks"):
        dataclasses.replace(SEARCH, config=fine_tuning, trials=5).check()
