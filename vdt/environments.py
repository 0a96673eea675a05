"""Makes environments and says what they are; the border to Gymnasium."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from vdt.schema import TaskConfig

Environment = gymnasium.Env[npt.NDArray[Any], npt.NDArray[Any]]
EnvironmentFactory = Callable[[], Environment]


def make_environment(task: TaskConfig) -> Environment:
    """Make the environment of a task; see `make_gymnasium_environment`."""
    return make_gymnasium_environment(task.environment_id, task.horizon, json.loads(task.environment_kwargs))


def make_gymnasium_environment(
    environment_id: str, horizon: int, settings: Mapping[str, Any] | None = None
) -> Environment:
    """Make one environment that is truncated after `horizon` steps.

    Args:
        environment_id: Gymnasium id with Box observations and actions, e.g. "Walker2d-v4".
        horizon: time limit in environment steps.
        settings: further arguments of `gymnasium.make`.

    Raises:
        ValueError: if Gymnasium does not know the id, or a space is not a Box.
    """
    try:
        with warnings.catch_warnings():  # -v4 is deprecated and is the version that matches D4RL's physics
            warnings.filterwarnings("ignore", message=".*is out of date.*", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message=".*deprecated.*", category=DeprecationWarning)
            environment: Environment = gymnasium.make(environment_id, max_episode_steps=horizon, **(settings or {}))
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(f"task.environment_id: Gymnasium cannot make {environment_id!r}: {error}") from error
    for name in ("observation_space", "action_space"):
        space = getattr(environment, name)
        if not isinstance(space, gymnasium.spaces.Box):
            raise ValueError(f"{environment_id}: {name} must be a Box, not {type(space).__name__}")
    return environment


def get_action_bounds(environment: Environment) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Lowest and highest action, each (A,)."""
    space = environment.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    return space.low.astype(np.float32), space.high.astype(np.float32)
