"""What a search shows of its progress."""

import io
import json
import os
import pty
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import TINY_OPTIONS, search_command
from optuna.distributions import CategoricalDistribution, IntDistribution
from rich.console import Console
from rich.table import Table

from raygan.config.section import with_values
from raygan.models.cost import epochs_of_equal_computation
from raygan.presets import PAPER_V1, quick
from raygan.search.experiment import Search, TrialSettings
from raygan.search.progress import LiveTable, SearchProgress, seconds_ahead
from raygan.search.searcher import OptunaSearcher
from raygan.search.space import Space
from raygan.storage import Folder
from raygan.study.ledger import Ledger, TrialRow
from raygan.study.trials import Trials

EPOCHS = 9
"""Epochs of a trial's full length: rungs are at 1 and 3."""


def row(trial: str, state: str, epochs: int, *, repeats: str = "") -> TrialRow:
    """A trial of two seconds an epoch."""
    scores, rest = (30.0, 0.9, 1000.0), (None, "", "", repeats, {})
    return TrialRow(trial, state, epochs, *scores, 2.0 * epochs, *rest)


def ahead(rows: list[TrialRow], budgets: dict[str, int] | None = None, **settings: Any) -> float:
    """Epochs that are expected to follow."""
    return seconds_ahead(rows, TrialSettings(trials=9, trial_epochs=EPOCHS, **settings), budgets or {}) / 2


def test_the_time_left_counts_the_trials_that_go_on() -> None:
    whole = 9 * 1 + 3 * 2 + 1 * 6
    assert ahead([row("a", "running", 1)]) == whole - 1
    waiting = [row(str(index), "waiting", 1) for index in range(9)]
    assert ahead(waiting) == whole - 9
    # All but the two that may go on have ended.
    ended = [row(str(index), "pruned", 1) for index in range(6)] + [row("b", "pruned", 3), row("c", "pruned", 3)]
    assert ahead([*ended, row("d", "running", 5)]) == 4
    assert ahead([*ended, row("d", "complete", 9)]) == 0
    # A failed trial leaves eight, of which two go on, and none to the end.
    assert ahead([row("a", "failed", 0), row("b", "running", 1)]) == 8 * 1 + 2 * 2 - 1


def test_the_time_left_counts_repeats_in_full() -> None:
    done = [row(str(index), "pruned", 1) for index in range(4)] + [row("a", "pruned", 3), row("b", "complete", 9)]
    # Six others, of which two go on, and none to the end but for "b", which did; then three repeats.
    assert ahead(done, repeats=3) == 3 * EPOCHS
    repeats = [row("c", "failed", 2, repeats="b"), row("d", "running", 4, repeats="a")]
    assert ahead([*done, *repeats], repeats=3) == (EPOCHS - 4) + EPOCHS


def test_the_time_left_of_trials_of_equal_computation() -> None:
    # A third as long in epochs, so that one of its epochs takes as long as three.
    assert ahead([row("a", "running", 1)], {"a": 3}, scheduler="none") == 9 * 3 - 1
    assert ahead([row("a", "complete", 3)], {"a": 3}) == (9 * 1 + 3 * 2 + 1 * 6 - 9) / 3
    # The first rung of 20 epochs is at 3, slightly more than a ninth: these wait there, and have not gone on.
    waiting = [row(str(index), "waiting", 3) for index in range(9)]
    assert ahead(waiting, {one.trial: 20 for one in waiting}) == pytest.approx((3 * 2 + 1 * 6) * 20 / 9)


def test_a_resumed_search_knows_the_lengths_of_its_trials(tmp_path: Path) -> None:
    width, pixel_epochs = "generator/base_width", "training/pixel_epochs"
    config = with_values(quick(PAPER_V1), {width: 32})
    space: Space = {width: IntDistribution(8, 32), pixel_epochs: CategoricalDistribution([0, None])}
    search = Search(name="s", config=config, space=space, trials=9, trial_epochs=EPOCHS, equal_compute=True)
    small = {width: 8, pixel_epochs: None}
    budget = epochs_of_equal_computation(with_values(config, small), config, EPOCHS)
    assert budget > EPOCHS
    trials = Trials(Folder(tmp_path), "s", search.objectives)
    trials.enqueue([small, {width: 32, pixel_epochs: 0}])
    searcher = OptunaSearcher(trials, search, Ledger(trials.folder))
    _, second = searcher.suggest("t1"), searcher.suggest("t2")
    scores = dict.fromkeys(("discriminator_accuracy_clean", "discriminator_accuracy_denoised"), 0.5)
    scores |= {"val_psnr": 30.0, "val_ssim": 0.9, "best_val_psnr": 30.0, "best_val_ssim": 0.9}
    scores |= {"operations_per_pixel": 1.0, "seconds": 2.0}
    for epoch in range(1, budget + 1):
        Ledger(trials.folder).add_epoch("trial-0001", scores | {"epoch": epoch})
    searcher.on_trial_complete("t1", scores | {"epoch": budget, "epochs": budget})
    # As at another start of the study: only the second trial runs on.
    with LiveTable(Console(file=io.StringIO(), width=100)) as table:
        progress = SearchProgress(trials, search, table)
        result = {"epoch": 1, "epochs": EPOCHS, "metrics": json.dumps(scores | {"epoch": 1})}
        progress.on_trial_result(trial=SimpleNamespace(config=second), result=result)
        shown = table.live.get_renderable()
    assert isinstance(shown, Table)
    assert next(iter(shown.columns[2].cells)) == f"{budget}/{budget}"
    # 10 full-width epochs of 9 * 1 + 3 * 2 + 1 * 6 are done, the first 9 of them in `budget` narrow ones.
    seconds_per_epoch = (2 * budget + 2) / 10
    assert progress.ahead == pytest.approx((9 * 1 + 3 * 2 + 1 * 6 - 10) * seconds_per_epoch)


def test_the_time_left_without_rungs_is_that_of_those_that_ended() -> None:
    assert ahead([row("a", "pruned", 4), row("b", "complete", 9), row("c", "running", 2)], scheduler="none") == (
        6 * 6.5 + 4.5
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_terminal_shows_a_live_table(tmp_path: Path, write_photos: Callable[..., Path]) -> None:
    photos = write_photos(10)
    place = ["--photos", photos, "--evaluate-on", photos, "--storage", tmp_path, "--name", "study"]
    command = search_command(*TINY_OPTIONS, *place, "--trials", "2", "--trial-epochs", "2")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert process.returncode == 0, text
    assert re.search(r"trial +state +epoch +val PSNR \(dB\) +val SSIM +seconds", text)
    table = text[text.rindex("val PSNR (dB)") :]
    for name in ("trial-0001", "trial-0002"):
        assert re.search(rf"^{name} +\w+ +[12]/2 +\d+\.\d\d +0\.\d+ +\d+", table, re.MULTILINE), text
    assert re.search(r"^[12] of 2 trials started, best \d+\.\d\d dB", table, re.MULTILINE), text
    assert not re.search(r"^trial-0001 (starts|epoch)", text, re.MULTILINE)


def _read(terminal: int) -> bytes:
    """What the terminal shows next; nothing after the process has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
