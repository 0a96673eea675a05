"""The circle of logs, policy and logs, through the examples and the real flow; a policy goes on where another ended."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vdt
from support.builders import assert_identical, make_store, make_trajectory
from support.flow import make_variables, run_flow
from vdt.checkpoint.store import load_state
from vdt.data.trajectory import TrajectoryDataset
from vdt.experiments.resolve import resolve_config
from vdt.system.files import compute_file_digest
from vdt.system.home import ROOT
from vdt.tracking import NullTracker, open_store
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor

HEADER = "episode,observation_0,observation_1,action_0,reward,terminated"
SMALL = ("--preset", "smoke")


def run_example(folder: Path, name: str, *words: object) -> str:
    variables = {**os.environ, **make_variables(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, words)]
    return subprocess.run(
        command, check=True, cwd=folder, env=variables, timeout=120, stdout=subprocess.PIPE
    ).stdout.decode()


def write_log(path: Path) -> Path:
    """A clumsy operator pushes the cart of `examples/robot_loop.py` for six episodes."""
    rng, rows = np.random.default_rng(0), []
    for episode in range(6):
        position, velocity = rng.uniform(-1, 1), 0.0
        for _ in range(30):
            force = float(np.clip(-2 * position - 2 * velocity + rng.normal(), -1.5, 1.5))
            rows.append((episode, position, velocity, force, 1 - abs(position), 0))
            position, velocity = position + 0.1 * velocity, velocity + 0.1 * force
    np.savetxt(path, rows, delimiter=",", header=HEADER, comments="")
    return path


def find_run(output: str) -> str:
    """Id of the flow's run, as its lines have it."""
    found = re.search(r"\[(\d+)/start/", output)
    assert found, output
    return found[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("robot")


def find_file(folder: Path, run: str, step: str = "train_actor") -> Path:
    """The last checkpoint of a step of a run of one cell."""
    (marker,) = (folder / "home" / ".vdt" / "checkpoints" / "VDTFlow" / run).glob(f"{step}/*/DONE")
    return marker.with_name(marker.read_text().strip())


def test_logs_become_a_policy_that_makes_logs_that_improve_it(folder: Path) -> None:
    said = run_example(folder, "own_dataset.py", write_log(folder / "log.csv"), folder / "logs")
    command = said.splitlines()[-1].split()
    code, output = run_flow(folder, *command[2:], *SMALL)  # after ".venv/bin/python flows/vdt_flow.py"
    assert code == 0, output
    path = find_file(folder, find_run(output))
    first, digest = vdt.load_policy(path), compute_file_digest(path, "sha256")
    assert first.spaces.action_high == (1.5,), "as far as the operator pushed"

    said = run_example(folder, "robot_loop.py", path, folder / "more", 4)
    assert len(said.splitlines()) == len(list((folder / "more").glob("*.npz"))) == 4
    again = ("run", "--env", f"data:{folder / 'more'}", *SMALL, "--init-from", str(path))
    code, output = run_flow(folder, *again)  # the robot's episodes last 100 steps, the log's 30
    assert code == 2 and 'needs --set "task.horizon=30"' in output, output
    code, output = run_flow(folder, *again, "--set", "task.horizon=30")
    assert code == 0, output
    assert f"critic: begins from {path} (sha256 {digest[:16]})" in output
    second = vdt.load_policy(find_file(folder, find_run(output)))
    assert second.config.init.sha256 == digest
    assert second.spaces == first.spaces, "the unit of actions stays"
    assert second.metadata["gradient_steps"] == 2 * first.metadata["gradient_steps"]

    client = open_store(folder / "home")
    parent, child = client.search_runs(["1"], order_by=["attributes.start_time"])
    tags = {"init_policy": str(path), "init_sha256": digest, "init_run_id": parent.info.run_id}
    assert {key: child.data.tags[key] for key in tags} == tags
    (entry,) = client.get_run(child.info.run_id).inputs.model_inputs
    assert client.get_logged_model(entry.model_id).source_run_id == parent.info.run_id


def train_offline(folder: Path) -> Path:
    """Train an offline policy of walker2d on noise."""
    config = resolve_config("walker2d-medium-v2", preset="smoke")
    noise = [make_trajectory(20, seed=k, observation_size=17, action_size=6) for k in range(4)]
    dataset = TrajectoryDataset.from_trajectories(noise)
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(folder / "critic"))
    return train_actor(config, dataset, critic, NullTracker(), make_store(folder / "actor"))


def test_online_steps_are_added_to_an_offline_policy(folder: Path) -> None:
    original = train_offline(folder / "offline")
    steps = "critic.gradient_steps=0 actor.gradient_steps=0 online.environment_steps=100"
    words = ("--env", "walker2d-medium-v2", "--source", "collected", *SMALL, "--init-from", str(original))
    code, output = run_flow(folder, "run", *words, "--set", steps)
    assert code == 0, output
    run = find_run(output)
    before, offline, online = (
        load_state(path)["actor_critic"]
        for path in (original, find_file(folder, run), find_file(folder, run, "tune_online"))
    )
    for name in ("policy", "critic", "normalizer"):
        assert_identical(offline[name], before[name], name)
    assert_identical(online["normalizer"], before["normalizer"])
    assert online["gradient_steps"] > offline["gradient_steps"] == before["gradient_steps"]

    kept = folder / "home" / ".vdt" / "policies" / f"{compute_file_digest(original, 'sha256')[:16]}.pt"
    kept.write_bytes(b"another")
    code, output = run_flow(folder, "resume", "pretrain_critic", "--origin-run-id", run)
    assert code == 0 and kept.read_bytes() == original.read_bytes(), "the original is still there"
    for path in (kept, original):
        path.write_bytes(b"another")
    code, output = run_flow(folder, "resume", "pretrain_critic", "--origin-run-id", run)
    assert code != 0 and "the policy that this run began from is another now" in output, output
    assert "Traceback" not in output
