"""Files in D4RL's layout for the thirteen tasks that are not gym's, recorded through our bridges where no real one is at hand.

    python tests/support/recordings.py --policies SHARED/policies --files SHARED/d4rl --folder DIR --steps 20000

leaves in DIR, under D4RL's names, the real files of `--files` and recordings of the policies behind D4RL's own data: the
experts of pen, hammer and door, the goal-reaching ant led by waypoints. With `D4RL_DATASET_DIR=DIR` source `d4rl` takes
them. A recording is not D4RL's data set, and its results are not to be compared with published ones.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from support.ant import WaypointAnt
from support.data import write_hdf5
from vdt.data.trajectory import FloatArray, Trajectory
from vdt.environments import make_environment
from vdt.environments.rollout import RolloutPolicy, collect_trajectories
from vdt.experiments.resolve import resolve_config

AT_ONCE = 10  # episodes
EXPERTS = [f"{name}-{data}-v1" for name in ("pen", "hammer", "door") for data in ("human", "cloned")]
ANTS = ["antmaze-umaze-v0", "antmaze-umaze-diverse-v0", "antmaze-medium-diverse-v0"]
KITCHENS = ["kitchen-complete-v0", "kitchen-partial-v0"]
NOISE = {"antmaze": 0.0, "pen": 0.1, "hammer": 0.1, "door": 0.1}  # of the experts' actions; the ant has its own


class Expert:
    """Mean action of an expert behind D4RL's Adroit data."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}

    def start(self, environments: Sequence[Any]) -> None:
        pass

    def act(self, observations: FloatArray) -> FloatArray:
        arrays = self.arrays
        hidden = (observations - arrays["in_shift"]) / (arrays["in_scale"] + 1e-8)
        for layer in range(2):
            hidden = np.tanh(hidden @ arrays[f"w{layer}"] + arrays[f"b{layer}"])
        out = (hidden @ arrays["w2"] + arrays["b2"]) * arrays["out_scale"] + arrays["out_shift"]
        return np.asarray(out, np.float32)

    def observe(self, actions: FloatArray, rewards: FloatArray, active: npt.NDArray[np.bool_]) -> None:
        pass


def record(env: str, actor: RolloutPolicy, steps: int, noise: float) -> list[Trajectory]:
    """Record at least `steps` steps of whole episodes in the task's environment."""
    environments = [make_environment(resolve_config(env).task) for _ in range(AT_ONCE)]
    episodes: list[Trajectory] = []
    while sum(map(len, episodes)) < steps:
        seeds = range(len(episodes), len(episodes) + AT_ONCE)
        episodes += collect_trajectories(actor, environments, seeds, noise=noise, label=f"record {env}")
    return episodes


def write_d4rl(path: Path, episodes: Sequence[Trajectory]) -> None:
    """Write flat arrays in D4RL's schema; the observation after the last step is absent, as there."""
    last = np.zeros(sum(map(len, episodes)), np.bool_)
    last[np.cumsum([len(e) for e in episodes]) - 1] = True
    ended = last.copy()
    ended[last] = [e.terminated for e in episodes]
    write_hdf5(
        path,
        {
            "observations": np.concatenate([e.observations[:-1] for e in episodes]),
            "actions": np.concatenate([e.actions for e in episodes]),
            "rewards": np.concatenate([e.rewards for e in episodes]),
            "terminals": ended,
            "timeouts": last & ~ended,
        },
    )


def fill(folder: Path, policies: Path, files: Path, envs: Sequence[str], steps: int) -> dict[str, str]:
    """Put a file for each of `envs` into `folder`; return env -> description of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for env in envs:
        target = folder / PurePosixPath(resolve_config(env).task.d4rl_url).name
        real = files / target.name
        if real.is_file():
            shutil.copy(real, target)
            made[env] = "D4RL's own file"
        elif env in KITCHENS:
            complete = PurePosixPath(resolve_config("kitchen-complete-v0").task.d4rl_url).name
            shutil.copy(files / complete, target)
            made[env] = "kitchen-complete-v0's file under this name"
        else:
            name = env.split("-")[0]
            ant = name == "antmaze"
            actor = WaypointAnt(policies / "ant-goal-reaching.npz") if ant else Expert(policies / f"{name}-dapg.npz")
            episodes = record(env, actor, steps, NOISE[name])
            write_d4rl(target, episodes)
            mean, count = np.mean([e.episode_return for e in episodes]), len(episodes)
            made[env] = f"recorded: {count} episodes, {sum(map(len, episodes)):,} steps, mean return {mean:.4g}"
        print(f"{env}: {made[env]}", flush=True)
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--policies", "--files", "--folder"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--envs", default=",".join([*EXPERTS, *KITCHENS, *ANTS]))
    given = parser.parse_args()
    fill(given.folder, given.policies, given.files, given.envs.split(","), given.steps)
