"""Exported policies act as the policy does over whole episodes; their files say how to use them and need no vdt."""

import dataclasses
import io
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import vdt
import vdt.agent.export
from support.builders import make_lively_actor_critic
from support.documents import find_blocks
from support.environments import CONSTANT
from vdt.agent.export import ABOUT, ABOUT_FILE, export_policy
from vdt.agent.tensor_policy import INPUTS, TensorPolicy
from vdt.cli import run
from vdt.environments import make_raw_environment
from vdt.system.extras import make_install_command

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "act_exported.py"
GAUSSIAN = {"policy.head": "gaussian", "actor.q_normalization": "none"}
MLP = {
    "policy.kind": "mlp",
    "planner.candidates": 1,
    "planner.planning_horizon": 1,
    "actor.next_observation_coefficient": 0.0,
    "actor.reward_coefficient": 0.0,
}
RANGE = {"task.action_low": [-2.0], "task.action_high": [1.0], "planner.forget_steps": 3}
KINDS: dict[str, dict[str, Any]] = {
    "transformer-deterministic": {},
    "transformer-gaussian": GAUSSIAN,
    "mlp-deterministic": MLP,
    "mlp-gaussian": {**MLP, **GAUSSIAN},
}
Model = Callable[[dict[str, Any]], Any]


def make_policy(kind: str = "transformer-deterministic", **settings: Any) -> vdt.Policy:
    return vdt.Policy(make_lively_actor_critic({**RANGE, **KINDS[kind], **settings}), lookahead=True)


def open_onnx(content: bytes) -> tuple[Model, dict[str, Any]]:
    session = onnxruntime.InferenceSession(content)
    about = json.loads(session.get_modelmeta().custom_metadata_map[ABOUT])
    assert [given.name for given in session.get_inputs()] == list(INPUTS)
    return lambda window: session.run(["action"], window)[0][0], about


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def open_torchscript(content: bytes) -> tuple[Model, dict[str, Any]]:
    files = {ABOUT_FILE: ""}
    model = torch.jit.load(io.BytesIO(content), _extra_files=files)
    return lambda window: model(*map(torch.from_numpy, window.values()))[0].numpy(), json.loads(files[ABOUT_FILE])


OPEN = {"onnx": open_onnx, "torchscript": open_torchscript}


def measure_difference(policy: vdt.Policy, model: Model, about: dict[str, Any], episodes: int, steps: int) -> float:
    """Return the largest difference of actions over episodes of random observations and rewards."""
    episode_type, largest = runpy.run_path(str(EXAMPLE))["Episode"], 0.0
    plain = vdt.Policy(policy._actor_critic)
    for number in range(episodes):
        random, reward = np.random.default_rng(number), 0.0
        target = float(random.uniform(2, 14))
        plain.reset(target)
        episode = episode_type(model, about, target)
        for step in range(steps):
            seen = random.normal(1.0, 3.0, 2).astype(np.float32)
            ours = plain.act(seen, None if step == 0 else reward)
            largest = max(largest, float(np.abs(ours - episode.act(seen, reward)).max()))
            reward = float(random.normal())
    return largest


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("form", OPEN)
@pytest.mark.parametrize("kind", KINDS)
def test_actions_of_whole_episodes_are_the_policys(kind: str, form: str) -> None:
    """Ten episodes of 25 steps, three times the horizon; K = 4, of which three are forgotten at once."""
    policy = make_policy(kind)
    exported = export_policy(policy, form)
    model, about = OPEN[form](exported.content)
    assert about == json.loads(json.dumps(exported.about)) and exported.difference < 1e-5
    assert (about["context_length"], about["forget_steps"]) == ((1, 1) if kind.startswith("mlp") else (4, 3))
    assert measure_difference(policy, model, about, episodes=10, steps=25) < 1e-5


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("context", "forget"), [(0, 1), (1, 1), (3, 2), (3, 3)])
def test_the_window_is_that_of_acting(context: int, forget: int) -> None:
    policy = make_policy(**{"planner.context_length": context, "planner.forget_steps": forget})
    model, about = open_torchscript(export_policy(policy, "torchscript").content)
    assert (about["context_length"], about["forget_steps"]) == (context or 4, forget)
    assert measure_difference(policy, model, about, episodes=2, steps=25) < 1e-5


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_observations_are_clipped_inside_the_file() -> None:
    policy = make_policy()
    normalizer = policy._actor_critic.normalizer
    policy._actor_critic.normalizer = dataclasses.replace(normalizer, clip=0.3)
    model, about = open_torchscript(export_policy(policy, "torchscript").content)
    assert measure_difference(policy, model, about, episodes=1, steps=10) < 1e-5
    policy._actor_critic.normalizer = normalizer
    assert measure_difference(policy, model, about, episodes=1, steps=10) > 1e-3, "else this shows nothing"


