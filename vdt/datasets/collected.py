"""Source `collected`: data of a ladder of behaviour policies, or of a controller, in place of a D4RL data set."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdt.behavior.collect import collect_dataset
from vdt.behavior.policy import load_ladder
from vdt.behavior.waypoints import collect_walk
from vdt.config.layers import PARAMS
from vdt.config.schema import Config
from vdt.data.action_range import make_range_recipe
from vdt.data.errors import DataError
from vdt.data.residence import MEMORY, Residence
from vdt.datasets.loaded_data import LoadedData
from vdt.environments import make_environment
from vdt.environments.reproducible import round_states
from vdt.system.files import compute_file_digest
from vdt.system.progress import Progress

RECIPE_VERSION = 2  # increase it when the same settings give other data
ROUNDED = "the simulator's state was rounded after each step, to 2^-20, so that every processor gives the same data"


def find_ladder(config: Config) -> Path | None:
    """Return the file of the task's behaviour ladder, or None if there is none."""
    name = config.ladder
    path = PARAMS / "behavior" / f"{name}.npz"
    return path if name is not None and path.is_file() else None


@dataclass(frozen=True)
class Collection:
    """Recipe of a task's collected data, decided but not yet executed.

    Attributes:
        recipe: all inputs that the data is a function of, apart from the physics engine's version.
        load: collects it.
    """

    recipe: dict[str, Any]
    load: Callable[[], LoadedData]

    @property
    def key(self) -> str:
        """Return the folder name of the snapshot."""
        return make_collected_key(self.recipe)


def find_collection(config: Config, residence: Residence = MEMORY) -> Collection | None:
    """Return the task's controller or behaviour ladder; none where there is neither. The arrays lie as `residence` says."""
    if config.task.collected.controller != "none":
        return Collection(make_walk_recipe(config), lambda: collect_walk_recording(config, residence))
    ladder = find_ladder(config)
    if ladder is None:
        return None
    return Collection(make_recipe(config, ladder), lambda: collect_recording(config, ladder, residence))


def _make_common_recipe(config: Config) -> dict[str, Any]:
    settings = json.loads(config.task.environment_kwargs)
    return {
        **({"environment_kwargs": settings} if settings else {}),
        **({"bridge": config.task.bridge} if config.task.bridge != "none" else {}),
        **make_range_recipe(config.task.action_low, config.task.action_high),
        "version": RECIPE_VERSION,
        "environment_id": config.task.environment_id,
        "horizon": config.task.horizon,
        "steps": config.data.steps,
        "seed": config.data.seed,
    }


def make_recipe(config: Config, ladder_path: Path) -> dict[str, Any]:
    """Return all inputs that a ladder's data is a function of."""
    return {
        **_make_common_recipe(config),
        "ladder": config.ladder,
        "snapshots": list(config.task.collected.snapshots),
        "ladder_sha256": compute_file_digest(ladder_path, "sha256"),
    }


def make_walk_recipe(config: Config) -> dict[str, Any]:
    """Return all inputs that a controller's data is a function of."""
    return {**_make_common_recipe(config), "controller": config.task.collected.controller}


def make_collected_key(recipe: dict[str, Any]) -> str:
    """Return the folder name, e.g. "collected-200000-s0-0123abcd"."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return f"collected-{recipe['steps']}-s{recipe['seed']}-{digest[:8]}"


def collect_recording(config: Config, ladder_path: Path, residence: Residence = MEMORY) -> LoadedData:
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
        residence=residence,
    )
    notes = [f"rolled out by our own behaviour policy (rungs {list(rungs)}); not the D4RL data set", ROUNDED]
    return LoadedData(dataset, {**make_recipe(config, ladder_path), **_get_versions("gymnasium", "mujoco")}, 0, notes)


def collect_walk_recording(config: Config, residence: Residence = MEMORY) -> LoadedData:
    """Collect the task's data set with its controller.

    Raises:
        DataError: if the task's environment has no maze to walk in.
    """
    task = config.task
    endless = dataclasses.replace(task, horizon=config.data.steps + task.horizon + 1)
    with contextlib.closing(round_states(make_environment(endless))) as environment:
        if not environment.has_wrapper_attr("layout"):
            raise DataError(
                f"task.collected.controller is {task.collected.controller!r}, but {task.environment_id} with "
                f"task.bridge {task.bridge!r} is no maze"
            )
        progress = Progress("collect", 0, config.data.steps)
        dataset = collect_walk(
            environment,
            steps=config.data.steps,
            horizon=task.horizon,
            seed=config.data.seed,
            advance=progress.advance,
            residence=residence,
        )
    note = (
        f"one walk of our own controller to random goals, cut every {task.horizon} steps; rewards are those of the task's "
        f"own goal; not the D4RL data set"
    )
    versions = _get_versions("gymnasium", "gymnasium-robotics", "mujoco")
    return LoadedData(dataset, {**make_walk_recipe(config), **versions}, 0, [note, ROUNDED])


def _get_versions(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}
