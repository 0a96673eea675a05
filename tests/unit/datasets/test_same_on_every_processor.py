"""Collected files are the same, byte by byte, whatever the processor offers to BLAS, NumPy and the C library."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.data import ROOT
from vdt.datasets.checksums import compare_checksum, read_checksums

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's and OpenBLAS's switches")

# A policy of each form (PPO: tanh, SAC: ReLU), and the controller of the mazes.
ENVS = ("walker2d-medium-v2", "hopper-medium-v2", "halfcheetah-medium-v2", "maze2d-umaze-v1")
STEPS = 900
PROGRAM = f"""
import sys
from pathlib import Path
from vdt.datasets.snapshot import make_snapshot
from vdt.experiments.resolve import resolve_config
for env in sys.argv[2:]:
    config = resolve_config(env, source="collected", overrides="data.steps={STEPS}")
    print("md5", env, make_snapshot(config, Path(sys.argv[1])).md5)
"""
OLDEST = {  # as on a processor of 2011
    "OPENBLAS_CORETYPE": "Prescott",
    "NPY_DISABLE_CPU_FEATURES": "all",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F,-AVX512VL",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
OLDER = {  # as on one of 2015
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "those of 512 bits",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL",
    "OPENBLAS_NUM_THREADS": "2",
    "OMP_NUM_THREADS": "2",
}
MACHINES: dict[str, dict[str, str]] = {"this": {}, "older": OLDER, "oldest": OLDEST}


def name_features(settings: dict[str, str]) -> dict[str, str]:
    """Put NumPy's own names; it refuses to disable what it has no code for or what this processor lacks."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    names = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
    if settings.get("NPY_DISABLE_CPU_FEATURES") != "all":
        names = [name for name in names if name.startswith(("AVX512", "X86_V4"))]
    return {**settings, "NPY_DISABLE_CPU_FEATURES": " ".join(names)} if settings else {}


def start(settings: dict[str, str], home: Path) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name not in OLDEST}
    command = [sys.executable, "-c", PROGRAM, str(home), *ENVS]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment, **name_features(settings), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_processor_collects_the_same_bytes(tmp_path: Path) -> None:
    found = {}
    for name, settings in MACHINES.items():
        process = start(settings, tmp_path / name)
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "NPY_DISABLE" not in errors, errors  # NumPy would only warn
        found[name] = dict(line.split()[1:] for line in out.splitlines() if line.startswith("md5"))
    assert set(found["this"]) == set(ENVS)
    records = [entry for entry in read_checksums().values() if entry["recipe_steps"] == STEPS]
    recorded = {
        entry["env"]: entry["md5"]
        for entry in records
        if all(importlib.metadata.version(name) == version for name, version in entry["versions"].items())
    }
    assert {entry["env"] for entry in records} == set(ENVS)
    assert recorded.items() <= found["this"].items()  # else see benchmarks/collected_data.py
    assert found["older"] == found["this"]
    assert found["oldest"] == found["this"]


def test_another_md5_than_the_recorded_one_is_said() -> None:
    key, entry = next(iter(read_checksums().items()))
    assert compare_checksum(key, entry["md5"], entry["versions"]) is None
    assert compare_checksum("collected-1-s0-00000000", "0" * 32, {}) is None
    same = compare_checksum(key, "0" * 32, entry["versions"])
    assert same is not None and f"this recipe gave {entry['md5']}" in same and "computes otherwise" in same
    other = compare_checksum(key, "0" * 32, {**entry["versions"], "mujoco": "2.0"})
    assert other is not None and "here gymnasium" in other and "mujoco 2.0" in other
