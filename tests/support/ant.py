"""Ant behind D4RL's AntMaze data, of the shared test data: a walking network, led through the maze."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.behavior.waypoints import Roads
from vdt.data.trajectory import FloatArray


class WaypointAnt:
    """Policy that walks from cell to cell on the shortest path, each time to within `near` of the middle, at last to the goal.

    As in D4RL, actions are noisy and waypoints are drawn again at each step: without this, ants get stuck at corners.
    """

    def __init__(self, path: Path, *, near: float = 1.2, noise: float = 0.2, jitter: float = 0.7) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self.near, self.noise, self.jitter = near, noise, jitter
        self.ways: list[list[npt.NDArray[np.float64]]] = []

    def start(self, environments: Sequence[Any]) -> None:
        self.ways, self.rng = [], np.random.default_rng(0)
        for environment in environments:
            roads, goal = Roads(environment.get_wrapper_attr("layout")), environment.get_wrapper_attr("goal")
            cells = roads.find_way(
                roads.find_cell(environment.get_wrapper_attr("observe")()[:2]), roads.find_cell(goal)
            )
            self.ways.append([*(roads.cells[cell] for cell in cells[:-1]), goal])

    def act(self, observations: FloatArray) -> FloatArray:
        directions = np.stack([self.find_direction(o[:2], way) for o, way in zip(observations, self.ways, strict=True)])
        hidden = np.concatenate([observations[:, 2:], directions], axis=1)
        for layer in range(2):
            hidden = np.maximum(hidden @ self.arrays[f"w{layer}"] + self.arrays[f"b{layer}"], 0.0)
        actions = np.tanh(hidden @ self.arrays["w2"] + self.arrays["b2"])
        return np.asarray(actions + self.noise * self.rng.standard_normal(actions.shape), np.float32)

    def find_direction(self, position: FloatArray, way: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Return the direction to the next waypoint, scaled to the length 10, as in training."""
        while len(way) > 1 and np.linalg.norm(way[0] - position) < self.near:
            way.pop(0)
        towards = way[0] + self.jitter * self.rng.uniform(-1.0, 1.0, 2) - position
        return np.asarray(10.0 * towards / np.linalg.norm(towards))

    def observe(self, actions: FloatArray, rewards: FloatArray, active: npt.NDArray[np.bool_]) -> None:
        self.ways = [way for way, goes_on in zip(self.ways, active, strict=True) if goes_on]
