"""`benchmarks/gpu.sh` waits for a GPU; a CPU shows that it works."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu
from vdt.acceleration.convert import make_critic_update

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_the_gpu_script_works_on_a_cpu(tmp_path: Path) -> None:
    settings = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--device", "cpu", "--quick"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    written = (tmp_path / "gpu.md").read_text()
    assert written == done.stdout and "learns as on a CPU" in written
    assert written.count("| critic 2 x 256") == 2 and written.count("| actor ") == 4


@pytest.mark.slow
def test_the_gpu_script_says_that_there_is_no_gpu() -> None:
    settings = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = [str(ROOT / "benchmarks" / "gpu.sh")]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and done.stderr == "no GPU that PyTorch can use; try --device cpu --quick\n"


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["", "q", "value"])
def test_the_learning_check_notices_what_does_not_learn(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "STEPS", {"critic": 60, "actor": 10})
    cpu = torch.device("cpu")
    stored = gpu.learn(cpu, 10_000, 1.0)

    def make(critic: Any, rate: float, runtime: Any) -> SimpleNamespace:
        made, kept = make_critic_update(critic, rate, runtime), copy.deepcopy(critic.state_dict())

        def update(batch: Any) -> Any:
            losses = made.update(batch)
            begun = {name: values for name, values in kept.items() if frozen and name.startswith(f"{frozen}.")}
            critic.load_state_dict(begun, strict=False)
            return losses

        return SimpleNamespace(update=update)

    monkeypatch.setattr(gpu, "make_critic_update", make)
    table, fine = gpu.compare(gpu.learn(cpu, 10_000, 1.0), stored)
    assert fine == (not frozen), table


@pytest.mark.parametrize("name", ["critic/q_loss", "critic/value_loss", "actor/total_loss"])
def test_each_loss_falls_as_on_a_cpu(name: str) -> None:
    stored = json.loads(gpu.CHECK.read_text())
    first, last = stored[f"{name} first"], stored[f"{name} last"]
    for share, fine in ((1.0, True), (0.96, True), (1.04, True), (0.94, False), (1.06, False), (0.0, False)):
        found = {**stored, f"{name} last": first - share * (first - last)}
        assert gpu.compare(found, stored)[1] == fine, share
