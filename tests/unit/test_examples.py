"""The examples for people with a robot or logs of their own: each runs as its first line says."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from support.builders import make_lively_actor_critic
from vdt.config.errors import ConfigError
from vdt.data.episode_writer import EpisodeWriter
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.npz import read_folder
from vdt.experiments.resolve import resolve_config

ROOT = Path(__file__).resolve().parents[2]
HEADER = "episode,observation_0,observation_1,action_0,reward,terminated"


def start_example(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, words)]
    return subprocess.run(command, check=False, env=variables, timeout=120, capture_output=True, text=True)


def run_example(name: str, *words: object) -> str:
    ended = start_example(name, *words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def read(folder: Path) -> TrajectoryDataset:
    return read_folder(folder, resolve_config(f"data:{folder}").task, {}).dataset


def test_a_log_becomes_episodes_and_the_printed_command_names_them(tmp_path: Path) -> None:
    rows = [(e, 10 * e + t, -t, 0.1 * t, e, t == 2 and e == 1) for e in (0, 1) for t in range(3 + e)]
    rows = [row for row in rows if not (row[0] == 1 and row[1] == 13)]  # the second episode ends with its third step
    np.savetxt(tmp_path / "log.csv", rows, delimiter=",", header=HEADER, comments="")
    said = run_example("own_dataset.py", tmp_path / "log.csv", tmp_path / "mine")
    assert said.splitlines() == [
        "2 observations, 1 action, 2 episodes, 6 steps",
        f"{tmp_path / 'mine'} holds 2 episodes",
        f".venv/bin/python flows/vdt_flow.py run --env data:{tmp_path / 'mine'}",
    ]
    dataset = read(tmp_path / "mine")
    assert dataset.lengths.tolist() == [3, 3] and dataset.terminated.tolist() == [False, True]
    assert dataset.final_missing.tolist() == [True, False]
    assert dataset[1].observations[:3].tolist() == [[10.0, 0.0], [11.0, -1.0], [12.0, -2.0]]
    assert dataset[1].rewards.tolist() == [1.0, 1.0, 1.0]


def test_a_log_of_discrete_actions_is_warned_of_with_the_setting_that_takes_it(tmp_path: Path) -> None:
    rows = [(e, 0.5 * t, 1, t, 1, t == 3) for e in range(3) for t in range(4)]
    np.savetxt(tmp_path / "log.csv", rows, delimiter=",", header=HEADER, comments="")
    said = run_example("own_dataset.py", tmp_path / "log.csv", tmp_path / "mine")
    with pytest.raises(ConfigError, match="discrete"):
        resolve_config(f"data:{tmp_path / 'mine'}")
    settings = re.search(r'--set "(.*)"', said)
    assert settings is not None and "warning: all actions are whole numbers" in said
    config = resolve_config(f"data:{tmp_path / 'mine'}", overrides=settings[1])
    assert (config.task.action_low, config.task.action_high) == ((0.0,), (3.0,))


def test_a_robot_is_not_moved_where_no_policy_is(tmp_path: Path) -> None:
    ended = start_example("robot_loop.py", tmp_path / "none.pt", tmp_path / "logs")
    assert ended.returncode == 1 and ended.stderr.startswith("error: ") and "none.pt" in ended.stderr
    assert not (tmp_path / "logs").exists()


def test_the_same_log_is_not_added_twice_unless_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"{HEADER}\n0,0,1,0.2,3,0\n1,0,1,0.3,4,1\n")
    words = ("own_dataset.py", tmp_path / "log.csv", tmp_path / "mine")
    run_example(*words)
    again = start_example(*words)
    assert again.returncode == 1 and not again.stdout
    assert again.stderr == (
        f"error: {tmp_path / 'mine'} holds 2 episodes; accepted is a folder without any, "
        "or --append, which adds the log's to them\n"
    )
    assert read(tmp_path / "mine").lengths.tolist() == [1, 1]
    assert f"{tmp_path / 'mine'} holds 4 episodes" in run_example(*words, "--append").splitlines()
    assert read(tmp_path / "mine").episode_returns.tolist() == [3.0, 4.0, 3.0, 4.0]


@pytest.mark.parametrize("no, yes", [("False", "True"), ("false", "TRUE"), ("0", "1"), ("0.0", "1.0")])
def test_a_logs_end_is_read_as_the_log_has_it(tmp_path: Path, no: str, yes: str) -> None:
    rows = [f"7,0,1,0.2,3,{no}", f"7,0,1,0.3,3,{no}", f"9,0,1,0.2,3,{no}", "", f"9,0,1,0.3,3,{yes}"]
    (tmp_path / "log.csv").write_text("\n".join([HEADER, *rows]))
    said = run_example("own_dataset.py", tmp_path / "log.csv", tmp_path / "mine")
    assert said.startswith("2 observations, 1 action, 2 episodes, 4 steps\n")
    assert read(tmp_path / "mine").terminated.tolist() == [False, True]


WRONG_LOGS = {  # log -> what the one line says
    "": "line 1: missing: 'episode', 'observation_0', 'action_0', 'reward', 'terminated'; the columns are episode, obs",
    HEADER: "there are no rows below the line that names the columns",
    f"{HEADER}\n0,0,1,2,3,False\n0,0,1,2,3,no\n": "line 3, column terminated: 'no'; accepted are true, false, 1 and 0",
    f"{HEADER}\n0,0,1,2,3,\n": "line 2, column terminated: ''; accepted are true, false, 1 and 0",
    f"{HEADER}\n0,0,1,2,3,1\n0,0,1,2,3,0\n": "line 2, column terminated: true, but its episode goes on after it",
    f"{HEADER}\n0,0,nan,2,3,0\n": "line 2, column observation_1: 'nan'; accepted are finite numbers",
    f"{HEADER}\n0,0,1,,3,0\n": "line 2, column action_0: ''; accepted are finite numbers",
    f"{HEADER}\nx,0,1,2,3,0\n": "line 2, column episode: 'x'; accepted are numbers up to 2^53",
    f"{HEADER}\n1732000000000000001,0,1,2,3,0\n": "column episode: '1732000000000000001'; accepted are numbers up to 2^53",
    f"{HEADER}\n0,0,1,2,3,0\n1,0,1,2,3,0\n0,0,1,2,3,0\n": "line 4, column episode: 0 comes again after another; the rows",
    f"{HEADER}\n0,0,1,true,3,0\n": "line 2, column action_0: 'true'; accepted are finite numbers",
    f"{HEADER}\n0,0,1,2,1e39,0\n": "line 2, column reward: '1e39'; accepted are finite numbers",
    f"{HEADER}\n\n0,0,1,2,3\n": "line 3, 5 values for 6 columns",
    f"{HEADER},obs_2\n0,0,1,2,3,0,4\n": "turn (remove them, or name them so): 'obs_2'; the columns are episode, obs",
    "episode;reward\n0;1\n": "line 1: one column, 'episode;reward'; columns are separated by commas",
    f"{HEADER},observation_3\n0,0,1,2,3,0,4\n": "line 1: missing: 'observation_2'",
    f"{HEADER},reward\n0,0,1,2,3,0,4\n": "line 1: there twice: 'reward'",
    "episode,observation_0,action_0,reward\n0,0,1,2\n": "line 1: missing: 'terminated'",
    "episode,observation_0,reward,terminated\n0,0,1,0\n": "line 1: missing: 'action_0'",
}


@pytest.mark.parametrize("log", WRONG_LOGS)
def test_a_log_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, log: str) -> None:
    (tmp_path / "log.csv").write_text(log)
    ended = start_example("own_dataset.py", tmp_path / "log.csv", tmp_path / "mine")
    assert ended.returncode == 1 and not ended.stdout and not (tmp_path / "mine").exists()
    assert ended.stderr.startswith(f"error: {tmp_path / 'log.csv'}") and WRONG_LOGS[log] in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr


def test_a_log_that_is_not_there_or_not_named_is_said_in_one_line(tmp_path: Path) -> None:
    ended = start_example("own_dataset.py", tmp_path / "log.csv", tmp_path / "mine")
    assert ended.stderr == f"error: {tmp_path / 'log.csv'}: No such file or directory\n"
    assert start_example("own_dataset.py").stderr.startswith("usage: ")
    assert start_example("own_dataset.py", "log.csv", "mine", "--apend").stderr.startswith("usage: ")


def test_a_log_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    rows = [(0, 1, 2, 0.5, 1, 0), *((1, k, 2, 0.5, 1, 0) for k in range(2000))]
    np.savetxt(tmp_path / "log.csv", rows, delimiter=",", header=HEADER, comments="")
    words = [
        sys.executable,
        str(ROOT / "examples" / "own_dataset.py"),
        str(tmp_path / "log.csv"),
        str(tmp_path / "mine"),
    ]
    code = (
        "import resource, signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    )
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    full = subprocess.run(
        [sys.executable, "-c", code, *words[1:]],
        check=False,
        env=variables,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert full.returncode == 1 and full.stderr == f"error: {tmp_path / 'mine'}: File too large\n"
    assert "2 episodes" in run_example("own_dataset.py", tmp_path / "log.csv", tmp_path / "mine"), (
        "the same line does it"
    )


def test_a_folder_with_a_comma_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"{HEADER}\n0,0,1,0.2,3,0\n")
    ended = start_example("own_dataset.py", tmp_path / "log.csv", tmp_path / "a,b")
    assert ended.returncode == 1 and "accepted is a name without a comma" in ended.stderr
    assert not (tmp_path / "a,b").exists()


def test_a_robot_without_gymnasium_acts_and_keeps_what_happened(tmp_path: Path) -> None:
    actor_critic = make_lively_actor_critic({"task.action_low": [-0.5], "task.action_high": [0.5]})
    torch.save({"actor_critic": actor_critic.state_dict()}, tmp_path / "policy.pt")
    said = run_example("robot_loop.py", tmp_path / "policy.pt", tmp_path / "logs", 3)
    steps = [int(word) for word in re.findall(r"(\d+) steps", said)]
    dataset = read(tmp_path / "logs")
    assert dataset.lengths.tolist() == steps and len(steps) == 3
    assert all(end or count == 100 for end, count in zip(dataset.terminated, steps, strict=True)), (
        "a fall, or 100 steps"
    )
    assert max(steps) <= 100
    actions = np.load(tmp_path / "logs" / "episode-00000000.npz")["actions"]
    assert np.abs(actions).max() <= 0.5 and np.unique(actions).size > 1, "raw actions, in the robot's range"


def test_the_cart_is_no_robot_of_other_sizes(tmp_path: Path) -> None:
    actor_critic = make_lively_actor_critic({"task.observation_size": 3})
    torch.save({"actor_critic": actor_critic.state_dict()}, tmp_path / "policy.pt")
    ended = start_example("robot_loop.py", tmp_path / "policy.pt", tmp_path / "logs")
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 1 and "does not fit this cart's two observations" in line
    assert not (tmp_path / "logs").exists()
    assert start_example("robot_loop.py").stderr.startswith("usage: ")


def test_episodes_of_another_robot_are_seen_before_the_cart_moves(tmp_path: Path) -> None:
    torch.save({"actor_critic": make_lively_actor_critic().state_dict()}, tmp_path / "policy.pt")
    EpisodeWriter(tmp_path / "logs").write([[0.0, 0.0]] * 3, [[0.0, 0.0]] * 2, [0.0, 0.0], terminated=True)
    ended = start_example("robot_loop.py", tmp_path / "policy.pt", tmp_path / "logs")
    assert ended.returncode == 1 and not ended.stdout
    assert (
        ended.stderr
        == f"{tmp_path / 'logs'} holds episodes of another robot; accepted are 2 observations and 1 actions\n"
    )


def test_the_notebook_tells_runs_of_one_name_apart() -> None:
    """Runs are named without their preset, and the same command may be run twice."""
    kinds = [("laptop", "100"), ("fair", "200"), ("fair", "200")]
    runs = [
        SimpleNamespace(
            info=SimpleNamespace(run_id=f"{number}2345678{'a' * 24}", run_name="vdt-s0-walker2d-medium-v2-collected"),
            data=SimpleNamespace(params={"actor.gradient_steps": steps, "seed": "0"}, tags={"preset": preset}),
        )
        for number, (preset, steps) in enumerate(kinds)
    ]
    table = pd.DataFrame({"data": ["0123abcd"] * 3, "preset": [preset for preset, _ in kinds]})
    notebook = nbformat.read(ROOT / "examples" / "compare_runs.ipynb", as_version=4)
    (source,) = [cell.source for cell in notebook.cells if "differing" in cell.source]
    *statements, last = ast.parse(source).body
    assert isinstance(last, ast.Expr)
    names = {"pd": pd, "runs": runs, "table": table}
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    assert shown.to_dict("index") == {
        "actor.gradient_steps": {
            f"vdt-s0-walker2d-medium-v2-collected {preset} {number}2345678": steps
            for number, (preset, steps) in enumerate(kinds)
        }
    }


def run_cells(words: list[str], names: dict[str, Any]) -> list[Any]:
    """Run the notebook's cells that hold these words; return what each shows, none for one that ends with a statement."""
    notebook = nbformat.read(ROOT / "examples" / "compare_runs.ipynb", as_version=4)
    shown = []
    for word in words:
        (source,) = [cell.source for cell in notebook.cells if cell.cell_type == "code" and word in cell.source]
        *statements, last = ast.parse(source).body
        exec(compile(ast.Module(statements, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
            shown.append(None)
    return shown


def test_the_notebook_compares_runs_without_an_environment(capsys: pytest.CaptureFixture[str]) -> None:
    held_out = {"offline": SimpleNamespace(episodes=3, action_rmse=0.25, action_std=0.5)}
    evaluations = [
        SimpleNamespace(policies={}, held_out=held_out),
        SimpleNamespace(policies={"offline": {}}, held_out={}),
    ]
    names: dict[str, Any] = {
        "pd": pd,
        "plt": plt,
        "env": "data:mine",
        "branches": {str(n): SimpleNamespace(evaluation=evaluation) for n, evaluation in enumerate(evaluations)},
        "table": pd.DataFrame({"id": ["0", "1"], "method": ["vdt", "dt"], "seed": [0, 0], "score": [None, None]}),
    }
    shown, _ = run_cells(["returns = pd.DataFrame", "followed = returns"], names)
    assert capsys.readouterr().out.startswith("None of these runs has returns.")
    assert shown.to_dict("records") == [
        {"run": "vdt s0", "policy": "offline", "episodes": 3, "action error": 0.25, "of a constant": 0.5}
    ]
    assert names["axes"].get_xlabel() == "action error"
    plt.close("all")


def test_the_notebook_shows_returns_where_there_are_some() -> None:
    report, held_out = (
        SimpleNamespace(episode_returns=[1.0, 3.0]),
        SimpleNamespace(episodes=3, action_rmse=1, action_std=2),
    )
    evaluation = SimpleNamespace(policies={"offline": {"single": report}}, held_out={"offline": held_out})
    names: dict[str, Any] = {
        "pd": pd,
        "plt": plt,
        "env": "walker2d-medium-v2",
        "branches": {"0": SimpleNamespace(evaluation=evaluation)},
        "table": pd.DataFrame({"id": ["0"], "method": ["vdt"], "seed": [0], "score": [None]}),
    }
    shown, _ = run_cells(["returns = pd.DataFrame", "followed = returns"], names)
    (row,) = shown.to_dict("records")
    assert (row["run"], row["acting"], row["mean"], row["lowest"]) == ("vdt s0", "single", 2.0, 1.0)
    assert names["axes"].get_xlabel() == "return of the offline policy"
    plt.close("all")
