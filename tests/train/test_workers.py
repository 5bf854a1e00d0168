"""Several workers train as one would: the number of workers changes neither crops nor noise nor the arithmetic."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from raygan.config.run import Config
from raygan.config.section import with_values

STEADY = {
    # Without normalization, weights must be large enough for signals to reach the last layer.
    "generator/initial_deviation": 0.1,
    "discriminator/initial_deviation": 0.1,
    "optimizers/generator/learning_rate": 1e-4,
    "optimizers/discriminator/learning_rate": 1e-4,
    "training/epochs": 2,
}


def trained(config: Config, workers: int, output: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """The last epoch's metrics and states after training under torchrun, where any warning is an error."""
    output.mkdir()
    config = with_values(config, {"hardware/workers": workers})
    (output / "config.json").write_text(json.dumps(config.to_json()))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"),
        *(str(ROOT / "tests" / "train" / "torchrun_worker.py"), str(output)),
    ]
    environment = {**os.environ, "PYTHONWARNINGS": "error::UserWarning", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    states = torch.load(output / "checkpoints" / "run" / "epoch-0002" / "training.pt", weights_only=True)
    epochs = [json.loads((output / f"epochs-{rank}.json").read_text()) for rank in range(workers)]
    for other in epochs[1:]:
        durations = ("seconds", "train_seconds", "val_seconds")
        assert [{**one, **dict.fromkeys(durations)} for one in other] == [
            {**one, **dict.fromkeys(durations)} for one in epochs[0]
        ]
    return epochs[0][-1], states


LOSSES = ("content_loss", "adversarial_loss", "generator_loss", "discriminator_loss", "discriminator_accuracy_clean")


def test_without_batch_norm_two_workers_give_the_losses_and_weights_of_one(tiny_config: Config, tmp_path: Path) -> None:
    values = {f"{network}/normalization": "none" for network in ("generator", "discriminator")}
    config = with_values(tiny_config, STEADY | values)
    one, one_states = trained(config, 1, tmp_path / "one")
    two, two_states = trained(config, 2, tmp_path / "two")
    for name in (*LOSSES, "val_psnr", "val_ssim"):
        assert two[name] == pytest.approx(one[name], rel=1e-5)
    for network in ("generator", "discriminator"):
        assert one_states[network].keys() == two_states[network].keys()
        for name, tensor in one_states[network].items():
            torch.testing.assert_close(two_states[network][name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_batch_norm_over_all_workers_gives_the_losses_of_one(tiny_config: Config, tmp_path: Path) -> None:
    config = with_values(tiny_config, STEADY)
    one, _ = trained(config, 1, tmp_path / "one")
    together, _ = trained(with_values(config, {"training/batch_statistics": "all"}), 2, tmp_path / "together")
    apart, _ = trained(config, 2, tmp_path / "apart")
    for name in ("content_loss", "generator_loss", "discriminator_loss"):
        assert together[name] == pytest.approx(one[name], rel=1e-4)
    # The moving statistics too, and the precise ones.
    assert together["val_psnr"] == pytest.approx(one["val_psnr"], abs=1e-3)
    precise = with_values(config, {"training/precise_bn_batches": 2})
    one_precise, _ = trained(precise, 1, tmp_path / "one-precise")
    precise = with_values(precise, {"training/batch_statistics": "all"})
    together_precise, _ = trained(precise, 2, tmp_path / "together-precise")
    assert together_precise["val_psnr"] == pytest.approx(one_precise["val_psnr"], abs=1e-3)
    assert abs(one_precise["val_psnr"] - one["val_psnr"]) > 0.1
    # With each worker's own, the outcome is another.
    assert abs(apart["content_loss"] - one["content_loss"]) > 10 * abs(together["content_loss"] - one["content_loss"])
