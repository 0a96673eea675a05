"""Bridge from FrankaKitchen-v1 to D4RL's: its 60 observations, and one reward for each sub-task when it is completed.

An observation is 9 robot positions, 21 object positions and the 30 positions of the goal, zero where no sub-task is
required. A sub-task is completed when its objects are less than 0.3 from their goal. It gives reward 1 the first time,
in any order, and the episode ends with the last one. Positions are noisy as in D4RL: `robot_noise_ratio` holds for
objects too. The environment's own noise of objects stays off: it is shifted by one component, far outside of the data.

D4RL's files have other rewards. Each row has the number of sub-tasks that are complete in the observation before its
action. Every recording ends with a terminal, whether or not all sub-tasks are complete. `relabel` gives recorded
episodes the environment's rewards.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium_robotics.envs.franka_kitchen.kitchen_env import BONUS_THRESH, OBS_ELEMENT_INDICES

from vdt.config.task import TaskConfig

ROBOT, POSITIONS = 9, 30  # positions of the robot; of the robot and all objects
VELOCITIES = 9  # of the robot, between its positions and those of the objects
NOISE = np.repeat(
    [5e-3, 5e-4, 5e-3, 0.1, 5e-3, 0.1, 5e-3], [2, 6, 3, 3, 3, 3, 1]
)  # of the 21 object positions, at ratio 1

Vector = npt.NDArray[np.float64]


def bridge(environment: gymnasium.Env[Any, Any], *, task: TaskConfig) -> gymnasium.Env[Any, Any]:
    """Wrap an environment of `gymnasium.make`; the sub-tasks are those of its argument `tasks_to_complete`."""
    return Kitchen(environment)


def find_completed(observations: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which sub-tasks are complete: (..., 60) -> (..., N), the N being those whose goal is not zero."""
    places, goals = observations[..., :POSITIONS], observations[..., POSITIONS:]
    asked = [part for part in OBS_ELEMENT_INDICES.values() if goals[..., part].any()]
    near = [np.linalg.norm(places[..., part] - goals[..., part], axis=-1) < BONUS_THRESH for part in asked]
    return np.stack(near, axis=-1)


def relabel(observations: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], bool]:
    """Return the rewards that the environment would give in a recorded episode, and whether it would end.

    Args:
        observations: (T+1, 60). Sub-tasks that are complete in the first one give no reward.

    Returns:
        rewards (T,), and True if every sub-task was completed.

    Raises:
        ValueError: if there is no goal.
    """
    if not observations[:, POSITIONS:].any():
        raise ValueError(f"observations {POSITIONS} to {2 * POSITIONS - 1} are zero; accepted is a goal that is not")
    so_far = np.logical_or.accumulate(find_completed(observations), axis=0)
    return np.diff(so_far.sum(axis=-1)).astype(np.float32), bool(so_far[-1].all())


class Kitchen(gymnasium.Wrapper[Vector, Any, Any, Any]):
    """Wrapper with D4RL's observations, rewards and ends; `info` has `success` (all sub-tasks) and `completed` (how many)."""

    def __init__(self, environment: gymnasium.Env[Any, Any]) -> None:
        super().__init__(environment)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2 * POSITIONS,), np.float64)
        self.goal = np.zeros(POSITIONS)
        for name, place in environment.get_wrapper_attr("goal").items():
            self.goal[OBS_ELEMENT_INDICES[name]] = place
        self.noise = environment.get_wrapper_attr("robot_env").robot_noise_ratio * NOISE
        self.completed = np.zeros(0, np.bool_)

    def _lay_out(self, observation: Any) -> Vector:
        given = observation["observation"]
        objects = given[ROBOT + VELOCITIES :][: POSITIONS - ROBOT]
        noise = self.noise * self.np_random.uniform(-1.0, 1.0, len(objects))
        return np.concatenate([given[:ROBOT], objects + noise, self.goal])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        """Reset as `gymnasium.Env.reset`; no sub-task is complete."""
        observation, info = self.env.reset(seed=seed, options=options)
        laid = self._lay_out(observation)
        self.completed = np.zeros_like(find_completed(laid))
        return laid, info

    def step(self, action: Any) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Take a step as `gymnasium.Env.step`."""
        observation, _, _, truncated, info = self.env.step(action)
        laid = self._lay_out(observation)
        before, self.completed = self.completed, self.completed | find_completed(laid)
        success = bool(self.completed.all())
        told = {**info, "success": success, "completed": int(self.completed.sum())}
        return laid, float(self.completed.sum() - before.sum()), success, truncated, told
