"""Environments and their properties; the only interface to Gymnasium."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from vdt.config.task import TaskConfig
from vdt.data.action_range import scale_actions

Environment = gymnasium.Env[npt.NDArray[Any], npt.NDArray[Any]]
EnvironmentFactory = Callable[[], Environment]
Bridge = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]


def make_environment(task: TaskConfig) -> Environment:
    """Make the environment of a task; its actions are those of the data, in [-1, 1], where the task gives their range.

    Raises:
        ValueError: if the task has no environment, or it cannot be made.
    """
    made = make_raw_environment(task)
    if not task.action_low:
        return made
    low, high = np.asarray(task.action_low, np.float32), np.asarray(task.action_high, np.float32)
    unit = gymnasium.spaces.Box(-1.0, 1.0, low.shape, np.float32)
    return gymnasium.wrappers.TransformAction(made, lambda action: scale_actions(action, low, high), unit)


@contextlib.contextmanager
def open_environments(task: TaskConfig, count: int) -> Iterator[list[Environment]]:
    """Make `count` environments of a task, as `make_environment` does, and close them at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(make_environment(task))) for _ in range(count)]


def make_raw_environment(task: TaskConfig, render_mode: str | None = None) -> Environment:
    """Make the environment of a task, with the actions in its own range.

    Args:
        task: that has an environment.
        render_mode: Gymnasium's; "rgb_array" for `render()` to return pictures. None draws nothing.

    Raises:
        ValueError: if the task has no environment, or it cannot be made.
    """
    if task.environment_id is None:
        raise ValueError("this data has no environment (task.environment_id is none)")
    settings = {**json.loads(task.environment_kwargs), **({"render_mode": render_mode} if render_mode else {})}
    return make_gymnasium_environment(task.environment_id, task.horizon, settings, get_bridge(task))


def flatten_observations(tree: Any, rows: tuple[int, ...] = ()) -> npt.NDArray[Any]:
    """Concatenate nested dicts of arrays into one array (*rows, S).

    Keys come in alphabetical order at every level, arrays row by row.

    Args:
        tree: an array (*rows, …), or a mapping of such.
        rows: leading dimensions that stay as they are; none for one observation.
    """
    if isinstance(tree, Mapping):
        return np.concatenate([flatten_observations(tree[key], rows) for key in sorted(tree)], axis=-1)
    return np.asarray(tree).reshape(*rows, -1)


def _flatten(environment: gymnasium.Env[Any, Any]) -> Environment:
    """Wrap dict observations of Box (or a Box of several dimensions) into one vector."""
    space = environment.observation_space
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        return environment
    zeros = _make_zeros(space)
    if zeros is None:
        return environment
    flat = gymnasium.spaces.Box(-np.inf, np.inf, flatten_observations(zeros).shape, np.float32)
    return gymnasium.wrappers.TransformObservation(
        environment, lambda observation: flatten_observations(observation).astype(np.float32), flat
    )


def _make_zeros(space: gymnasium.Space[Any]) -> Any:
    """Return an observation of zeros; none if a part of the space is not Box."""
    if isinstance(space, gymnasium.spaces.Dict):
        parts = {key: _make_zeros(part) for key, part in space.spaces.items()}
        return None if any(part is None for part in parts.values()) else parts
    return np.zeros(space.shape) if isinstance(space, gymnasium.spaces.Box) else None


def get_bridge(task: TaskConfig) -> Bridge | None:
    """Return the wrapper that gives the task's environment D4RL's interface; none where it has it already."""
    module = load_bridge(task)
    return functools.partial(module.bridge, task=task) if module else None


def load_bridge(task: TaskConfig) -> ModuleType | None:
    """Return the module of vdt/environments/ that `task.bridge` names."""
    if task.bridge == "none":
        return None
    register_robotics()
    return importlib.import_module(f"{__name__}.{task.bridge}")


def register_robotics() -> None:
    """Register the environments of Gymnasium-Robotics; done late, since it replaces some of Gymnasium's own."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it prints its news
        import gymnasium_robotics
    gymnasium.register_envs(gymnasium_robotics)


def make_gymnasium_environment(
    environment_id: str, horizon: int, settings: Mapping[str, Any] | None = None, bridge: Bridge | None = None
) -> Environment:
    """Make one environment that is truncated after `horizon` steps.

    Args:
        environment_id: Gymnasium id with Box actions, and Box observations or nested dicts of Box, e.g. "Walker2d-v4".
        horizon: time limit in environment steps.
        settings: further arguments of `gymnasium.make`.
        bridge: wraps the environment as Gymnasium made it, before its observations are flattened.

    Raises:
        ValueError: if Gymnasium does not know the id, or a space is not a Box.
    """
    if environment_id not in gymnasium.registry and ":" not in environment_id:
        register_robotics()
    try:
        with warnings.catch_warnings():  # -v4 is deprecated and is the version that matches D4RL's physics
            warnings.filterwarnings("ignore", message=".*is out of date.*", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message=".*deprecated.*", category=DeprecationWarning)
            made = gymnasium.make(
                environment_id, max_episode_steps=horizon, disable_env_checker=bridge is not None, **(settings or {})
            )
            environment = _flatten(bridge(made) if bridge else made)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        trouble = str(error)
        if isinstance(error, ModuleNotFoundError):
            trouble = f"{trouble.rstrip('.')}; install what is missing, or put its folder on PYTHONPATH"
        raise ValueError(f"task.environment_id: Gymnasium cannot make {environment_id!r}: {trouble}") from error
    for name in ("observation_space", "action_space"):
        space = getattr(environment, name)
        if not isinstance(space, gymnasium.spaces.Box):
            raise ValueError(f"{environment_id}: {name} must be a Box, not {type(space).__name__}")
    return environment


def get_action_bounds(environment: Environment) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return lowest and highest action, each (A,)."""
    space = environment.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    return space.low.astype(np.float32), space.high.astype(np.float32)
