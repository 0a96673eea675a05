"""Wrong input through the real command line; what is refused in process: `tests/unit/flows/test_refusals.py`."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from support.data import NOWHERE
from support.flow import ENV, make_variables, run_flow
from vdt.system.home import ROOT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "walker2d-medum-v2"], "unknown env 'walker2d-medum-v2'; did you mean 'walker2d-medium-v2'"),
        (
            ["--env", "pen-human-v1", "--set", f"task.d4rl_url={NOWHERE}"],
            "pen-human-v1: no data: no D4RL file at {folder}/user/d4rl/file.hdf5, and http://127.0.0.1:9/folder/file.hdf5 "
            "cannot be reached ([Errno 111] Connection refused). Download it where there is a network and put it into "
            "{folder}/user/d4rl (or",
        ),
    ],
)
def test_wrong_configuration(tmp_path: Path, words: list[str], message: str) -> None:
    code, output = run_flow(tmp_path, "run", *words)
    assert code == 2
    (line,) = output.strip().splitlines()
    assert line.startswith("error: ")
    assert message.format(folder=tmp_path) in line
    assert not (tmp_path / "home").exists(), "nothing is written before the configuration is right"


def test_data_that_cannot_be_used(tmp_path: Path) -> None:
    """Found out inside a step: still one line without a traceback, and how to go on."""
    file = tmp_path / "data.hdf5"
    with h5py.File(file, "w") as target:
        target["observations"] = np.zeros((10, 17), np.float32)
        target["actions"] = np.zeros((10, 6), np.float32)
        target["rewards"] = np.zeros(10, np.float32)
        target["terminals"] = np.zeros(10, bool)
    held = ("--set", "data.held_out_fraction=0.5")
    code, output = run_flow(tmp_path, "run", "--env", ENV, "--preset", "smoke", "--source", f"path:{file}", *held)
    assert code == 1
    errors = [line for line in output.splitlines() if "error: " in line]
    assert len(errors) == 1 and "the data has one episode" in errors[0]
    assert "Traceback" not in output
    (command,) = [line.strip() for line in output.splitlines() if "resume --origin-run-id" in line]
    listed = subprocess.run(
        [sys.executable, "-m", "vdt.cli", "runs"],
        cwd=tmp_path,
        env={**make_variables(tmp_path), "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=True,
    ).stdout.splitlines()
    assert listed[0].startswith("failed") and [line.strip() for line in listed[1:]] == [command]
    assert not list((tmp_path / "home" / "data").rglob("*.hdf5"))
