"""Environment models (M6): they predict the next observation and reward of imagined steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from vdt.data.normalization import RETURN_SCALE_UNITS, Normalizer, RewardStatistics
from vdt.planning.imagination import Imagination

STEPS_BEFORE = 3  # before the step that is compared


class EnvModel(Protocol):
    """Model that predicts one step for all candidates of all episodes together."""

    def begin(self, environments: Sequence[Any], candidates: int) -> None:
        """Prepare for the episodes' present states; candidates of one episode are adjacent."""

    def predict(self, imagination: Imagination) -> tuple[Tensor, Tensor, Tensor]:
        """Take the proposed actions.

        Returns:
            Next observations (C, S) normalised, rewards (C,) by the return scale, 1 where it goes on else 0 (C,).
        """


class LearnedModel:
    """Model from the policy's own next-observation and reward heads."""

    def __init__(self, reward_statistics: RewardStatistics = RETURN_SCALE_UNITS) -> None:
        """Read the reward head in units of `reward_statistics`."""
        self.reward_statistics = reward_statistics

    def begin(self, environments: Sequence[Any], candidates: int) -> None:
        """Do nothing: no state to prepare."""

    def predict(self, imagination: Imagination) -> tuple[Tensor, Tensor, Tensor]:
        """Predict by the policy's heads, which predict no ends."""
        observations, rewards = imagination.step()
        return observations, self.reward_statistics.restore(rewards), torch.ones_like(rewards)


def get_simulator_state(environment: Any) -> Any:
    """Return the state of a MuJoCo simulator, all that its next steps depend on."""
    import mujoco
    import numpy as np

    inner, what = environment.unwrapped, mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(inner.model, what))
    mujoco.mj_getState(inner.model, inner.data, state, what)
    return state


def set_simulator_state(environment: Any, state: Any) -> None:
    """Put a MuJoCo simulator into a state of `get_simulator_state`, of another of the same kind too."""
    import mujoco

    inner = environment.unwrapped
    mujoco.mj_setState(inner.model, inner.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(inner.model, inner.data)


def find_difference(environment: Any, scratch: Any) -> str:
    """Return how a step of `scratch` from a copied state differs from the step of `environment`; empty where it does not.

    Both are of one kind and are reset here, to different seeds: what the state of MuJoCo does not hold, as a goal, then
    differs.
    """
    import numpy as np

    from vdt.environments import get_action_bounds

    if not hasattr(environment.unwrapped, "model") or not hasattr(environment.unwrapped, "data"):
        return "is no MuJoCo simulator, whose state could be copied"
    low, high = get_action_bounds(environment)
    actions = np.random.default_rng(0).uniform(low, high, (STEPS_BEFORE + 1, len(low))).astype(np.float32)
    environment.reset(seed=0)
    scratch.reset(seed=1)
    for action in actions[:-1]:
        environment.step(action)
    set_simulator_state(scratch, get_simulator_state(environment))
    copied, real = scratch.step(actions[-1]), environment.step(actions[-1])
    equal = np.allclose(copied[0], real[0], atol=1e-5) and np.isclose(copied[1], real[1], atol=1e-5)
    return "" if equal and copied[2] == real[2] else "remembers what a copy of its MuJoCo state lacks"


class SimulatorModel:
    """The true MuJoCo simulator as an oracle, for ablation only: its steps cost environment steps.

    Each candidate starts from the state its episode is in **now**; the acting environments are left untouched.
    """

    def __init__(self, scratch: Any, normalizer: Normalizer, return_scale: float) -> None:
        """Use `scratch`, an environment of the same kind without another user."""
        self.scratch = scratch
        self.scratch.reset()
        self.normalizer = normalizer
        self.return_scale = return_scale
        self.environment_steps = 0
        self.states: list[Any] = []
        self.alive: list[bool] = []

    def begin(self, environments: Sequence[Any], candidates: int) -> None:
        """Copy the present state of every episode's environment, once per candidate."""
        self.states = [get_simulator_state(e) for e in environments for _ in range(candidates)]
        self.alive = [True] * len(self.states)

    def predict(self, imagination: Imagination) -> tuple[Tensor, Tensor, Tensor]:
        """Step the scratch environment once from each candidate's state."""
        actions = imagination.actions.double().cpu().numpy()
        imagination.step()  # the policy stores its action; its own prediction is not used
        observations = imagination.observations.clone()
        rewards = observations.new_zeros(len(self.states))
        for k, state in enumerate(self.states):
            if not self.alive[k]:
                continue
            set_simulator_state(self.scratch, state)
            observation, reward, terminated, _, _ = self.scratch.step(actions[k])
            self.environment_steps += 1
            self.states[k], self.alive[k] = get_simulator_state(self.scratch), not terminated
            observations[k] = self.normalizer.normalize(
                torch.as_tensor(observation, dtype=torch.float32).to(observations)
            )
            rewards[k] = float(reward) / self.return_scale
        return observations, rewards, torch.tensor(self.alive, dtype=torch.float32, device=observations.device)
