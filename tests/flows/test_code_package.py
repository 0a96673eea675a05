"""An engine that ships the code: the package is unpacked into a folder named `metaflow`, and steps are started there."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support.flow import ENV, FLOW, make_variables
from vdt.system.home import ROOT


def run(folder: Path, variables: dict[str, str], *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The code package of the flow, unpacked as Kubernetes, Argo, Batch and Slurm do."""
    run(tmp_path, make_variables(tmp_path), str(FLOW), "--no-pylint", "package", "save", str(tmp_path / "code.tar"))
    folder = tmp_path / "job" / "metaflow"
    folder.mkdir(parents=True)
    with tarfile.open(tmp_path / "code.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_steps_start_from_a_shipped_package(package: Path, tmp_path: Path) -> None:
    variables = {**make_variables(tmp_path), "PYTHONPATH": str(package / ".mf_code")}
    assert "Usage: vdt_flow.py" in run(package, variables, "vdt_flow.py", "--help")
    loaded = run(package, variables, "-c", "import vdt_flow, flows, vdt; print(flows.__path__[0], vdt.__path__[0])")
    assert str(ROOT) not in loaded and loaded.split() == [str(package / "flows"), str(package / "vdt")]
    base = [str(package / "vdt_flow.py"), "--quiet", "--no-pylint", "--metadata=local", "--datastore=local"]
    settings = ["--env", ENV, "--preset", "smoke", "--source", "collected"]
    run(package, variables, *base, "init", "--run-id", "7", "--task-id", "1", *settings)
    start = ["step", "start", "--run-id", "7", "--task-id", "2", "--input-paths", "7/_parameters/1"]
    assert "MLflow run" in run(package, variables, *base, *start)
    fetch = ["step", "fetch_dataset", "--run-id", "7", "--task-id", "3", "--input-paths", "7/start/2"]
    output = run(package, variables, *base, *fetch, "--split-index", "0")
    assert f"DATA  {ENV}  from source COLLECTED" in output
    assert list((tmp_path / "home" / "data").rglob("*.hdf5")), "the step left its snapshot"
