"""The controller that stands in for D4RL's maze data: ways by pencil, one walk without end, the same for a seed."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.data import make_data_config
from vdt.behavior.waypoints import Roads, collect_walk
from vdt.data.errors import DataError
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.collected import find_collection
from vdt.datasets.snapshot import make_snapshot
from vdt.environments import Environment, make_environment
from vdt.experiments.resolve import resolve_config

ENV = "maze2d-umaze-v1"


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    task = resolve_config(ENV).task
    made = make_environment(dataclasses.replace(task, horizon=100_000))
    yield made
    made.close()


def walk(environment: Environment, steps: int = 900, seed: int = 0) -> TrajectoryDataset:
    return collect_walk(environment, steps=steps, horizon=300, seed=seed)


def test_ways_are_shortest(environment: Environment) -> None:
    roads = Roads(environment.get_wrapper_attr("layout"))
    goal, end = roads.find_cell(np.array([1.0, 1.0])), roads.find_cell(np.array([3.2, 0.9]))
    places = roads.cells[roads.find_way(end, goal)].tolist()
    assert places == [[3, 2], [3, 3], [2, 3], [1, 3], [1, 2], [1, 1]]
    assert roads.find_way(goal, goal) == [goal]


def test_one_walk_cut_at_true_final_observations(environment: Environment) -> None:
    dataset = walk(environment)
    assert dataset.lengths.tolist() == [300, 300, 300] and not dataset.terminated.any()
    for one, following in zip(list(dataset)[:-1], list(dataset)[1:], strict=True):
        assert np.array_equal(one.observations[-1], following.observations[0])
    for episode in dataset:
        near = np.linalg.norm(episode.observations[1:, :2] - 1.0, axis=1) <= 0.5
        assert np.array_equal(episode.rewards, near)
    assert np.abs(dataset.actions).max() == 1.0
    cells = {tuple(cell) for cell in np.round(dataset.observations[:, :2]).astype(int).tolist()}
    assert {(1, 1), (1, 3), (2, 3), (3, 3), (3, 1)} <= cells  # everywhere, not only at the task's goal


def test_walk_is_a_function_of_its_seed(environment: Environment) -> None:
    first, again, longer, other = (walk(environment, n, seed) for n, seed in ((600, 0), (600, 0), (900, 0), (600, 1)))
    assert np.array_equal(first.observations, again.observations) and np.array_equal(first.actions, again.actions)
    assert np.array_equal(longer.observations[: len(first.observations)], first.observations)
    assert not np.array_equal(first.observations[0], other.observations[0])


def test_snapshot_is_labelled_and_the_same_twice(tmp_path: Path) -> None:
    config = make_data_config("collected", env=ENV, data__steps=600)
    first, second = (make_snapshot(config, tmp_path / name) for name in ("one", "two"))
    assert (first.source, first.md5) == ("collected", second.md5)
    assert first.card["recipe"]["controller"] == "waypoints" and first.card["recipe"]["bridge"] == "maze2d"
    assert "not the D4RL data set" in first.card["notes"][0] and first.card["episodes"] == 2


def test_no_maze_no_walk() -> None:
    config = make_data_config("collected", task__collected__controller="waypoints")
    collection = find_collection(config)
    assert collection is not None
    with pytest.raises(
        DataError, match=r"controller is 'waypoints', but Walker2d-v4 with task.bridge 'none' is no maze"
    ):
        collection.load()
