"""D4RL's kitchen: what is complete, what is paid, and the official file replayed."""

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from support.data import find_real_file
from vdt.config.errors import ConfigError
from vdt.environments import Environment, make_environment
from vdt.environments.kitchen import find_completed, relabel
from vdt.experiments.resolve import resolve_config

ENV = "kitchen-complete-v0"
FILE = "d4rl/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"
LIGHT, SLIDE, MICROWAVE = slice(17, 19), slice(19, 20), slice(22, 23)
QUIET = (  # no noise, and one step more than the longest recording
    "task.horizon=208 task.environment_kwargs='{tasks_to_complete: [microwave, kettle, light switch, slide cabinet], "
    "terminate_on_tasks_completed: false, robot_noise_ratio: 0, object_noise_ratio: 0}'"
)


@pytest.fixture
def quiet() -> Environment:
    return make_environment(resolve_config(ENV, overrides=QUIET).task)


def make_observations(steps: int) -> npt.NDArray[np.float32]:
    """Two sub-tasks, nothing done: the light, whose goal is (-0.69, -0.05), and the sliding cabinet, 0.37."""
    observations = np.zeros((steps, 60), np.float32)
    observations[:, 47:49], observations[:, 49] = (-0.69, -0.05), 0.37
    return observations


def test_near_is_below_a_distance_of_0_3() -> None:
    observations = make_observations(3)
    observations[:, SLIDE] = np.array([[0.0], [0.071], [0.66]])  # 0.37, 0.299 and 0.29 away
    assert find_completed(observations).tolist() == [[False, False], [False, True], [False, True]]


def test_each_subtask_pays_once_even_if_it_is_undone() -> None:
    observations = make_observations(6)
    observations[[1, 3, 4, 5], SLIDE] = 0.37  # done, undone, done again
    observations[4:, LIGHT] = (-0.69, -0.05)
    rewards, ended = relabel(observations)
    assert rewards.tolist() == [1, 0, 0, 1, 0] and ended
    assert relabel(observations[:4])[1] is False
    rewards, ended = relabel(observations[1:])  # what is done at the start is not paid
    assert rewards.tolist() == [0, 0, 1, 0] and ended


def test_layout_of_the_observation() -> None:
    environment = make_environment(resolve_config(ENV).task)
    seen = np.array([environment.reset(seed=seed)[0] for seed in range(30)])
    assert seen.shape[1:] == environment.observation_space.shape == (60,)
    error = np.abs(seen[:, :30] - environment.unwrapped.data.qpos).max(axis=0)  # type: ignore[attr-defined]
    limits = np.array([1e-2] * 9 + [5e-4] * 2 + [5e-5] * 6 + [5e-4] * 3 + [1e-2] * 3 + [5e-4] * 3 + [1e-2] * 3 + [5e-4])
    assert (error <= limits).all() and (error > limits / 2).all()
    assert np.flatnonzero(seen[0, 30:]).tolist() == [17, 18, 19, 22, 23, 24, 25, 26, 29]  # no burner, no hinge
    assert (environment.reset(seed=3)[0] == seen[3]).all()


def test_official_recordings_begin_where_the_environment_does() -> None:
    observations, _, _, episodes = read_official()
    first = np.array([observations[rows][0] for rows in episodes])
    given = make_environment(resolve_config(ENV).task).reset(seed=0)[0]
    spread = np.array([0.3] * 9 + [2e-3] * 2 + [2e-4] * 6 + [2e-3] * 3 + [3e-2] * 3 + [2e-3] * 3 + [3e-2] * 3 + [2e-3])
    assert (np.abs(first[:, :30] - given[:30]) < spread).all()  # objects: twice the noise, with their place at rest
    np.testing.assert_allclose(first[:, 30:], np.tile(given[30:], (19, 1)), atol=1e-6)


def put(environment: Environment, part: slice, place: object) -> None:
    """Move objects, at rest."""
    robot = environment.unwrapped.robot_env  # type: ignore[attr-defined]
    positions = robot.data.qpos.copy()
    positions[part] = place
    robot.set_state(positions, np.zeros(29))


def test_the_environment_pays_and_ends_like_d4rl(quiet: Environment) -> None:
    quiet.reset(seed=0)
    still, paid = np.zeros(9), []
    for part, place in ((MICROWAVE, -0.75), (MICROWAVE, 0), (MICROWAVE, -0.75), (LIGHT, (-0.69, -0.05)), (SLIDE, 0.37)):
        put(quiet, part, place)
        _, reward, terminated, truncated, info = quiet.step(still)
        paid.append(reward)
        assert not terminated and not truncated and info["success"] is False
    assert paid == [1, 0, 0, 1, 1] and info["completed"] == 3
    put(quiet, slice(23, 30), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06))
    _, reward, terminated, _, info = quiet.step(still)
    assert (reward, terminated, info["success"], info["completed"]) == (1, True, True, 4)
    quiet.reset(seed=0)
    assert quiet.step(still)[4]["completed"] == 0


def test_the_time_limit_is_no_end() -> None:
    environment = make_environment(resolve_config(ENV, overrides="task.horizon=2").task)
    environment.reset(seed=0)
    ends = [environment.step(np.zeros(9))[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)]


def test_a_simulator_that_forgets_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"planner.env_model is simulator, but .* bridge .*; accepted are learned, none"
    ):
        resolve_config(ENV, overrides="planner.env_model=simulator")


def read_official() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32], npt.NDArray[np.float32], list[slice]]:
    """Observations, actions, rewards, and the rows of each episode."""
    with h5py.File(find_real_file(FILE)) as file:
        observations, actions, rewards = (file[name][()] for name in ("observations", "actions", "rewards"))
        ends = np.flatnonzero(file["terminals"][()]) + 1
    return observations.astype(float), actions, rewards, [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]


def test_official_rewards_are_counts_of_what_is_complete() -> None:
    observations, _, rewards, episodes = read_official()
    assert (find_completed(observations).sum(axis=-1) == rewards).all()
    for rows in episodes:
        paid, ended = relabel(observations[rows])
        assert paid.sum() == 4 and paid.max() == 1 and ended


def test_official_actions_complete_subtasks_open_loop(quiet: Environment) -> None:
    """From the recorded positions; their velocities are not in the file. In 19 episodes 2.7 of 4; 1.5 with D4RL's noise."""
    observations, actions, _, episodes = read_official()
    robot, completed = quiet.unwrapped.robot_env, []  # type: ignore[attr-defined]
    for rows in episodes[:4]:
        quiet.reset(seed=0)
        robot.set_state(observations[rows][0, :30], np.zeros(29))
        robot._last_robot_qpos = observations[rows][0, :9]
        for action in actions[rows]:
            _, _, ended, _, info = quiet.step(action)
            if ended:
                break
        completed.append(info["completed"])
    assert sum(completed) >= 12, completed
