"""Bridge from Gymnasium-Robotics' AntMaze (-v4: 27 + 2 observed numbers) to D4RL's ant in a maze.

The ant's bodies are the same. D4RL's time step is twice as long, its contacts are softer, and its torques reach 30
where Gymnasium's reach 150. D4RL's y grows with the map's rows, and its origin is the start. Gymnasium-Robotics' y
falls with the rows, so the task's `maze_map` is upside down. The two then differ by a shift only, and left stays left.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from vdt.config.task import TaskConfig
from vdt.environments.maze import FloatVector, Layout, MazeBridge, read_map

TIME_STEP = 0.02  # s, of the integrator; five of them are one environment step
CONTACT_IMPEDANCE = (0.8, 0.8, 0.01)  # MuJoCo's solimp of every geom
TORQUE = 0.2  # D4RL's largest torque, 30, as a share of Gymnasium's, 150
START_NOISE = 0.1  # half width for positions and joints, standard deviation for velocities
GOAL_NOISE = (0.25, 0.125)  # upper ends of the two uniform offsets that D4RL adds to the goal's cell, in cells


def bridge(environment: gymnasium.Env[Any, Any], *, task: TaskConfig) -> gymnasium.Env[Any, Any]:
    """Wrap an AntMaze: observation of 29, reward 1 and the end near a goal in the cell 'g'.

    The observation is position, height, orientation, joints, velocities.
    """
    return AntBridge(environment)


class AntBridge(MazeBridge):
    """Wrapper that sets D4RL's physics and shifts the plane so that the start is the origin."""

    def __init__(self, environment: gymnasium.Env[Any, Any]) -> None:
        super().__init__(environment, 29)
        found, maze = read_map(environment), self.simulator.maze
        if len(found["r"]) != 1:
            raise ValueError(
                f"task.environment_kwargs: maze_map has {len(found['r'])} starts; accepted is one cell that is 'r'"
            )
        size = float(maze.maze_size_scaling)
        self._start = maze.cell_rowcol_to_xy(np.array(found["r"][0]))
        cells, walls, (self._goal_cell,) = (
            np.array([maze.cell_rowcol_to_xy(np.array(cell)) - self._start for cell in found[what]])
            for what in ("free", "wall", "g")
        )
        self.layout = Layout(cells, walls, size, self._goal_cell + size * sum(GOAL_NOISE) / 2)
        model = self.simulator.model
        model.opt.timestep = TIME_STEP
        model.geom_solimp[:, :3] = CONTACT_IMPEDANCE

    def start(self, random: np.random.Generator) -> None:
        """Start in the cell 'r' with a goal in the cell 'g', which D4RL draws once for each environment."""
        ant = self.simulator.ant_env
        self.goal = self._goal_cell + sum(random.uniform(0.0, self.layout.size * width, 2) for width in GOAL_NOISE)
        positions = ant.model.qpos0 + random.uniform(-START_NOISE, START_NOISE, ant.model.nq)
        positions[:2] += self._start
        ant.set_state(positions, START_NOISE * random.standard_normal(ant.model.nv))

    def observe(self) -> FloatVector:
        """Return (x, y), height, orientation, 8 joints, 14 velocities."""
        data = self.simulator.data
        observation = np.concatenate([data.qpos, data.qvel])
        observation[:2] -= self._start
        return observation

    def convert_action(self, action: FloatVector) -> FloatVector:
        """Convert an action from a share of D4RL's largest torque to one of Gymnasium's."""
        return TORQUE * np.clip(action, -1.0, 1.0)
