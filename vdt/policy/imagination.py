"""A policy that goes on from its history in imagination, one step at a time (M6)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from vdt.policy.decision_transformer import DecisionTransformer, PolicyOutput
from vdt.policy.history import History


class Imagination(Protocol):
    """C imagined episodes, one per candidate of each real one; candidates of an episode are adjacent.

    Attributes:
        observations: (C, S) of the present step, normalised.
        actions: (C, A) that the policy proposes there.
    """

    observations: Tensor
    actions: Tensor

    def take(self) -> tuple[Tensor, Tensor]:
        """Take the proposed actions; predicted next observations (C, S), and rewards (C,) by the return scale."""

    def go_on(self, observations: Tensor, rewards: Tensor) -> None:
        """Begin the next step with what followed; the return-to-go shrinks by the reward (M6)."""


def imagine(policy: nn.Module, history: History, steps: int) -> Imagination:
    """Start from a history with N episodes of M candidates: C = N * M.

    Args:
        policy: a `DecisionTransformer`, or one that sees the present observation alone.
        history: its last step's action is still open.
        steps: how often `take` will be called at most.
    """
    if isinstance(policy, DecisionTransformer):
        return TransformerImagination(policy, history, steps)
    return MemorylessImagination(policy, history)


def _expand(held: Tensor | None, candidates: int) -> Tensor:
    assert held is not None
    return held.repeat_interleave(candidates, 0) if candidates > 1 else held


class TransformerImagination:
    """Every token passes the transformer once: keys and values of what came before are kept.

    An imagined step attends to the whole history and to the imagined steps before it, up to K + `steps` in all.
    """

    def __init__(self, policy: DecisionTransformer, history: History, steps: int) -> None:
        assert history.returns_to_go is not None
        _, candidates, length = history.returns_to_go.shape
        observations, actions = _expand(history.observations, candidates), _expand(history.actions, candidates)
        returns = history.returns_to_go.flatten(0, 1)
        self._policy = policy
        self._cache = policy.transformer.make_cache(len(returns), 3 * (length + steps)) if steps else None
        times = history.timesteps().expand(len(returns), length)
        tokens = torch.stack(
            [*policy.embed_situation(observations, returns, times), policy.embed_taken(actions, times)], dim=2
        ).flatten(1, 2)
        self.observations = observations[:, -1]
        self._returns, self._times = returns[:, -1], times[:, -1]
        self.actions: Tensor = policy.predict_action(self._see(tokens[:, :-1]))

    def _see(self, tokens: Tensor) -> Tensor:
        """What the transformer says after the last of further tokens: (C, L, D) -> (C, D)."""
        out: Tensor = self._policy.transformer(tokens, self._cache)[:, -1]
        return out

    def take(self) -> tuple[Tensor, Tensor]:
        """One token, the action's."""
        after = self._see(self._policy.embed_taken(self.actions, self._times)[:, None])
        return self._policy.predict_outcome(self.observations, after)

    def go_on(self, observations: Tensor, rewards: Tensor) -> None:
        """Two tokens, the return-to-go's and the observation's."""
        self.observations, self._returns, self._times = observations, self._returns - rewards, self._times + 1
        situation = self._policy.embed_situation(observations, self._returns, self._times)
        self.actions = self._policy.predict_action(self._see(torch.stack(situation, 1)))


class MemorylessImagination:
    """For a policy that sees the present step alone."""

    def __init__(self, policy: nn.Module, history: History) -> None:
        assert history.returns_to_go is not None
        self._policy, self._returns = policy, history.returns_to_go[:, :, -1:].flatten(0, 1)
        _, candidates, _ = history.returns_to_go.shape
        self.observations = _expand(history.observations, candidates)[:, -1]
        self._times = history.timesteps()[-1:].expand(len(self.observations), 1)
        self.actions = _expand(history.actions, candidates)[:, -1]
        self.actions = self._see().actions[:, -1]

    def _see(self) -> PolicyOutput:
        output: PolicyOutput = self._policy(
            self.observations[:, None], self.actions[:, None], self._returns, self._times
        )
        return output

    def take(self) -> tuple[Tensor, Tensor]:
        """A policy without these predictions says that nothing happens: only a simulator may imagine for it."""
        output = self._see()
        if output.next_observations is None or output.rewards is None:
            return self.observations, self._returns.new_zeros(len(self._returns))
        return output.next_observations[:, -1], output.rewards[:, -1]

    def go_on(self, observations: Tensor, rewards: Tensor) -> None:
        """Look at the next observation."""
        self.observations, self._returns, self._times = observations, self._returns - rewards[:, None], self._times + 1
        self.actions = torch.zeros_like(self.actions)
        self.actions = self._see().actions[:, -1]
