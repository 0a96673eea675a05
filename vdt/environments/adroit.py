"""Bridge to D4RL's version of the Adroit hand.

Gymnasium-Robotics' -v1 environments reward the distance between palm and tool or handle where D4RL penalises it. They
continue after an object was dropped, where D4RL ends the episode. D4RL's shorter time limit is `task.horizon`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from vdt.config.task import TaskConfig

Vector = npt.NDArray[np.float64]

DISTANCE_WEIGHT = 0.1
DROPPED_BELOW = 0.075  # metres
REACH: dict[str, Callable[[Vector], Vector]] = {  # observation -> palm to object; its reward has the wrong sign
    "AdroitHandHammer-v1": lambda observation: observation[33:36] - observation[36:39],
    "AdroitHandDoor-v1": lambda observation: observation[35:38],
}
HEIGHT = {"AdroitHandPen-v1": 26}  # component of the observation: height of the object that must not be dropped


def bridge(environment: gymnasium.Env[Any, Any], *, task: TaskConfig) -> gymnasium.Env[Any, Any]:
    """Wrap an environment of `gymnasium.make`.

    Raises:
        ValueError: if it is another environment.
    """
    if task.environment_id not in (*REACH, *HEIGHT):
        raise ValueError(
            f"task.bridge is {task.bridge}, which knows {', '.join((*REACH, *HEIGHT))}, not {task.environment_id}"
        )
    return Adroit(environment, task.environment_id)


class Adroit(gymnasium.Wrapper[Vector, Any, Any, Any]):
    """Wrapper with D4RL's rewards and ends; `info` has `success`, and `paid`, the reward before it was corrected."""

    def __init__(self, environment: gymnasium.Env[Any, Any], environment_id: str) -> None:
        super().__init__(environment)
        self.reach, self.height = REACH.get(environment_id), HEIGHT.get(environment_id)
        self.dense = not environment.get_wrapper_attr("sparse_reward")

    def step(self, action: Any) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Take a step as `gymnasium.Env.step`."""
        observation, paid, terminated, truncated, info = self.env.step(action)
        reward = float(paid)
        if self.reach and self.dense:
            reward -= 2 * DISTANCE_WEIGHT * float(np.linalg.norm(self.reach(observation)))
        dropped = self.height is not None and bool(observation[self.height] < DROPPED_BELOW)
        return observation, reward, terminated or dropped, truncated, {**info, "paid": float(paid)}
