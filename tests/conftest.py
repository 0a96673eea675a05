import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and NumPy are imported; tests may share their cores with others
os.environ["MPLBACKEND"] = "Agg"
os.environ["METAFLOW_USER"] = "test"  # read while metaflow is imported

import torch._dynamo  # noqa: F401  (before Metaflow's Runner, whose bundled typing_extensions changes `typing` under it)

from support.isolation import make_environment_variables
from vdt.system.log import configure_logging


@pytest.fixture(autouse=True)
def keep_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a test writes lands in its temporary folder, which is also the current one."""
    for name, value in make_environment_variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)
    configure_logging()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder that `vdt.system.home.home()` gives during the test."""
    return tmp_path / "home"
