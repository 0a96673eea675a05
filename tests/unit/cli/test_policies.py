"""`vdt evaluate` shows and prints the episodes of a policy."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vdt
from support.builders import make_lively_actor_critic
from support.environments import SUCCESS
from vdt.agent.policy_files import PolicyFile, write_scores
from vdt.cli import run
from vdt.system.files import compute_file_digest
from vdt.system.home import ROOT


def save(path: Path, settings: dict[str, Any] | None = None) -> Path:
    torch.save({"actor_critic": make_lively_actor_critic(settings).state_dict()}, path)
    return path


@pytest.mark.parametrize("lookahead", [False, True])
def test_evaluate_prints_the_report_of_its_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lookahead: bool
) -> None:
    path = save(tmp_path / "policy.pt", {"task.environment_id": SUCCESS})
    targets, flags = ([5.0, 9.0], ["--target-return", "9", "--lookahead"]) if lookahead else ([5.0], [])
    words = ["evaluate", str(path), "--episodes", "3", "--seed", "7", "--target-return", "5", *flags]
    assert run([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    report = vdt.evaluate_policy(vdt.load_policy(path, lookahead=lookahead), episodes=3, seed=7, target_return=targets)
    assert printed["episode_returns"] == report.episode_returns and printed["episode_lengths"] == [4, 5, 6]
    assert printed["candidate_returns"] == targets and printed["env"] == "walker2d-medium-v2"
    assert printed["normalized_score_standard_error"] == report.normalized_score_standard_error
    capsys.readouterr()
    assert run(words) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split() == ["episode", "return", "length", "score"] and len(lines) == 9
    assert [line.split()[2] for line in lines[1:4]] == ["4", "5", "6"] and lines[4].split()[2] == "5"
    score, error = report.normalized_score_mean, report.normalized_score_standard_error
    assert lines[5] == f"normalized_score {score:.1f} ± {error:.1f} (standard error, 3 episodes)"
    assert lines[6] == "success 100 %" and lines[7].endswith(" s")
    several = f"chose among returns of 5, 9 by Q, {report.planning_horizon} steps ahead (in reports: lookahead)"
    assert lines[8] == (several if lookahead else "asked for a return of 5 (in reports: single)")


def test_an_environment_whose_module_cannot_be_imported_is_looked_for_on_pythonpath(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_robot.py").write_text("import absent_library")
    monkeypatch.syspath_prepend(tmp_path)
    for name, missing in (("absent_robot", "absent_robot"), ("my_robot", "absent_library")):
        path = save(tmp_path / "policy.pt", {"task.environment_id": f"{name}:Arm-v0"})
        assert run(["evaluate", str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: task.environment_id: Gymnasium cannot make '{name}:Arm-v0'"), line
        assert line.endswith("; install what is missing, or put its folder on PYTHONPATH"), line
        assert f"No module named '{missing}'" in line


def test_evaluate_says_that_the_runs_score_is_with_look_ahead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "policy.pt", {"task.environment_id": SUCCESS, "planner.planning_horizon": 1})
    scores = {
        name: {"normalized_score": score}
        for name, score in (("single", 98.3), ("candidates", 98.06), ("lookahead", 9.0))
    }
    digest = compute_file_digest(path, "sha256")
    write_scores(PolicyFile(path, "online", digest, scores, "run"))
    words = ["evaluate", str(path), "--episodes", "1"]
    said = "without look-ahead; the run's score, 98.1, is with it: --lookahead"
    assert run(words) == 0 and capsys.readouterr().out.splitlines()[-1] == said
    assert run([*words, "--lookahead"]) == 0 and "the run's score" not in capsys.readouterr().out
    write_scores(PolicyFile(path, "online", digest, {"single": scores["single"]}, "run"))
    assert run(words) == 0 and "the run's score" not in capsys.readouterr().out


@pytest.mark.parametrize(("env_model", "correlation"), [("simulator", None), ("learned", 0.3)])
def test_evaluate_advises_no_look_ahead_that_is_refused_or_chooses_nothing(
    env_model: str, correlation: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"planner.env_model": env_model, "actor.max_history_correlation": 0.25}
    actor_critic = make_lively_actor_critic({"task.environment_id": SUCCESS, **settings})
    actor_critic.history_correlation = correlation
    torch.save({"actor_critic": actor_critic.state_dict()}, tmp_path / "policy.pt")
    scores = {name: {"normalized_score": 98.06} for name in ("single", "candidates", "lookahead")}
    digest = compute_file_digest(tmp_path / "policy.pt", "sha256")
    write_scores(PolicyFile(tmp_path / "policy.pt", "online", digest, scores, "run"))
    assert run(["evaluate", str(tmp_path / "policy.pt"), "--episodes", "1"]) == 0
    assert "--lookahead" not in capsys.readouterr().out


def test_json_stands_alone_on_standard_output(tmp_path: Path) -> None:
    """In a process of its own, whose log is shown: the scores beside the policy are of another file."""
    path = save(tmp_path / "policy.pt", {"task.environment_id": SUCCESS})
    write_scores(PolicyFile(path, "online", "0" * 64, {}, "run"))
    code = "import support.environments, sys; from vdt.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "evaluate", str(path), "--episodes", "1", "--json"]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=variables)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["episode_lengths"] and "policy.json says nothing of policy.pt" in done.stderr


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        (
            {"task.environment_id": "null", "online.environment_steps": 0},
            [],
            "walker2d-medium-v2 has no environment (task.environment_id is none)",
        ),
        ({}, ["--episodes", "0"], "episodes must be a whole number of at least 1, not 0"),
        ({}, ["--episodes", "many"], "Invalid value for '--episodes': "),
        ({}, ["--seed", "-1"], "seed must be a whole number of at least 0, not -1"),
        ({}, ["--target-return", "nan"], "target_return must be a finite number"),
        ({}, ["--target-return", "3", "--target-return", "4"], "several --target-return need --lookahead"),
        ({}, ["--taget-return", "3"], "No such option: --taget-return"),
    ],
)
def test_wrong_input_is_one_line(
    settings: dict[str, Any], words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(save(tmp_path / "policy.pt", settings)), *words]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith(f"error: {message}") and said.out == ""


@pytest.mark.parametrize("command", ["evaluate", "video", "export"])
@pytest.mark.parametrize("content", [b"no policy", b""])
def test_a_file_that_is_no_policy_is_refused_in_one_line(
    command: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.pt").write_bytes(content)
    assert run([command, "policy.pt"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: policy.pt is not a readable checkpoint")
