"""The simulator as environment model: starts from now, disturbs nothing, counts its steps."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from vdt.config.errors import ConfigError
from vdt.data.normalization import Normalizer
from vdt.environments import Environment, get_action_bounds, make_gymnasium_environment
from vdt.experiments.cells import resolve_cells
from vdt.experiments.preflight import check_cells
from vdt.planning.env_model import SimulatorModel, find_difference

KINDS = [("InvertedPendulum-v5", 4, 1), ("Walker2d-v4", 17, 6)]


def start(kind: str, seed: int = 5, steps: int = 7) -> tuple[Environment, np.ndarray]:
    """An environment in the middle of an episode."""
    environment = make_gymnasium_environment(kind, 1000)
    observation, _ = environment.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        observation, _, terminated, _, _ = environment.step(0.2 * rng.standard_normal(environment.action_space.shape))
        assert not terminated
    return environment, observation


class FixedImagination:
    """Proposes given actions at given observations, normalised by (o - 1) / 2."""

    def __init__(self, observations: list[np.ndarray], actions: np.ndarray) -> None:
        self.observations = (torch.tensor(np.array(observations), dtype=torch.float32) - 1) / 2
        self.actions = torch.tensor(actions, dtype=torch.float32)
        self.taken = 0

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.taken += 1
        return self.observations, torch.zeros(len(self.actions))

    def advance(self, observations: torch.Tensor, rewards: torch.Tensor) -> None:
        raise AssertionError("the planner's business")


def make_model(kind: str, size: int) -> SimulatorModel:
    normalizer = Normalizer(torch.ones(size), torch.full((size,), 2.0))
    return SimulatorModel(make_gymnasium_environment(kind, 1000), normalizer, return_scale=10.0)


@pytest.mark.parametrize(("kind", "size", "width"), KINDS)
def test_simulator_foresees_what_the_environment_does(kind: str, size: int, width: int) -> None:
    first, one = start(kind, seed=5)
    second, two = start(kind, seed=6, steps=3)
    model = make_model(kind, size)
    rng = np.random.default_rng(0)
    actions = 0.3 * rng.standard_normal((4, width))  # two candidates each
    model.begin([first, second], 2)
    present = FixedImagination([one, one, two, two], actions)
    foreseen, rewards, alive = model.predict(present)
    assert present.taken == 1  # the policy remembers its action
    further = FixedImagination([one, one, two, two], -actions)
    foreseen_later, rewards_later, _ = model.predict(further)
    assert alive.tolist() == [1] * 4 and model.environment_steps == 8
    # now the acting environments really take the second candidate's two actions
    for k, environment in ((1, first), (3, second)):
        for action, seen, reward in ((actions, foreseen, rewards), (-actions, foreseen_later, rewards_later)):
            observation, paid, _, _, _ = environment.step(np.float32(action[k]).astype(np.float64))
            np.testing.assert_allclose(seen[k] * 2 + 1, observation, atol=1e-5, rtol=1e-4)
            assert float(reward[k]) * 10 == pytest.approx(float(paid), rel=1e-4)
    assert not torch.allclose(foreseen[0], foreseen[1])  # candidates differ by their action
    first.close(), second.close()


@pytest.mark.parametrize(("kind", "size", "width"), KINDS)
def test_acting_environments_are_left_untouched(kind: str, size: int, width: int) -> None:
    environment, observation = start(kind)
    data = environment.unwrapped.data  # type: ignore[attr-defined]
    before = [np.copy(a) for a in (data.qpos, data.qvel, data.ctrl, data.qacc_warmstart, [data.time])]
    model = make_model(kind, size)
    model.begin([environment], 3)
    for _ in range(4):
        model.predict(FixedImagination([observation] * 3, np.full((3, width), 0.4)))
    for old, new in zip(before, (data.qpos, data.qvel, data.ctrl, data.qacc_warmstart, [data.time]), strict=True):
        assert (old == np.asarray(new)).all()
    environment.close()


def test_simulator_starts_anew_from_the_present_at_each_decision() -> None:
    environment, observation = start("InvertedPendulum-v5", steps=2)
    model = make_model("InvertedPendulum-v5", 4)
    action = np.full((1, 1), 0.5)
    model.begin([environment], 1)
    earlier, _, _ = model.predict(FixedImagination([observation], action))
    for _ in range(3):
        observation = environment.step(np.array([0.5]))[0]
    model.begin([environment], 1)
    later, _, _ = model.predict(FixedImagination([observation], action))
    np.testing.assert_allclose(later[0] * 2 + 1, environment.step(np.array([0.5]))[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(earlier, later, atol=1e-3)


def test_a_fallen_candidate_is_stepped_no_more() -> None:
    environment, observation = start("InvertedPendulum-v5", steps=1)
    model = make_model("InvertedPendulum-v5", 4)
    model.begin([environment], 2)
    _, high = get_action_bounds(environment)
    actions = np.array([[high[0]], [0.0]])  # full push, and none
    alive = torch.ones(2)
    steps = 0
    while alive[0]:
        before = model.environment_steps
        _, _, alive = model.predict(FixedImagination([observation] * 2, actions))
        assert model.environment_steps == before + 2
        steps += 1
        assert steps < 30
    assert alive.tolist() == [0, 1]
    counted = model.environment_steps
    seen, rewards, alive = model.predict(FixedImagination([observation] * 2, actions))
    assert model.environment_steps == counted + 1 and alive.tolist() == [0, 1]
    assert float(rewards[0]) == 0 and torch.equal(seen[0], FixedImagination([observation], actions[:1]).observations[0])
    environment.close()


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("Walker2d-v4", ""),
        ("PointMaze_UMaze-v3", "remembers what a copy of its MuJoCo state lacks"),
        ("Pendulum-v1", "is no MuJoCo simulator"),
    ],
)
def test_a_copy_that_steps_differently_is_found(kind: str, found: str) -> None:
    said = find_difference(make_gymnasium_environment(kind, 100), make_gymnasium_environment(kind, 100))
    assert said.startswith(found) and bool(said) == bool(found)


def test_the_simulator_of_another_kind_is_refused_before_any_work(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(2):
        np.savez(
            tmp_path / f"{k}.npz",
            observations=rng.normal(size=(5, 3)).astype(np.float32),
            actions=rng.uniform(-2, 2, (4, 1)).astype(np.float32),
            rewards=np.zeros(4, np.float32),
            terminated=False,
        )
    settings = "task.environment_id=Pendulum-v1 planner.candidates=2 planner.planning_horizon=2 planner.env_model="
    for model in ("learned", "simulator"):
        cells, _ = resolve_cells({"env": f"data:{tmp_path}", "preset": "smoke", "set": settings + model})
        with pytest.raises(ConfigError, match="Pendulum-v1 is no MuJoCo") if model == "simulator" else nullcontext():
            check_cells(cells)
