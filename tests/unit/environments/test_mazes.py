"""D4RL's mazes: steps against D4RL's own models written down again, goals and rewards by pencil, and an ant that gets there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from reference.mazes import MEDIUM, UMAZE, AntMaze, PointMaze
from support.ant import WaypointAnt
from support.data import find_real_file
from vdt.environments import Environment, make_environment
from vdt.environments.rollout import collect_trajectories
from vdt.experiments.resolve import resolve_config

POINT_MAZES = {"maze2d-umaze-v1": (UMAZE, (1, 1), 300), "maze2d-medium-v1": (MEDIUM, (6, 6), 600)}
ANT_MAZES = {
    "antmaze-umaze-v0": (UMAZE, (0, 8), 700),
    "antmaze-umaze-diverse-v0": (UMAZE, (0, 8), 700),
    "antmaze-medium-diverse-v0": (MEDIUM, (20, 20), 1000),
}


def make(name: str, overrides: str = "") -> Environment:
    return make_environment(resolve_config(name, overrides=overrides).task)


def put(environment: Environment, x: float, y: float) -> None:
    """Let the point mass stand still at a place in D4RL's coordinates."""
    inner: Any = environment.unwrapped
    rows, columns = len(inner.maze.maze_map), len(inner.maze.maze_map[0])
    inner.point_env.set_state(np.array([y + 0.7 - columns / 2, rows / 2 - x - 0.7]), np.zeros(2))


@pytest.mark.parametrize("name", POINT_MAZES)
def test_point_maze_steps_are_those_of_d4rls_model(name: str) -> None:
    maze, goal, _ = POINT_MAZES[name]
    environment, model, rng = make(name), PointMaze(maze), np.random.default_rng(0)
    worst, touched, paid = 0.0, 0, 0.0
    for episode in range(5):
        observation, _ = environment.reset(seed=episode)
        for action in np.repeat(rng.uniform(-1.0, 1.0, (20, 2)), 15, axis=0):
            expected, touches = model.step(observation, action)
            observation, reward, terminated, _, info = environment.step(action)
            worst, touched = max(worst, float(np.abs(observation - expected).max())), touched + touches
            assert reward == (np.hypot(*(expected[:2] - goal)) <= 0.5) == info["success"] and not terminated
            paid += float(reward)
    assert worst < 1e-4
    assert touched > 200 and paid > 0  # walls and the goal were part of it


def test_point_maze_pays_within_half_a_unit_of_the_goal() -> None:
    environment, still = make("maze2d-umaze-v1"), np.zeros(2)
    environment.reset(seed=0)
    for x, y, reward in ((1.0, 1.49, 1.0), (1.0, 1.51, 0.0), (1.15, 1.47, 1.0), (1.15, 1.49, 0.0), (3.0, 1.0, 0.0)):
        put(environment, x, y)
        observation, paid, terminated, _, info = environment.step(still)
        assert observation == pytest.approx([x, y, 0.0, 0.0], abs=1e-9)
        assert (paid, terminated, info["success"]) == (reward, False, reward > 0)


@pytest.mark.parametrize("name", POINT_MAZES)
def test_point_maze_starts_in_any_free_cell_and_runs_to_the_horizon(name: str) -> None:
    maze, _, horizon = POINT_MAZES[name]
    environment = make(name)
    free = {(i, j) for i, line in enumerate(maze) for j, what in enumerate(line) if what != "#"}
    starts = np.array([environment.reset(seed=seed)[0] for seed in range(200)])
    cells = np.round(starts[:, :2])
    assert {(int(x), int(y)) for x, y in cells} == free
    assert np.abs(starts[:, :2] - cells).max() <= 0.1 and starts[:, 2:].std() == pytest.approx(0.1, rel=0.2)
    assert np.array_equal(environment.reset(seed=7)[0], starts[7])
    ends = [environment.step(np.ones(2))[2:4] for _ in range(horizon)]
    assert ends == [(False, False)] * (horizon - 1) + [(False, True)]


