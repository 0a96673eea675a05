import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and NumPy are imported; tests may share their cores with others
os.environ["MPLBACKEND"] = "Agg"

from vdt import runtime  # noqa: E402


def make_environment_variables(folder: Path) -> dict[str, str]:
    """Variables that keep a process, and those that it starts, inside a folder and off the network."""
    return {
        **runtime.QUIET,
        "HOME": str(folder / "user"),
        "XDG_CACHE_HOME": str(folder / "user" / ".cache"),
        "XDG_CONFIG_HOME": str(folder / "user" / ".config"),
        "D4RL_DATASET_DIR": str(folder / "user" / "d4rl"),
        "MINARI_DATASETS_PATH": str(folder / "user" / "minari"),
        "HF_HUB_OFFLINE": "1",
        "VDT_HOME": str(folder / "home"),
        "METAFLOW_USER": "test",
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder / "home"),
    }


@pytest.fixture(autouse=True)
def keep_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a test writes lands in its temporary folder, which is also the current one."""
    for name, value in make_environment_variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder that `vdt.runtime.home()` gives during the test."""
    return tmp_path / "home"
