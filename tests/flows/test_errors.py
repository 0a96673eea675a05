"""Wrong input through the real command line: one clear error, an exit code, and nothing done."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from flows.command_line import REPORT_FLOW
from support.data import NOWHERE
from support.flow import ENV, make_variables, run_flow


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "walker2d-medum-v2"], "unknown env 'walker2d-medum-v2'; did you mean 'walker2d-medium-v2'"),
        (["--env", f"{ENV},nowhere-v0"], "unknown env 'nowhere-v0'"),
        (["--env", ENV, "--method", "vtd"], "unknown method 'vtd'; did you mean 'vdt'"),
        (["--env", ENV, "--preset", "big"], "unknown preset 'big'"),
        (
            ["--env", ENV, "--set", "critic.expectil=0.8"],
            "unknown key 'critic.expectil'; did you mean 'critic.expectile'",
        ),
        (["--env", ENV, "--set", "critic.expectile=high"], "critic.expectile must be a number, not 'high'"),
        (["--env", ENV, "--set", "critic.expectile=1.5"], "critic.expectile must be between 0.0 and 1.0"),
        (["--env", ENV, "--seeds", "0,one"], "--seeds takes whole numbers"),
        (["--env", ENV, "--seeds", "1,1"], "--seeds names something twice"),
        (["--env", ENV, "--source", "minarii"], "--source must be"),
        (["--env", ENV, "--source", "path:/nowhere/data.hdf5"], "there is no file or folder /nowhere/data.hdf5"),
        ([], "--env needs at least one name"),
        (
            ["--env", "pen-human-v1", "--set", f"task.d4rl_url={NOWHERE}"],
            "pen-human-v1: no data: no D4RL file at {folder}/user/d4rl/file.hdf5, and http://127.0.0.1:9/folder/file.hdf5 "
            "cannot be reached ([Errno 111] Connection refused). Download it where there is a network and put it into "
            "{folder}/user/d4rl (or",
        ),
        (["--env", "pen-human-v1", "--source", "collected"], "Put D4RL's file at {folder}/user/d4rl/pen-human-v1.hdf5"),
    ],
)
def test_wrong_configuration(tmp_path: Path, words: list[str], message: str) -> None:
    code, output = run_flow(tmp_path, "run", *words)
    assert code == 2
    (line,) = output.strip().splitlines()
    assert line.startswith("error: ")
    assert message.format(folder=tmp_path) in line
    assert not (tmp_path / "home").exists(), "nothing is written before the configuration is right"


def test_a_report_of_no_study(tmp_path: Path) -> None:
    command = [sys.executable, str(REPORT_FLOW), "run", "--seeds", "0"]
    done = subprocess.run(command, cwd=tmp_path, env=make_variables(tmp_path), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --study needs the name or the path of a study file\n"


@pytest.mark.parametrize("blocked", [".", "data", ".vdt"])
def test_folders_that_cannot_be_written(tmp_path: Path, blocked: str) -> None:
    place = tmp_path / "home" / blocked
    place.parent.mkdir(exist_ok=True)
    place.write_text("a file stands where the folder should be")
    code, output = run_flow(tmp_path, "run", "--env", ENV)
    assert code == 2
    (line,) = output.strip().splitlines()
    assert line.startswith(f"error: cannot write to {place.resolve()}") and "VDT_HOME" in line


def test_data_that_cannot_be_used(tmp_path: Path) -> None:
    """Found out inside a step: still one line without a traceback, and how to go on."""
    file = tmp_path / "data.hdf5"
    with h5py.File(file, "w") as target:
        target["observations"] = np.zeros((10, 17), np.float32)
        target["actions"] = np.zeros((10, 5), np.float32)  # the task has 6
        target["rewards"] = np.zeros(10, np.float32)
        target["terminals"] = np.zeros(10, bool)
    code, output = run_flow(tmp_path, "run", "--env", ENV, "--preset", "smoke", "--source", f"path:{file}")
    assert code == 1
    errors = [line for line in output.splitlines() if "error: " in line]
    assert len(errors) == 1 and "actions" in errors[0] and str(file) in errors[0]
    assert "Traceback" not in output
    assert "resume --origin-run-id" in output
    assert not list((tmp_path / "home" / "data").rglob("*.hdf5"))
