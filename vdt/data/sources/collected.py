"""Source `collected`: rolls out a ladder of behaviour policies, the stand-in for a D4RL data set."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.config import PARAMS, Config
from vdt.data.behavior_policy import BehaviorLadder, BehaviorPolicy, load_ladder
from vdt.data.sources.recording import DataError, Recording
from vdt.data.trajectory import FloatArray, Trajectory, TrajectoryDataset
from vdt.environments import Environment, EnvironmentFactory, make_environment
from vdt.files import compute_file_digest
from vdt.rollout import collect_trajectories

PARALLEL_EPISODES = 16  # changes the speed, never the data
REPORT_EVERY_SECONDS = 5.0
RECIPE_VERSION = 1  # raise it when the same settings begin to give other data


class _BehaviorActor:
    """A behaviour policy with its own Gaussian noise; each episode has its own generator."""

    def __init__(self, policy: BehaviorPolicy, generators: Sequence[np.random.Generator]) -> None:
        self.policy, self.generators = policy, list(generators)

    def start(self, environments: Sequence[Environment]) -> None:
        """Nothing to reset: one actor serves one round."""

    def act(self, observations: FloatArray) -> FloatArray:
        """(N, S) -> (N, A), noise included."""
        size = self.policy.action_size
        noise = np.stack([generator.standard_normal(size, dtype=np.float32) for generator in self.generators])
        # One product per row, (N, 1, S) @ (S, H): a row's action must not depend on how many others there are.
        return self.policy.sample_action(observations[:, None], noise[:, None])[:, 0]

    def observe(self, actions: FloatArray, rewards: FloatArray, active: npt.NDArray[np.bool_]) -> None:
        """Forget the generators of finished episodes."""
        self.generators = [generator for generator, goes_on in zip(self.generators, active, strict=True) if goes_on]


class _Progress:
    """A line every few seconds with rate and time left."""

    def __init__(self, total: int) -> None:
        self.total, self.steps = total, 0
        self.started = self.reported = time.monotonic()

    def advance(self, steps: int) -> None:
        self.steps += steps
        now = time.monotonic()
        if now - self.reported < REPORT_EVERY_SECONDS:
            return
        self.reported = now
        rate = self.steps / (now - self.started)
        left = max(self.total - self.steps, 0) / rate
        print(f"collect: step {self.steps:,}/{self.total:,}  {rate:,.0f}/s  {left:.0f} s left", flush=True)


def _collect_share(
    policy: BehaviorPolicy,
    environments: Sequence[Environment],
    steps: int,
    entropy: tuple[int, int],
    progress: _Progress,
) -> list[Trajectory]:
    """Episodes 0, 1, 2, … of one policy, as few as hold `steps` steps.

    An episode is a function of (seed, position in the recipe, its number), and the shortest prefix is kept, so the data
    does not depend on the number of environments.
    """
    episodes: list[Trajectory] = []
    taken = 0
    while taken < steps:
        expected = max(1.0, taken / max(1, len(episodes)))
        count = min(len(environments), math.ceil((steps - taken) / expected))
        numbers = range(len(episodes), len(episodes) + count)
        sequences = [np.random.SeedSequence([*entropy, number]) for number in numbers]
        actor = _BehaviorActor(policy, [np.random.default_rng(sequence) for sequence in sequences])
        seeds = [int(sequence.generate_state(1)[0]) for sequence in sequences]
        for episode in collect_trajectories(actor, environments[:count], seeds, label="collect"):
            progress.advance(len(episode))
            if taken < steps:
                episodes.append(episode)
                taken += len(episode)
    return episodes


def collect_dataset(
    ladder: BehaviorLadder,
    snapshots: Sequence[int],
    make: EnvironmentFactory,
    *,
    steps: int,
    seed: int,
    parallel: int = PARALLEL_EPISODES,
) -> TrajectoryDataset:
    """Roll out rungs of a ladder with their own action noise; actions are recorded as executed (clipped).

    Args:
        ladder: the policies.
        snapshots: rungs, each given an equal share of the steps, in this order; a rung may stand twice.
        make: makes one environment, with its time limit.
        steps: at least this many in all, in whole episodes.
        seed: the data is a function of it, not of `parallel`.
        parallel: episodes stepped together with one call of the policy.
    """
    share = -(-steps // len(snapshots))
    progress = _Progress(share * len(snapshots))
    trajectories: list[Trajectory] = []
    with contextlib.ExitStack() as stack:
        environments = [make() for _ in range(parallel)]
        for environment in environments:
            stack.callback(environment.close)
        for position, rung in enumerate(snapshots):
            trajectories += _collect_share(ladder.policies[rung], environments, share, (seed, position), progress)
    return TrajectoryDataset.from_trajectories(trajectories)


def find_ladder(config: Config) -> Path | None:
    """File of the task's behaviour ladder, or None if there is none."""
    name = config.task.collected.ladder
    path = PARAMS / "behavior" / f"{name}.npz"
    return path if name is not None and path.is_file() else None


def make_recipe(config: Config, ladder_path: Path) -> dict[str, Any]:
    """Everything that the collected data is a function of, apart from the physics engine's version."""
    settings = json.loads(config.task.environment_kwargs)
    return {
        **({"environment_kwargs": settings} if settings else {}),
        "version": RECIPE_VERSION,
        "environment_id": config.task.environment_id,
        "horizon": config.task.horizon,
        "steps": config.data.steps,
        "seed": config.data.seed,
        "ladder": config.task.collected.ladder,
        "snapshots": list(config.task.collected.snapshots),
        "ladder_sha256": compute_file_digest(ladder_path, "sha256"),
    }


def make_collected_key(recipe: dict[str, Any]) -> str:
    """Folder name, e.g. "collected-200000-s0-0123abcd"."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return f"collected-{recipe['steps']}-s{recipe['seed']}-{digest[:8]}"


def collect_recording(config: Config, ladder_path: Path) -> Recording:
    """Collect the task's data set.

    Raises:
        DataError: if the ladder does not fit the task.
    """
    task, rungs = config.task, config.task.collected.snapshots
    ladder = load_ladder(ladder_path)
    count, policy = len(ladder.policies), ladder.policies[0]
    if not rungs or any(not 0 <= rung < count for rung in rungs):
        raise DataError(f"task.collected.snapshots is {list(rungs)}, but {ladder_path} holds rungs 0 to {count - 1}")
    sizes = (policy.observation_size, policy.action_size)
    if sizes != (task.observation_size, task.action_size):
        raise DataError(
            f"{ladder_path} maps {sizes[0]} observations to {sizes[1]} actions; "
            f"{config.env} has {task.observation_size} and {task.action_size}"
        )
    dataset = collect_dataset(
        ladder,
        rungs,
        lambda: make_environment(task),
        steps=config.data.steps,
        seed=config.data.seed,
    )
    versions = {name: importlib.metadata.version(name) for name in ("gymnasium", "mujoco")}
    note = f"rolled out by our own behaviour policy (rungs {list(rungs)}); not the D4RL data set"
    return Recording(dataset, {**make_recipe(config, ladder_path), **versions}, 0, [note])
