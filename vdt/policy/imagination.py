"""A policy that goes on from its history in imagination, one step at a time (M6)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from vdt.policy.decision_transformer import DecisionTransformer, PolicyOutput
from vdt.policy.gaussian import choose_actions
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


def imagine(policy: nn.Module, history: History, steps: int, *, explore: bool = False) -> Imagination:
    """Start from a history with N episodes of M candidates: C = N * M.

    Args:
        policy: a `DecisionTransformer`, or one that sees the present observation alone.
        history: its last step's action is still open.
        steps: how often `take` will be called at most.
        explore: whether a stochastic policy draws its actions.
    """
    if isinstance(policy, DecisionTransformer):
        return TransformerImagination(policy, history, steps, explore)
    return MemorylessImagination(policy, history, explore)


def _expand(held: Tensor, candidates: int) -> Tensor:
    return held.repeat_interleave(candidates, 0) if candidates > 1 else held


class TransformerImagination:
    """Every token passes the transformer once: keys and values of what came before are kept.

    An imagined step attends to the whole history and to the imagined steps before it, up to K + `steps` in all.
    """

    def __init__(self, policy: DecisionTransformer, history: History, steps: int, explore: bool) -> None:
        assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
        _, candidates, length = history.returns_to_go.shape
        self._policy, self._explore = policy, explore
        times = history.timesteps()
        tokens = policy.embed(history.observations[:, None], history.returns_to_go, times, history.actions[:, None])
        self.observations = _expand(history.observations[:, -1], candidates)
        self._returns = history.returns_to_go[:, :, -1].flatten()
        self._times = times[-1:]
        self._caches = policy.transformer.make_caches(len(self._returns), 3 * (length + steps)) if steps else []
        self._propose(tokens.flatten(0, 1)[:, :-1])

    def _see(self, tokens: Tensor) -> Tensor:
        """What the transformer says after the last of further tokens: (C, L, D) -> (C, D)."""
        out: Tensor = self._policy.transformer(tokens, self._caches, last_only=True)[:, 0]
        return out

    def _propose(self, tokens: Tensor) -> None:
        choice = self._policy.predict_choice(self._see(tokens))
        self.actions: Tensor = choose_actions(*choice, explore=self._explore)

    def take(self) -> tuple[Tensor, Tensor]:
        """One token, the action's."""
        after = self._see(self._policy.embed_taken(self.actions, self._times)[:, None])
        return self._policy.predict_outcome(self.observations, after)

    def go_on(self, observations: Tensor, rewards: Tensor) -> None:
        """Two tokens, the return-to-go's and the observation's."""
        self.observations, self._returns, self._times = observations, self._returns - rewards, self._times + 1
        self._propose(self._policy.embed(observations[:, None], self._returns[:, None], self._times))


class MemorylessImagination:
    """For a policy that sees the present step alone."""

    def __init__(self, policy: nn.Module, history: History, explore: bool) -> None:
        assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
        self._policy, self._explore = policy, explore
        self._returns = history.returns_to_go[:, :, -1:].flatten(0, 1)
        _, candidates, _ = history.returns_to_go.shape
        self.observations = _expand(history.observations[:, -1], candidates)
        self._times = history.timesteps()[-1:].expand(len(self.observations), 1)
        self._propose(_expand(history.actions[:, -1], candidates))

    def _see(self, actions: Tensor) -> PolicyOutput:
        output: PolicyOutput = self._policy(self.observations[:, None], actions[:, None], self._returns, self._times)
        return output

    def _propose(self, blank: Tensor) -> None:
        output = self._see(blank)
        self.actions: Tensor = choose_actions(output.actions, output.distribution, explore=self._explore)[:, -1]

    def take(self) -> tuple[Tensor, Tensor]:
        """A policy without these predictions says that nothing happens: only a simulator may imagine for it."""
        output = self._see(self.actions)
        if output.next_observations is None or output.rewards is None:
            return self.observations, self._returns.new_zeros(len(self._returns))
        return output.next_observations[:, -1], output.rewards[:, -1]

    def go_on(self, observations: Tensor, rewards: Tensor) -> None:
        """Look at the next observation."""
        self.observations, self._returns, self._times = observations, self._returns - rewards[:, None], self._times + 1
        self._propose(torch.zeros_like(self.actions))
