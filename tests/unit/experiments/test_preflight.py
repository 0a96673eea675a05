"""An environment that cannot be used is refused before any work, and not at its first episode."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest

from vdt.config.errors import ConfigError
from vdt.config.schema import Config
from vdt.environments import make_environment
from vdt.experiments.cells import resolve_cells
from vdt.experiments.preflight import check_cells
from vdt.experiments.study import Cell

ENV = "walker2d-medium-v2"
NAME = "Faulty-v0"


class FaultyEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Environment of Walker2d's sizes with one fault."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (17,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)
    made = closed = 0

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        FaultyEnv.made += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.fault == "no file":
            raise FileNotFoundError("assets/robot.xml")
        size = 16 if self.fault == "short reset" else 17
        return np.zeros(size), {}

    def step(self, action: np.ndarray) -> Any:
        if self.fault == "four":
            return np.zeros(17), 0.0, False, {}
        if self.fault == "short step":
            return np.zeros(16), 0.0, False, False, {}
        observation = np.full(17, np.nan if self.fault == "nan" else 0.0)
        return observation, np.nan if self.fault == "nan reward" else 0.0, False, False, {}

    def close(self) -> None:
        FaultyEnv.closed += 1


gymnasium.register(NAME, entry_point=FaultyEnv, max_episode_steps=5, disable_env_checker=True)


def make_cells(fault: str) -> list[Cell]:
    chosen = f"task.environment_id={NAME} task.environment_kwargs='{json.dumps({'fault': fault})}'"
    cells, _ = resolve_cells({"env": ENV, "source": "collected", "set": chosen})
    return cells


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of Gymnasium's own checker
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no file", "(FileNotFoundError: assets/robot.xml)"),
        ("four", "(not enough values to unpack (expected 5, got 4))"),
        ("short reset", "(reset gives an observation of shape (16,), not (17,))"),
        ("short step", "(step gives an observation of shape (16,), not (17,))"),
        ("nan", "(step gives an observation that is not finite)"),
        ("nan reward", "(step gives a reward that is not finite)"),
    ],
)
def test_an_environment_is_reset_and_stepped_before_any_work(fault: str, said: str) -> None:
    FaultyEnv.made = FaultyEnv.closed = 0
    with pytest.raises(ConfigError) as caught:
        check_cells(make_cells(fault))
    assert f"its environment {NAME} cannot be reset and stepped here {said}" in str(caught.value)
    assert (FaultyEnv.made, FaultyEnv.closed) == (1, 1)


def test_a_sound_environment_is_accepted() -> None:
    check_cells(make_cells("none"))
    config: Config = make_cells("none")[0].config
    assert make_environment(config.task).reset(seed=0)[0].shape == (17,)
