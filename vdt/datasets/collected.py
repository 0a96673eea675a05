"""Source `collected`: rolls out a ladder of behaviour policies, or a controller; the stand-in for a D4RL data set."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.behavior.policy import BehaviorLadder, BehaviorPolicy, load_ladder
from vdt.behavior.waypoints import collect_walk
from vdt.config.layers import PARAMS, Config
from vdt.data.trajectory import FloatArray, Trajectory, TrajectoryDataset
from vdt.datasets.loaded_data import DataError, Recording
from vdt.environments import Environment, EnvironmentFactory, make_environment
from vdt.environments.rollout import collect_trajectories
from vdt.system.files import compute_file_digest
from vdt.system.progress import Progress

PARALLEL_EPISODES = 16  # changes the speed, never the data
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


def _collect_share(
    policy: BehaviorPolicy,
    environments: Sequence[Environment],
    steps: int,
    entropy: tuple[int, int],
    progress: Progress,
) -> list[Trajectory]:
    """Episodes 0, 1, 2, … of one policy, as few as hold `steps` steps.

    An episode is a function of (seed, position in the recipe, its number), and the shortest prefix is kept, so the data
    does not depend on the number of environments.
    """
    episodes: list[Trajectory] = []
    taken, limit = 0, getattr(environments[0].spec, "max_episode_steps", None) or 1
    while taken < steps:
        expected = max(1.0, taken / len(episodes)) if episodes else limit
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
    progress = Progress("collect", 0, share * len(snapshots))
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


@dataclass(frozen=True)
class Collection:
    """How a task's stand-in is made, decided but not yet begun.

    Attributes:
        recipe: everything that the data is a function of, apart from the physics engine's version.
        load: collects it.
    """

    recipe: dict[str, Any]
    load: Callable[[], Recording]

    @property
    def key(self) -> str:
        """Folder name of the snapshot."""
        return make_collected_key(self.recipe)


def find_collection(config: Config) -> Collection | None:
    """The task's controller or behaviour ladder; none where this project has nothing to roll out."""
    if config.task.collected.controller != "none":
        return Collection(make_walk_recipe(config), lambda: collect_walk_recording(config))
    ladder = find_ladder(config)
    if ladder is None:
        return None
    return Collection(make_recipe(config, ladder), lambda: collect_recording(config, ladder))


def _make_common_recipe(config: Config) -> dict[str, Any]:
    settings = json.loads(config.task.environment_kwargs)
    return {
        **({"environment_kwargs": settings} if settings else {}),
        **({"bridge": config.task.bridge} if config.task.bridge != "none" else {}),
        "version": RECIPE_VERSION,
        "environment_id": config.task.environment_id,
        "horizon": config.task.horizon,
        "steps": config.data.steps,
        "seed": config.data.seed,
    }


def make_recipe(config: Config, ladder_path: Path) -> dict[str, Any]:
    """What data rolled out by a ladder is a function of."""
    return {
        **_make_common_recipe(config),
        "ladder": config.task.collected.ladder,
        "snapshots": list(config.task.collected.snapshots),
        "ladder_sha256": compute_file_digest(ladder_path, "sha256"),
    }


def make_walk_recipe(config: Config) -> dict[str, Any]:
    """What data of a controller is a function of."""
    return {**_make_common_recipe(config), "controller": config.task.collected.controller}


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
    note = f"rolled out by our own behaviour policy (rungs {list(rungs)}); not the D4RL data set"
    return Recording(dataset, {**make_recipe(config, ladder_path), **_get_versions("gymnasium", "mujoco")}, 0, [note])


def collect_walk_recording(config: Config) -> Recording:
    """Collect the task's data set with its controller.

    Raises:
        DataError: if the task's environment has no maze to walk in.
    """
    task = config.task
    endless = dataclasses.replace(task, horizon=config.data.steps + task.horizon + 1)
    with contextlib.closing(make_environment(endless)) as environment:
        if not environment.has_wrapper_attr("layout"):
            raise DataError(
                f"task.collected.controller is {task.collected.controller!r}, but {task.environment_id} with "
                f"task.bridge {task.bridge!r} is no maze"
            )
        progress = Progress("collect", 0, config.data.steps)
        dataset = collect_walk(
            environment, steps=config.data.steps, horizon=task.horizon, seed=config.data.seed, advance=progress.advance
        )
    note = (
        f"one walk of our own controller to random goals, cut every {task.horizon} steps; rewards are those of the task's "
        f"own goal; not the D4RL data set"
    )
    versions = _get_versions("gymnasium", "gymnasium-robotics", "mujoco")
    return Recording(dataset, {**make_walk_recipe(config), **versions}, 0, [note])


def _get_versions(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}
