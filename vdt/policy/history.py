"""History of an acting policy: the last K steps of several episodes in lockstep (M4)."""

from __future__ import annotations

import torch
from torch import Tensor


class History:
    """Observations, actions and returns-to-go of N episodes that started together.

    Each episode carries M returns-to-go, one per candidate; observations and actions are shared by the candidates.
    """

    def __init__(self, candidate_returns: Tensor, context_length: int, forget_steps: int = 1) -> None:
        """Start with no step.

        Args:
            candidate_returns: (N, M) first returns-to-go, divided by the return scale.
            context_length: K, the largest number of steps kept.
            forget_steps: number of oldest steps dropped at once when another does not fit; then the others stay where they are
                for that many steps.
        """
        self.context_length = context_length
        self.forget_steps = min(forget_steps, context_length)
        self.timestep = -1
        self._next_returns = candidate_returns
        self.observations: Tensor | None = None  # (N, L, S)
        self.actions: Tensor | None = None  # (N, L, A); zero at the current step until `set_action`
        self.returns_to_go: Tensor | None = None  # (N, M, L)

    def append_observation(self, observations: Tensor, action_size: int) -> None:
        """Begin a step with normalised observations (N, S); its action is still open."""
        self.timestep += 1
        blank = observations.new_zeros(len(observations), 1, action_size)
        self.observations = self._push(self.observations, observations[:, None], 1)
        self.actions = self._push(self.actions, blank, 1)
        self.returns_to_go = self._push(self.returns_to_go, self._next_returns[:, :, None], 2)

    def set_action(self, actions: Tensor) -> None:
        """Fill in the action that was taken, (N, A)."""
        assert self.actions is not None
        self.actions[:, -1] = actions

    def align_returns(self, rewards: Tensor) -> None:
        """Subtract the received reward from every candidate's return-to-go (M4).

        Args:
            rewards: (N,), divided by the return scale.
        """
        self._next_returns = self._next_returns - rewards[:, None]

    def drop_finished(self, active: Tensor) -> None:
        """Drop finished episodes: `active` is (N,) bool."""
        assert self.observations is not None and self.actions is not None and self.returns_to_go is not None
        self.observations, self.actions = self.observations[active], self.actions[active]
        self.returns_to_go, self._next_returns = self.returns_to_go[active], self._next_returns[active]

    def count_kept(self, timestep: int) -> tuple[int, int]:
        """Return L, the number of steps kept once a timestep has begun, and how many there were when the first of them was new.

        The latter is 1 until the first steps are dropped; then it is the number left after each drop, the new step included.
        """
        beyond = timestep - self.context_length
        if beyond < 0:
            return timestep + 1, 1
        left = self.context_length - self.forget_steps + 1
        return left + beyond % self.forget_steps, left

    def restore(self, timestep: int, observations: Tensor, actions: Tensor, returns_to_go: Tensor) -> None:
        """Hold the given steps, of which the last is the present one, with the action still open.

        Args:
            timestep: of the present step.
            observations: (N, L, S), normalised.
            actions: (N, L, A), the present step's zero.
            returns_to_go: (N, M, L), divided by the return scale.
        """
        self.timestep = timestep
        self.observations, self.actions, self.returns_to_go = observations, actions, returns_to_go
        self._next_returns = returns_to_go[:, :, -1]

    def __len__(self) -> int:
        """Return L, the number of steps kept, the present one included."""
        return 0 if self.observations is None else self.observations.shape[1]

    def timesteps(self) -> Tensor:
        """Return the timestep of each kept step, (L,) int64."""
        assert self.observations is not None
        return torch.arange(self.timestep + 1 - len(self), self.timestep + 1, device=self.observations.device)

    def _push(self, held: Tensor | None, new: Tensor, dim: int) -> Tensor:
        """Append along `dim`; if that exceeds the capacity, drop the oldest steps."""
        if held is None:
            return new
        length = held.shape[dim]
        start = self.forget_steps if length == self.context_length else 0
        return torch.cat([held.narrow(dim, start, length - start), new], dim)
