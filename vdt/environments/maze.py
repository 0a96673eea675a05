"""Base of the two maze bridges: a maze in D4RL's coordinates, a goal, and a reward of 1 near it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

RADIUS = 0.5  # within this distance of the goal D4RL's reward is 1
FloatVector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """Layout of a maze in the coordinates of the observation, whose first two components are the position.

    Attributes:
        cells: start and target position in each free cell in D4RL, (F, 2).
        walls: centres of the walls, (W, 2).
        size: side of a cell and of a wall.
        goal: centre of the goals that D4RL draws, (2,).
        radius: within this distance of a goal it is reached.
    """

    cells: FloatVector
    walls: FloatVector
    size: float
    goal: FloatVector
    radius: float = RADIUS


def read_map(environment: gymnasium.Env[Any, Any]) -> dict[str, list[tuple[int, int]]]:
    """Return (row, column) of a Gymnasium-Robotics maze's cells by content: "wall", "free" (all others), "g", "r".

    Raises:
        ValueError: if it is no such maze, or does not have exactly one goal.
    """
    maze = getattr(environment.unwrapped, "maze", None)
    if maze is None:
        raise ValueError(f"task.bridge: {environment.unwrapped} is no maze of Gymnasium-Robotics")
    found: dict[str, list[tuple[int, int]]] = {"wall": [], "free": [], "g": [], "r": []}
    for row, line in enumerate(maze.maze_map):
        for column, what in enumerate(line):
            found["wall" if what == 1 else "free"].append((row, column))
            if what in ("g", "r"):
                found[what].append((row, column))
    if len(found["g"]) != 1:
        raise ValueError(
            f"task.environment_kwargs: maze_map has {len(found['g'])} goals; accepted is one cell that is 'g'"
        )
    return found


class MazeBridge(gymnasium.Wrapper[FloatVector, FloatVector, Any, Any], ABC):
    """Wrapper with D4RL's observation, start, goal, reward and end for a maze of Gymnasium-Robotics.

    `info["success"]` is whether the goal is reached now; `goal` is this episode's, `layout` the maze.
    """

    layout: Layout
    ends = True  # whether reaching the goal ends the episode

    def __init__(self, environment: gymnasium.Env[Any, Any], size: int) -> None:
        super().__init__(environment)
        self.simulator: Any = environment.unwrapped
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.goal: FloatVector = np.zeros(2)

    @abstractmethod
    def start(self, random: np.random.Generator) -> None:
        """Draw this episode's goal and put the simulator in its first state."""

    @abstractmethod
    def observe(self) -> FloatVector:
        """Return the simulator's state as D4RL's observation, (S,)."""

    @abstractmethod
    def convert_action(self, action: FloatVector) -> FloatVector:
        """Convert D4RL's action to the environment's."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatVector, dict[str, Any]]:
        """Start an episode as D4RL does; with a seed it is a function of it."""
        self.env.reset(seed=seed, options=options)
        self.start(self.simulator.np_random)
        observation = self.observe()
        return observation, {"success": self._is_reached(observation)}

    def step(self, action: FloatVector) -> tuple[FloatVector, float, bool, bool, dict[str, Any]]:
        """Take a step with D4RL's action; the reward is 1 where the goal is reached."""
        _, _, _, truncated, _ = self.env.step(self.convert_action(np.asarray(action)))
        observation = self.observe()
        reached = self._is_reached(observation)
        return observation, float(reached), reached and self.ends, truncated, {"success": reached}

    def _is_reached(self, observation: FloatVector) -> bool:
        return bool(np.linalg.norm(observation[:2] - self.goal) <= RADIUS)
