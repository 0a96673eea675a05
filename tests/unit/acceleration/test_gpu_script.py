"""`benchmarks/gpu.sh` waits for a GPU; a CPU shows that it works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
