"""Rounded states: what the simulator goes on from, and what is observed and paid, are on the grid."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from vdt.environments import make_environment, make_gymnasium_environment
from vdt.environments.reproducible import round_states, round_to_grid
from vdt.experiments.resolve import resolve_config


def test_nearest_multiples() -> None:
    assert round_to_grid(np.array([0.3, -0.3, 0.125, 0.375]), 2).tolist() == [0.25, -0.25, 0.0, 0.5]


def is_on_grid(values: Any, bits: int) -> bool:
    scaled = np.asarray(values, np.float64) * 2.0**bits
    return np.array_equal(scaled, np.rint(scaled))


@pytest.mark.parametrize("env", ["walker2d-medium-v2", "maze2d-umaze-v1", "antmaze-umaze-v0"])
def test_states_are_rounded_before_they_are_observed(env: str) -> None:
    plain, rounded = (make_environment(resolve_config(env).task) for _ in range(2))
    round_states(rounded)
    random = np.random.default_rng(0)
    observations = [environment.reset(seed=0)[0] for environment in (plain, rounded)]
    data = rounded.get_wrapper_attr("data")
    for _ in range(8):
        np.testing.assert_allclose(observations[1], observations[0], rtol=0, atol=1e-3)
        assert is_on_grid(data.qpos, 20) and is_on_grid(data.qvel, 20) and is_on_grid(data.qacc_warmstart, 10)
        action = random.uniform(-1.0, 1.0, plain.action_space.shape)
        observations = [environment.step(action)[0] for environment in (plain, rounded)]
    if env.startswith("walker2d"):
        assert is_on_grid(observations[1], 20) and not is_on_grid(observations[0], 20)
    for environment in (plain, rounded):
        environment.close()


def test_other_environments_stay_as_they_are() -> None:
    environment = make_gymnasium_environment("Pendulum-v1", 10)
    one = environment.reset(seed=0)[0]
    assert round_states(environment) is environment
    assert isinstance(environment, gymnasium.Env) and np.array_equal(environment.reset(seed=0)[0], one)
    environment.close()
