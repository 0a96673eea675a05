"""Wrong input through the command line of `run`: one clear error, an exit code, and nothing done."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from flows.command_line import REPORT_FLOW, check_command_line, check_resume, runs_elsewhere
from support.builders import make_lively_actor_critic
from support.data import NOWHERE
from support.flow import ENV, FLOW
from vdt.agent.policy_files import write_origins
from vdt.config.errors import ConfigError
from vdt.experiments.cells import resolve_cells
from vdt.experiments.preflight import check_cells

MEDIUM = ["--env", ENV, "--source", "collected"]


def refuse(capsys: pytest.CaptureFixture[str], *words: str, flow: Path = FLOW) -> str:
    """What `run` says of words that it does not take."""
    with pytest.raises(SystemExit) as caught:
        check_command_line([str(flow), "run", *words])
    said = capsys.readouterr()
    assert (caught.value.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("given", ["0", "-1", "many", ""])
def test_workers_are_at_least_one(capsys: pytest.CaptureFixture[str], given: str) -> None:
    """Metaflow would wait for ever for a task that it has no worker for."""
    said = refuse(capsys, *MEDIUM, f"--max-workers={given}")
    assert f"--max-workers must be a whole number of at least 1, not {given!r}" in said


def test_a_run_that_was_continued_is_not_resumed_again(home: Path) -> None:
    runs = home / ".vdt" / "checkpoints" / "VDTFlow"
    (runs / "17").mkdir(parents=True)
    check_resume(["resume", "--origin-run-id", "17"])
    write_origins(runs / "18", ["17"])
    with pytest.raises(ConfigError, match="run 18 has continued it, so resume that one"):
        check_resume(["resume", "--origin-run-id", "17"])
    check_resume(["resume", "train_actor", "--origin-run-id=17"])
    check_resume(["resume", "--origin-run-id", "18"])
    check_resume(["resume"])
    with pytest.raises(ConfigError, match="--origin-run-id is empty"):
        check_resume(["resume", "--origin-run-id", ""])


def test_the_id_of_the_run_to_resume_stands_behind_the_word(home: Path) -> None:
    with pytest.raises(ConfigError, match="--origin-run-id stands before the word resume, but belongs after it"):
        check_resume(["--origin-run-id", "17", "resume"])
    check_resume(["--quiet", "resume", "--origin-run-id", "17"])


@pytest.mark.parametrize("words", [["--run-id-file", "id.txt"], ["--run-id-file=id.txt"]])
def test_a_search_has_no_run_id(
    words: list[str], home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("the search begins"))
    line = refuse(capsys, "--study", "search-hopper-random", *words)
    assert (
        line.startswith("error: --run-id-file: ")
        and "search-hopper-random.yaml is a search, which is no single" in line
    )
    assert line.endswith("leave it out") and not home.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", f"{ENV},nowhere-v0"], "unknown env 'nowhere-v0'"),
        ([*MEDIUM, "--register", "a/b"], "--register: 'a/b' is no name for a registered model"),
        (["--env", f"{ENV},hopper-medium-v2", "--register", "a"], "takes policies of one env, whose scores can be"),
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
        (["--env", "data:a,b"], "--env data:a,b: accepted is a name without a comma"),
        (["--env", ENV, "--source", "minarii"], "--source must be"),
        (["--env", ENV, "--source", "path:/nowhere/data.hdf5"], "there is no file or folder /nowhere/data.hdf5"),
        ([], "--env needs at least one name"),
        (["--env", "pen-human-v1", "--source", "collected"], "Put D4RL's file at {folder}/user/d4rl/pen-human-v1.hdf5"),
        (
            ["--env", ENV, "--source", "d4rl", "--set", f"task.d4rl_url={NOWHERE}"],
            "--source d4rl: no file at {folder}/user/d4rl/file.hdf5, and http://127.0.0.1:9/folder/file.hdf5 cannot be",
        ),
        pytest.param(
            [*MEDIUM, "--set", "runtime.device=cuda"],
            "runtime.device is cuda, but torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
        ([*MEDIUM, "--init-from", "absent.pt"], "--init-from: no policy at 'absent.pt': there is no such file"),
        ([*MEDIUM, "--init-from", "notes.txt"], "notes.txt is not a readable checkpoint"),
        (
            [*MEDIUM, "--init-from", "policy.pt"],
            "--init-from {folder}/policy.pt: it has 2 observations and 1 actions, but walker2d-medium-v2 has 17 and 6",
        ),
        ([*MEDIUM, "--set", "actor.gradient_steps=0"], "accepted is at least 1, or --init-from POLICY"),
        (["--env", ENV, "--source", "path:notes.txt"], "notes.txt: not a whole HDF5 file"),
        (["--env", ENV, "--source", "path:folder"], "folder/a.npz: not a whole npz file"),
        (["--env", "data:folder"], "folder/a.npz: not a whole npz file"),
        (
            ["--env", ENV, "--source", "path:small.hdf5"],
            f"small.hdf5 has 17 observations and 5 actions; {ENV} has 17 and 6. A data set of your own is given as --env "
            "data:small.hdf5",
        ),
        ([*MEDIUM, "--set", "task.environment_id=Custom-v0"], "its environment Custom-v0 cannot be made here"),
        ([*MEDIUM, "--set", "task.environment_id=Walker2d-v2"], "Walker2d-v2 cannot be made here ("),
        ([*MEDIUM, "--set", "task.environment_id=absent_package:Foo-v0"], "No module named 'absent_package'"),
        (
            [*MEDIUM, "--set", "task.environment_id=InvertedPendulum-v5"],
            "InvertedPendulum-v5 has 4 and 1 observations and actions; the data has 17 and 6. Name the environment of",
        ),
    ],
)
def test_wrong_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    Path("notes.txt").write_text("no data")
    Path("folder").mkdir()
    Path("a,b").mkdir()
    torch.save({"actor_critic": make_lively_actor_critic().state_dict()}, "policy.pt")
    Path("folder", "a.npz").write_text("no episode")
    with h5py.File("small.hdf5", "w") as target:
        target["observations"] = np.zeros((10, 17), np.float32)
        target["actions"] = np.zeros((10, 5), np.float32)
        target["rewards"] = np.zeros(10, np.float32)
        target["terminals"] = np.zeros(10, bool)
    assert message.format(folder=tmp_path) in refuse(capsys, *words)
    assert not (tmp_path / "home").exists(), "nothing is written before the configuration is right"


def test_an_environment_that_cannot_be_made_is_answered_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    line = refuse(capsys, *MEDIUM, "--set", "task.environment_id=Custom-v0 planner.env_model=simulator")
    assert "train without an environment, on held-out episodes: --set task.environment_id=null" in line
    cells, _ = resolve_cells({"env": ENV, "source": "collected", "set": "task.environment_id=null"})
    (config,) = (cell.config for cell in cells)
    assert (config.has_environment, config.online.environment_steps, config.data.held_out_fraction) == (False, 0, 0.1)
    assert config.evaluation.fitted_q_steps == 10_000, "the value is estimated instead"
    small = {"env": ENV, "source": "collected", "preset": "smoke"}
    for changes, steps in (("", 60), (" evaluation.fitted_q_steps=0", 0), (" evaluation.fitted_q_steps=7", 7)):
        ((cell,), _) = resolve_cells({**small, "set": f"task.environment_id=null{changes}"})
        assert cell.config.evaluation.fitted_q_steps == steps, "as long as the training, or as asked for"
    check_cells(cells)


@pytest.mark.parametrize(
    ("words", "elsewhere"),
    [
        ("--with kubernetes", True),
        ("--with=kubernetes", True),
        ("--with=kubernetes:image=a,cpu=4", True),
        ("--with retry --with batch:queue=a", True),
        ("--with=slurm", True),
        ("--with retry", False),
        ("--with=batches", False),
        ("--tag batch-1", False),
        ("--tag=slurm-test", False),
        ("--with retry --tag kubernetes", False),
    ],
)
def test_engines_are_those_of_with(words: str, elsewhere: bool) -> None:
    assert runs_elsewhere(["vdt_flow.py", "run", *words.split()]) is elsewhere


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("tag", ["batch-1", "slurm-test"])
def test_a_tag_does_not_switch_the_check_of_the_device_off(capsys: pytest.CaptureFixture[str], tag: str) -> None:
    line = refuse(capsys, *MEDIUM, "--set", "runtime.device=cuda", "--tag", tag)
    assert "runtime.device is cuda, but torch finds no GPU here" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("words", [["--with=kubernetes"], ["--with", "kubernetes:cpu=4"]])
def test_a_machine_without_a_gpu_submits_to_those_that_have_one(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VDT_CHECKED", "VDT_COMMAND", "VDT_MEMORY_KILLS"):  # set by the check
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("flows.command_line.interrupt_on_signals", lambda: None)
    check_command_line([str(FLOW), "run", *MEDIUM, "--set", "runtime.device=cuda", *words])


def test_a_report_of_no_study(capsys: pytest.CaptureFixture[str]) -> None:
    line = refuse(capsys, "--seeds", "0", flow=REPORT_FLOW)
    assert line == "error: --study needs the name or the path of a study file"


@pytest.mark.parametrize("blocked", [".", "data", ".vdt"])
def test_folders_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], blocked: str) -> None:
    place = tmp_path / "home" / blocked
    place.parent.mkdir(exist_ok=True)
    place.write_text("a file stands where the folder should be")
    line = refuse(capsys, *MEDIUM)
    assert line.startswith(f"error: cannot write to {place.resolve()}") and "VDT_HOME" in line


def test_a_store_whose_place_depends_on_the_start_is_refused_before_any_work(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    line = refuse(capsys, *MEDIUM)
    assert "MLFLOW_TRACKING_URI=sqlite:///mlflow.db depends on the folder that a program starts in" in line
    assert not home.exists()


def test_a_home_folder_that_no_address_can_hold_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VDT_HOME", str(tmp_path / "what?"))
    assert "what? has ? in its path" in refuse(capsys, *MEDIUM)
    assert not (tmp_path / "what?").exists()
