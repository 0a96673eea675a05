"""Point-maze data by D4RL's recipe: one endless walk from goal to goal, along the cells of the shortest path."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from vdt.data.gathering import gather_trajectories
from vdt.data.residence import MEMORY, Residence
from vdt.data.trajectory import FloatArray, Trajectory, TrajectoryDataset
from vdt.environments import Environment
from vdt.environments.maze import Layout

NEAR = 0.1  # a waypoint is reached within this distance
POSITION_GAIN, VELOCITY_GAIN = 10.0, -1.0
SPREAD = 0.2  # intermediate waypoints lie up to this far before their cell's place, in both components


class Roads:
    """Free cells of a maze and the shortest paths between them.

    Attributes:
        cells: places, (F, 2).
        neighbours: of each cell, those that share a side with it.
    """

    def __init__(self, layout: Layout) -> None:
        self.cells = layout.cells
        apart = np.abs(self.cells[:, None] - self.cells[None]).sum(axis=-1)
        self.neighbours = [np.flatnonzero(np.isclose(row, layout.size)).tolist() for row in apart]

    def find_cell(self, position: npt.NDArray[np.floating]) -> int:
        """Return the free cell whose place is nearest."""
        return int(np.argmin(((self.cells - position) ** 2).sum(axis=1)))

    def find_way(self, start: int, goal: int) -> list[int]:
        """Return the cells after `start` up to and including `goal`, breadth first; `[goal]` where they are the same."""
        after = {goal: goal}
        pending = deque([goal])
        while pending and start not in after:
            cell = pending.popleft()
            for near in self.neighbours[cell]:
                if near not in after:
                    after[near] = cell
                    pending.append(near)
        way = [after[start]]
        while way[-1] != goal:
            way.append(after[way[-1]])
        return way


class WaypointController:
    """Proportional-derivative controller towards the next waypoint; a new goal on arrival, or after `patience` steps."""

    def __init__(self, layout: Layout, patience: int, random: np.random.Generator) -> None:
        self.roads, self.patience, self.random = Roads(layout), patience, random
        self.waypoints: deque[tuple[float, float]] = deque()
        self.age = 0

    def act(self, observation: npt.NDArray[np.floating]) -> tuple[float, float]:
        """Return the action, in [-1, 1], for (x, y, vx, vy)."""
        x, y, speed_x, speed_y = map(float, observation)
        if not self.waypoints or self.age > self.patience:
            self._draw_goal(observation[:2])
        self.age += 1
        to_x, to_y = self.waypoints[0][0] - x, self.waypoints[0][1] - y
        if to_x * to_x + to_y * to_y < NEAR * NEAR:
            self.waypoints.popleft()
        return (
            min(1.0, max(-1.0, POSITION_GAIN * to_x + VELOCITY_GAIN * speed_x)),
            min(1.0, max(-1.0, POSITION_GAIN * to_y + VELOCITY_GAIN * speed_y)),
        )

    def _draw_goal(self, position: npt.NDArray[np.floating]) -> None:
        goal = int(self.random.integers(len(self.roads.cells)))
        way = self.roads.cells[self.roads.find_way(self.roads.find_cell(position), goal)]
        way[:-1] -= SPREAD * self.random.random((len(way) - 1, 2))
        self.waypoints, self.age = deque((float(x), float(y)) for x, y in way), 0


def collect_walk(
    environment: Environment,
    *,
    steps: int,
    horizon: int,
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
    residence: Residence = MEMORY,
) -> TrajectoryDataset:
    """Walk once, and cut the walk into episodes of `horizon` steps, truncated, never ended, with true final observations.

    Args:
        environment: a maze that never ends, whose time limit is beyond the walk; its rewards are those of its fixed goal.
        steps: at least this many, in whole episodes.
        horizon: steps of an episode.
        seed: the walk is a function of it; with more steps the same walk goes on.
        advance: called with the number of steps taken since the last call.
        residence: of the arrays.
    """
    sequence = np.random.SeedSequence([seed])
    controller = WaypointController(
        environment.get_wrapper_attr("layout"), horizon, np.random.default_rng(sequence.spawn(1)[0])
    )
    first = environment.reset(seed=int(sequence.generate_state(1)[0]))[0]

    def walk() -> Iterator[Trajectory]:
        now = np.asarray(first, np.float32)
        for _ in range(-(-steps // horizon)):
            episode = _walk_on(environment, controller, now, horizon)
            now = episode.observations[-1]
            yield episode
            advance(horizon)

    return gather_trajectories(walk(), residence)


def _walk_on(
    environment: Environment, controller: WaypointController, observation: FloatArray, steps: int
) -> Trajectory:
    """Return the next `steps` steps of a walk that has arrived at `observation` (4,)."""
    observations = np.empty((steps + 1, 4), np.float32)
    actions, rewards = np.empty((steps, 2), np.float32), np.empty(steps, np.float32)
    observations[0] = observation
    for row in range(steps):
        actions[row] = controller.act(observations[row])
        observations[row + 1], rewards[row] = environment.step(actions[row])[:2]
    return Trajectory(observations, actions, rewards, False)
