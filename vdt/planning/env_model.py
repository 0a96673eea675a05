"""Imagined steps (M6): what the planner asks for the next observation and reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vdt.data.normalization import Normalizer


@dataclass(frozen=True)
class Sequences:
    """C imagined histories, one per candidate and episode; what `DecisionTransformer.forward` takes.

    Attributes:
        observations: (C, L, S), normalised.
        actions: (C, L, A).
        returns_to_go: (C, L), divided by the return scale.
        timesteps: (C, L) int64.
    """

    observations: Tensor
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor

    def with_last_action(self, actions: Tensor) -> Sequences:
        """Fill in the action of the last step, (C, A)."""
        filled = torch.cat([self.actions[:, :-1], actions[:, None]], 1)
        return Sequences(self.observations, filled, self.returns_to_go, self.timesteps)

    def append(self, observations: Tensor, rewards: Tensor, context_length: int) -> Sequences:
        """Begin the next step; the imagined return-to-go shrinks by the imagined reward (M6).

        Args:
            observations: (C, S).
            rewards: (C,) divided by the return scale.
            context_length: K, older steps are forgotten.
        """
        keep = max(0, self.observations.shape[1] + 1 - context_length)
        return Sequences(
            torch.cat([self.observations, observations[:, None]], 1)[:, keep:],
            torch.cat([self.actions, torch.zeros_like(self.actions[:, :1])], 1)[:, keep:],
            torch.cat([self.returns_to_go, (self.returns_to_go[:, -1] - rewards)[:, None]], 1)[:, keep:],
            torch.cat([self.timesteps, self.timesteps[:, -1:] + 1], 1)[:, keep:],
        )


class EnvModel(Protocol):
    """Predicts one step for all candidates of all episodes together."""

    def begin(self, environments: Sequence[Any], candidates: int) -> None:
        """Prepare for the episodes' present states; candidates of one episode stand next to each other."""

    def predict(self, sequences: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        """Next observations (C, S) normalised, rewards (C,) by the return scale, 1 where it goes on else 0 (C,)."""


class LearnedModel:
    """The policy's own next-observation and reward heads."""

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy

    def begin(self, environments: Sequence[Any], candidates: int) -> None:
        """Nothing to prepare."""

    def predict(self, sequences: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        """One forward of the policy; it knows no ends."""
        output = self.policy(sequences.observations, sequences.actions, sequences.returns_to_go, sequences.timesteps)
        rewards = output.rewards[:, -1]
        return output.next_observations[:, -1], rewards, torch.ones_like(rewards)


class SimulatorModel:
    """The true MuJoCo simulator as an oracle, for ablation only: its steps cost environment steps.

    Each candidate starts from the state its episode is in **now**; the acting environments are left untouched.
    """

    def __init__(self, scratch: Any, normalizer: Normalizer, return_scale: float) -> None:
        """`scratch` is an environment of the same kind that nobody else uses."""
        import mujoco

        self._mujoco = mujoco
        self._what = mujoco.mjtState.mjSTATE_INTEGRATION
        self.scratch = scratch
        self.scratch.reset()
        self.normalizer = normalizer
        self.return_scale = return_scale
        self.environment_steps = 0
        self.states: list[Any] = []
        self.alive: list[bool] = []

    def _get_state(self, environment: Any) -> Any:
        import numpy as np

        state = np.empty(self._mujoco.mj_stateSize(environment.unwrapped.model, self._what))
        self._mujoco.mj_getState(environment.unwrapped.model, environment.unwrapped.data, state, self._what)
        return state

    def begin(self, environments: Sequence[Any], candidates: int) -> None:
        """Copy the present state of every episode's environment, once per candidate."""
        self.states = [self._get_state(e) for e in environments for _ in range(candidates)]
        self.alive = [True] * len(self.states)

    def predict(self, sequences: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        """Step the scratch environment once from each candidate's state."""
        inner = self.scratch.unwrapped
        observations, rewards = (
            sequences.observations[:, -1].clone(),
            sequences.returns_to_go.new_zeros(len(self.states)),
        )
        for k, state in enumerate(self.states):
            if not self.alive[k]:
                continue
            self._mujoco.mj_setState(inner.model, inner.data, state, self._what)
            self._mujoco.mj_forward(inner.model, inner.data)
            observation, reward, terminated, _, _ = self.scratch.step(sequences.actions[k, -1].double().cpu().numpy())
            self.environment_steps += 1
            self.states[k], self.alive[k] = self._get_state(self.scratch), not terminated
            observations[k] = self.normalizer.normalize(
                torch.as_tensor(observation, dtype=torch.float32).to(observations)
            )
            rewards[k] = float(reward) / self.return_scale
        return observations, rewards, torch.tensor(self.alive, dtype=torch.float32, device=observations.device)