def test_padding_the_open_action_and_other_windows_change_nothing() -> None:
    module = TensorPolicy(make_policy().make_agent(12.0))
    windows = vdt.agent.export.make_windows(module, 8)
    actions, mask = module(*windows), windows[-1]
    last = mask.sum(1) - 1
    changed = [rows.clone() for rows in windows]
    for rows in changed[:-1]:
        rows[~mask] = 7
    changed[1][torch.arange(8), last] = -1.5
    assert torch.allclose(module(*changed), actions, atol=1e-6)
    assert torch.allclose(module(*(rows[3:4] for rows in windows)), actions[3:4], atol=1e-6)
    changed[0][torch.arange(8), last] += 1
    assert (module(*changed) - actions).abs().min() > 1e-4, "the present observation counts"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("form", OPEN)
@pytest.mark.parametrize("kind", ["transformer-deterministic", "mlp-deterministic"])
def test_padding_and_the_open_action_may_be_any_number(kind: str, form: str) -> None:
    model, about = OPEN[form](export_policy(make_policy(kind), form).content)
    steps = about["context_length"]
    shapes = {"observations": (1, steps, 2), "actions": (1, steps, 1), "returns_to_go": (1, steps)}
    for length in {1, (steps + 1) // 2, steps}:
        window: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        window["timesteps"], window["mask"] = np.zeros((1, steps), np.int64), np.arange(steps)[None] < length
        for name in shapes:
            window[name][0, :length] = 0.25
        window["actions"][0, length - 1 :] = 0.0
        expected = model(window)
        for filling, timestep in ((3e38, -1), (-3e38, 10**9), (np.nan, -(10**6))):
            for name in shapes:
                window[name][0, length:] = filling
            window["actions"][0, length - 1 :] = filling
            window["timesteps"][0, length:] = timestep
            assert (model(window) == expected).all() and np.isfinite(expected).all()


def test_a_file_says_what_it_is_and_which_numbers_it_holds() -> None:
    about = export_policy(make_policy(), "torchscript").about
    assert about["observation_size"] == 2 and about["action_size"] == 1
    assert (about["action_low"], about["action_high"]) == ((-2.0,), (1.0,))
    assert about["candidate_returns"] == [12.0, 6.0, 3.0] and about["policy"]["env"] == "walker2d-medium-v2"
    again, other = make_policy(), make_policy()
    other._actor_critic.normalizer.mean[0] += 1
    assert export_policy(again, "torchscript").about["sha256"] == about["sha256"]
    assert export_policy(other, "torchscript").about["sha256"] != about["sha256"]


def test_a_model_with_other_actions_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vdt.agent.export, "TOLERANCE", -1.0)
    with pytest.raises(ArithmeticError, match="the exported actions differ from the policy's by 0"):
        export_policy(make_policy(), "torchscript")


def save(path: Path) -> Path:
    torch.save({"actor_critic": make_lively_actor_critic().state_dict()}, path)
    return path


