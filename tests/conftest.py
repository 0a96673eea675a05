import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and NumPy are imported; tests may share their cores with others
os.environ["MPLBACKEND"] = "Agg"
os.environ["METAFLOW_USER"] = "test"  # read while metaflow is imported

import hypothesis
import torch._dynamo  # noqa: F401  (before Metaflow's Runner, whose bundled typing_extensions changes `typing` under it)

from support.isolation import make_environment_variables
from vdt.system.log import configure_logging
from vdt.system.machine import steady_sums

steady_sums()  # before torch's first product, as flows do

# The same examples in every run, kept nowhere; seconds of one example say more about other work than about the code.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")

TIERS = ("faults", "slow", "slurm", "flow", "learning")  # a test with none of these marks is of tier "unit"
FOLDERS = {
    "flows": "flow",
    "learning": "learning",
    "faults": "slow",
    "slurm": "slurm",
}  # of tests/ -> tier of what has no mark of its own
LONG_LIMIT = 1800  # seconds of one test beyond the unit tier


def pytest_configure(config: pytest.Config) -> None:
    """Without -m, plain `pytest` runs the unit tier; a file or folder that is named runs whole, but for the campaign."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    config.option.markexpr = config.option.markexpr or ("not faults" if named else "unit")


@pytest.hookimpl(tryfirst=True)  # before the tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier."""
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker(FOLDERS.get(folder, "unit"))
        if item.get_closest_marker("faults"):
            item.add_marker(pytest.mark.timeout(0))  # each process that these start has a limit of its own
        elif not item.get_closest_marker("unit"):
            item.add_marker(pytest.mark.timeout(LONG_LIMIT))


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
