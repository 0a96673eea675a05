"""Bridge from Gymnasium-Robotics' PointMaze to D4RL's point mass in a maze.

D4RL's coordinates follow the map: x its rows, y its columns. D4RL puts its walls at i + 1 and the mass at 1.2, so a
wall at row i reaches from i - 0.7 to i + 0.3. Gymnasium-Robotics has x to the right, y upwards and the origin in the
middle. Masses, gears, damping, time step and wall contacts are the same.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from vdt.config.task import TaskConfig
from vdt.environments.maze import FloatVector, Layout, MazeBridge, read_map

SHIFT = 0.2  # of D4RL's positions against the centres of its cells
START_NOISE = 0.1  # half width of the start position's box, and standard deviation of the start velocity


def bridge(environment: gymnasium.Env[Any, Any], *, task: TaskConfig) -> gymnasium.Env[Any, Any]:
    """Wrap a PointMaze: observation (x, y, vx, vy); reward 1 for every step near the cell 'g'; never ends."""
    return PointBridge(environment)


class PointBridge(MazeBridge):
    """Wrapper that rotates the plane by a right angle and shifts it."""

    ends = False

    def __init__(self, environment: gymnasium.Env[Any, Any]) -> None:
        super().__init__(environment, 4)
        found = read_map(environment)
        walls = np.array(found["wall"], np.float64) - SHIFT
        self.layout = Layout(np.array(found["free"], np.float64), walls, 1.0, np.array(found["g"][0], np.float64))
        self.goal = self.layout.goal
        maze = self.simulator.maze
        self._middle = np.array([maze.y_map_center, maze.x_map_center]) - 0.5 - SHIFT

    def start(self, random: np.random.Generator) -> None:
        """Start in any free cell, goal included, as D4RL draws it."""
        cell = self.layout.cells[random.integers(len(self.layout.cells))]
        x, y = cell + random.uniform(-START_NOISE, START_NOISE, 2) - self._middle
        vx, vy = START_NOISE * random.standard_normal(2)
        self.simulator.point_env.set_state(np.array([y, -x]), np.array([vy, -vx]))

    def observe(self) -> FloatVector:
        """Return (x, y, vx, vy)."""
        data = self.simulator.data
        x, y = self._middle
        return np.array([x - data.qpos[1], y + data.qpos[0], -data.qvel[1], data.qvel[0]])

    def convert_action(self, action: FloatVector) -> FloatVector:
        """Rotate an action: (a0, a1) -> (a1, -a0)."""
        return np.array([action[1], -action[0]])