def test_the_command_writes_a_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(save(tmp_path / "policy.pt")), "--format", "torchscript"]
    assert run(words) == 0
    (path,) = tmp_path.glob("*.torchscript")
    assert path.name == "walker2d-medium-v2-vdt-s0.torchscript" and str(path.name) in capsys.readouterr().out
    path.write_bytes(b"mine")
    assert run(words) == 2 and path.read_bytes() == b"mine"
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert run([*words, "--overwrite"]) == 0 and path.stat().st_size > 1000
    assert run([*words, "--output", "new/policy.ts"]) == 0 and (tmp_path / "new" / "policy.ts").is_file()


def test_without_the_extra_one_line_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    assert run(["export", "nothing.pt"]) == 2
    assert capsys.readouterr().err == (
        f"error: format onnx needs onnx, of the extra [export]: {make_install_command('export')}; "
        "--format torchscript needs nothing more\n"
    )


ENDLESS = {"task.environment_id": CONSTANT, "task.environment_kwargs": '{"ends_after": 4}'}


@pytest.mark.parametrize("task", [{}, ENDLESS, {**ENDLESS, "task.horizon": 3}], ids=["own", "arguments", "horizon"])
def test_the_example_plays_an_episode_of_the_task_without_vdt(tmp_path: Path, task: dict[str, Any]) -> None:
    actor_critic = make_lively_actor_critic({"planner.forget_steps": 3, **task})
    policy = vdt.Policy(actor_critic)
    (tmp_path / "policy.onnx").write_bytes(export_policy(policy, "onnx").content)
    environment = make_raw_environment(policy.config.task)
    policy.reset()
    observation, _ = environment.reset(seed=4)
    reward, expected, running = None, 0.0, True
    while running:
        observation, reward, terminated, truncated, _ = environment.step(policy.act(observation, reward))
        expected, running = expected + float(reward), not (terminated or truncated)
    code = (
        "import runpy, sys, support.environments; sys.modules['vdt'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(EXAMPLE), "policy.onnx", "4"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, cwd=tmp_path, env=variables, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said, _, value = done.stdout.strip().rpartition(" ")
    assert said == "walker2d-medium-v2: return" and float(value) == pytest.approx(expected, abs=1e-3)


OWN = {"task.environment_id": "null", "online.environment_steps": 0, "data.held_out_fraction": 0.1}


def test_a_policy_of_own_data_acts_in_ones_own_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop of docs/export.md gives the policy's own actions; the example, which plays, says where it stands."""
    monkeypatch.chdir(tmp_path)
    policy = vdt.Policy(make_lively_actor_critic(OWN))
    (tmp_path / "policy.onnx").write_bytes(export_policy(policy, "onnx").content)
    done = subprocess.run([sys.executable, EXAMPLE, "policy.onnx"], text=True, capture_output=True, timeout=120)
    assert done.returncode == 1 and done.stderr == (
        "error: policy.onnx: walker2d-medium-v2 has no environment; "
        "docs/export.md shows a robot's own loop around the class Episode\n"
    )
    bridged = vdt.Policy(make_lively_actor_critic({"task.bridge": "maze2d"}))
    (tmp_path / "bridged.onnx").write_bytes(export_policy(bridged, "onnx").content)
    done = subprocess.run([sys.executable, EXAMPLE, "bridged.onnx"], text=True, capture_output=True, timeout=120)
    assert done.returncode == 1 and "walker2d-medium-v2 is played through vdt alone; " in done.stderr
    (block,) = [block for block in find_blocks("run", "python") if "class Robot" in block.text]
    monkeypatch.syspath_prepend(ROOT)
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    policy.reset()
    robot, reward, ended, earned = names["Robot"](), None, False, 0.0
    observation = robot.reset()
    while not ended:
        observation, reward, ended = robot.step(policy.act(observation, reward))
        earned += reward
    assert capsys.readouterr().out == f"return {names['earned']:.4f}\n"
    assert names["earned"] == pytest.approx(earned, abs=1e-3) and earned != robot.steps
