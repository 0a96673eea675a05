"""The examples for people with a robot or logs of their own: each runs as its first line says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from support.builders import make_lively_actor_critic
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.npz import read_folder
from vdt.experiments.resolve import resolve_config

ROOT = Path(__file__).resolve().parents[2]
HEADER = "episode,observation_0,observation_1,action_0,reward,terminated"


def run_example(name: str, *words: object) -> str:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, words)]
    return subprocess.run(
        command, check=True, env=variables, timeout=120, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def read(folder: Path) -> TrajectoryDataset:
    return read_folder(folder, resolve_config(f"data:{folder}").task, {}).dataset


def test_a_log_becomes_episodes_and_the_printed_command_names_them(tmp_path: Path) -> None:
    rows = [(e, 10 * e + t, -t, 0.1 * t, e, t == 2 and e == 1) for e in (0, 1) for t in range(3 + e)]
    rows = [row for row in rows if not (row[0] == 1 and row[1] == 13)]  # the second episode ends with its third step
    np.savetxt(tmp_path / "log.csv", rows, delimiter=",", header=HEADER, comments="")
    said = run_example("own_dataset.py", tmp_path / "log.csv", tmp_path / "mine")
    assert said == f"python flows/vdt_flow.py run --env data:{tmp_path / 'mine'}"
    dataset = read(tmp_path / "mine")
    assert dataset.lengths.tolist() == [3, 3] and dataset.terminated.tolist() == [False, True]
    assert dataset.final_missing.tolist() == [True, False]
    assert dataset[1].observations[:3].tolist() == [[10.0, 0.0], [11.0, -1.0], [12.0, -2.0]]
    assert dataset[1].rewards.tolist() == [1.0, 1.0, 1.0]


def test_a_robot_without_gymnasium_acts_and_keeps_what_happened(tmp_path: Path) -> None:
    actor_critic = make_lively_actor_critic({"task.action_low": [-0.5], "task.action_high": [0.5]})
    torch.save({"actor_critic": actor_critic.state_dict()}, tmp_path / "policy.pt")
    said = run_example("robot_loop.py", tmp_path / "policy.pt", tmp_path / "logs", 3)
    steps = [int(word) for word in re.findall(r"(\d+) steps", said)]
    dataset = read(tmp_path / "logs")
    assert dataset.lengths.tolist() == steps and len(steps) == 3
    assert [not end for end in dataset.terminated] == [count == 100 for count in steps]
    actions = np.load(tmp_path / "logs" / "episode-00000000.npz")["actions"]
    assert np.abs(actions).max() <= 0.5 and np.unique(actions).size > 1, "raw actions, in the robot's range"