def test_a_maze_without_goal_or_no_maze_is_refused() -> None:
    for overrides, message in (
        ("task.environment_kwargs='{maze_map: [[1,1,1],[1,0,1],[1,1,1]]}'", "has 0 goals; accepted is one cell"),
        ("task.environment_id=Hopper-v4 task.environment_kwargs='{}'", "is no maze of Gymnasium-Robotics"),
    ):
        with pytest.raises(ValueError, match=message):
            make("maze2d-umaze-v1", overrides)


@pytest.mark.parametrize("name", ["antmaze-umaze-v0", "antmaze-medium-diverse-v0"])
def test_ant_maze_steps_are_those_of_d4rls_model(name: str) -> None:
    environment, model, rng = make(name), AntMaze(ANT_MAZES[name][0]), np.random.default_rng(0)
    inner: Any = environment.unwrapped
    worst, touched = 0.0, 0
    for cell in (0, 3, 4):
        environment.reset(seed=cell)
        corner = environment.get_wrapper_attr("layout").cells[cell] + (-1.2, 1.2)  # where legs touch walls
        positions = inner.data.qpos.copy()
        positions[:2] += corner - environment.get_wrapper_attr("observe")()[:2]
        inner.ant_env.set_state(positions, inner.data.qvel.copy())
        observation = environment.get_wrapper_attr("observe")()
        for _ in range(40):
            action = rng.uniform(-1.2, 1.2, 8)
            expected, touches = model.step(observation, action)
            observation, *_ = environment.step(action)
            worst, touched = max(worst, float(np.abs(observation - expected).max())), touched + touches
    assert worst < 1e-4
    assert touched > 0


@pytest.mark.parametrize("name", ANT_MAZES)
def test_ant_maze_starts_at_the_origin_and_ends_at_its_goal(name: str) -> None:
    _, corner, horizon = ANT_MAZES[name]
    environment = make(name)
    starts, goals = [], []
    for seed in range(50):
        starts.append(environment.reset(seed=seed)[0])
        goals.append(environment.get_wrapper_attr("goal"))
    assert np.abs(np.array(starts)[:, :2]).max() <= 0.1
    drawn = np.array(goals) - corner
    assert 0.0 <= drawn.min() < 0.3 and 1.2 < drawn.max() <= 1.5 and drawn.mean() == pytest.approx(0.75, abs=0.1)
    observation, info = environment.reset(seed=7)
    assert np.array_equal(observation, starts[7]) and observation.shape == (29,) and not info["success"]
    inner: Any = environment.unwrapped
    for away, ends in ((0.6, False), (0.4, True)):
        positions = inner.data.qpos.copy()
        positions[:2] += (
            environment.get_wrapper_attr("goal")
            + np.array([-away, 0.0])
            - environment.get_wrapper_attr("observe")()[:2]
        )
        inner.ant_env.set_state(positions, np.zeros(14))
        _, reward, terminated, truncated, info = environment.step(np.zeros(8))
        assert (reward, terminated, truncated, info["success"]) == (float(ends), ends, False, ends)
    environment.reset(seed=0)
    ends = [environment.step(np.zeros(8))[2:4] for _ in range(3)]
    assert ends == [(False, False)] * 3 and resolve_config(name).task.horizon == horizon


@pytest.mark.parametrize(("name", "least", "count"), [("antmaze-umaze-v0", 3, 4), ("antmaze-medium-diverse-v0", 2, 3)])
def test_the_goal_reaching_ant_gets_there(name: str, least: int, count: int) -> None:
    """More episodes: docs/method.md, section 6."""
    actor = WaypointAnt(find_real_file("policies/ant-goal-reaching.npz"))
    episodes = collect_trajectories(actor, [make(name) for _ in range(count)], range(count))
    reached: npt.NDArray[np.bool_] = np.array([episode.terminated for episode in episodes])
    assert reached.sum() >= least
    assert [episode.episode_return for episode in episodes] == reached.astype(float).tolist()
    assert [episode.success for episode in episodes] == reached.tolist()
