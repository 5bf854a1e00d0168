from pathlib import Path

import pandas as pd
import torch
from raygan.train.step_log import StepLog

from raygan.study.storage import Folder


def test_steps_count_on_over_epochs(tmp_path: Path) -> None:
    log = StepLog(Folder(tmp_path), "run", epochs_done=0)
    log.add_epoch(1, ["loss", "accuracy"], torch.tensor([[0.5, 1.0], [0.25, 0.0]], dtype=torch.float64))
    log.add_epoch(2, ["loss", "accuracy"], torch.tensor([[1e-9, 0.5]], dtype=torch.float64))
    table = pd.read_csv(tmp_path / "steps" / "run.csv")
    assert table.to_dict("list") == {
        "epoch": [1, 1, 2],
        "step": [1, 2, 3],
        "loss": [0.5, 0.25, 1e-9],
        "accuracy": [1.0, 0.0, 0.5],
    }


def test_going_on_drops_the_epochs_that_do_not_count(tmp_path: Path) -> None:
    log = StepLog(Folder(tmp_path), "run", epochs_done=0)
    for epoch in (1, 2, 3):
        log.add_epoch(epoch, ["loss"], torch.full((2, 1), float(epoch)))
    resumed = StepLog(Folder(tmp_path), "run", epochs_done=1)
    resumed.add_epoch(2, ["loss"], torch.full((2, 1), 20.0))
    table = pd.read_csv(tmp_path / "steps" / "run.csv")
    assert table["epoch"].to_list() == [1, 1, 2, 2]
    assert table["step"].to_list() == [1, 2, 3, 4]
    assert table["loss"].to_list() == [1.0, 1.0, 20.0, 20.0]
    # Started over, the file begins anew.
    StepLog(Folder(tmp_path), "run", epochs_done=0).add_epoch(1, ["loss"], torch.zeros(1, 1))
    assert len(pd.read_csv(tmp_path / "steps" / "run.csv")) == 1
