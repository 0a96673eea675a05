"""Imagined steps (M6): a policy continues its history with its own predictions, one step at a time."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from vdt.acceleration.acting import FrozenDecisionTransformer
from vdt.policy.decision_transformer import ActingPolicy, DecisionTransformer, PolicyOutput
from vdt.policy.gaussian import choose_actions
from vdt.policy.history import History
from vdt.policy.transformer import KeyValueCache

TransformerPolicy = DecisionTransformer | FrozenDecisionTransformer


class Imagination(Protocol):
    """Imagined episodes, C of them, one per candidate of each real one; candidates of an episode are adjacent.

    Attributes:
        observations: (C, S) of the present step, normalised.
        actions: (C, A) that the policy proposes there.
    """

    observations: Tensor
    actions: Tensor

    def step(self) -> tuple[Tensor, Tensor]:
        """Take the proposed actions; return next observations (C, S), and rewards (C,) in the reward head's units."""

    def advance(self, observations: Tensor, rewards: Tensor) -> None:
        """Begin the next step with its observation and reward; the return-to-go shrinks by the reward (M6)."""


class ContextCache:
    """Keys and values of a history's tokens, so that each decision passes only the new ones through the transformer.

    They hold for as long as the history begins with the same step. When the oldest steps are dropped, the rest is
    passed again. The output is always that of one pass over the present history, with weights that must not change
    meanwhile.
    """

    def __init__(self, spare_steps: int = 0) -> None:
        """Start empty, with room for `spare_steps` imagined steps after the history."""
        self.spare_steps = spare_steps
        self.caches: list[KeyValueCache] = []
        self._seen = 0  # tokens of the history
        self._first = -1  # timestep that they begin with

    def encode(self, policy: TransformerPolicy, history: History) -> Tensor:
        """Return the transformer's output after the present observation: N episodes of M candidates, (N * M, D).

        Tokens lie in the order return-to-go, observation, action. The present action is open, so a history of L steps has
        3 L - 1 tokens; at the next decision its action is known, and that token is the first of the new ones.
        """
        assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
        length, first = len(history), history.timestep + 1 - len(history)
        if not self.caches:
            capacity = 3 * (history.context_length + self.spare_steps)
            self.caches = policy.transformer.make_caches(history.returns_to_go[:, :, 0].numel(), capacity)
        if first != self._first:
            self._first, self._seen = first, 0
        seen = min(self._seen, 3 * length - 2)  # a second decision at the same step passes the observation again
        # a whole full window is passed anew at the next step: nothing would go on from its keys
        keeps = seen > 0 or length < history.context_length or self.spare_steps > 0
        for cache in self.caches:
            cache.length = seen  # imagined steps are dropped
        steps = slice(seen // 3, length)
        tokens = policy.embed(
            history.observations[:, None, steps],
            history.returns_to_go[:, :, steps],
            history.timesteps()[steps],
            history.actions[:, None, steps],
        ).flatten(0, 1)
        self._seen = 3 * length - 1 if keeps else 0
        caches = self.caches if keeps else ()
        out: Tensor = policy.transformer(tokens[:, seen % 3 : -1], caches, last_only=True)[:, 0]
        return out

    def drop_finished(self, active: Tensor, candidates: int) -> None:
        """Drop finished episodes: `active` is (N,) bool."""
        rows = _expand(active, candidates)
        for cache in self.caches:
            cache.select(rows)


def imagine(
    policy: ActingPolicy, history: History, steps: int, cache: ContextCache | None = None, *, explore: bool = False
) -> Imagination:
    """Start from a history with N episodes of M candidates: C = N * M.

    Args:
        policy: a `DecisionTransformer`, frozen or not, or a policy that sees the present observation alone.
        history: its last step's action is still open.
        steps: largest number of calls of `step`.
        cache: of earlier decisions upon the same history, with room for `steps`; none is an empty one.
        explore: whether a stochastic policy draws its actions.
    """
    if isinstance(policy, TransformerPolicy):
        return TransformerImagination(policy, history, cache or ContextCache(steps), explore)
    return MemorylessImagination(policy, history, explore)


def _expand(held: Tensor, candidates: int) -> Tensor:
    return held.repeat_interleave(candidates, 0) if candidates > 1 else held


class TransformerImagination:
    """Imagination by the transformer: each token passes once, keys and values of earlier ones are cached.

    An imagined step attends to the whole history and to the imagined steps before it, up to K + `steps` in all.
    """

    def __init__(self, policy: TransformerPolicy, history: History, cache: ContextCache, explore: bool) -> None:
        after = cache.encode(policy, history)
        assert history.observations is not None and history.returns_to_go is not None
        self._policy, self._caches, self._explore = policy, cache.caches, explore
        self.observations = _expand(history.observations[:, -1], history.returns_to_go.shape[1])
        self._returns = history.returns_to_go[:, :, -1].flatten()
        self._times = history.timesteps()[-1:]
        self._propose(after)

    def _pass(self, tokens: Tensor) -> Tensor:
        """Pass further tokens; return the output after the last one: (C, L, D) -> (C, D)."""
        out: Tensor = self._policy.transformer(tokens, self._caches, last_only=True)[:, 0]
        return out

    def _propose(self, after: Tensor) -> None:
        self.actions: Tensor = choose_actions(*self._policy.predict_choice(after), explore=self._explore)

    def step(self) -> tuple[Tensor, Tensor]:
        """Pass one token, the action's; predict next observation and reward."""
        after = self._pass(self._policy.embed_taken(self.actions, self._times)[:, None])
        return self._policy.predict_outcome(self.observations, after)

    def advance(self, observations: Tensor, rewards: Tensor) -> None:
        """Pass two tokens, the return-to-go's and the observation's; propose the next action."""
        self.observations, self._returns, self._times = observations, self._returns - rewards, self._times + 1
        self._propose(self._pass(self._policy.embed(observations[:, None], self._returns[:, None], self._times)))


class MemorylessImagination:
    """Imagination by a policy that reads the present step alone."""

    def __init__(self, policy: ActingPolicy, history: History, explore: bool) -> None:
        assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
        self._policy, self._explore = policy, explore
        self._returns = history.returns_to_go[:, :, -1:].flatten(0, 1)
        _, candidates, _ = history.returns_to_go.shape
        self.observations = _expand(history.observations[:, -1], candidates)
        self._times = history.timesteps()[-1:].expand(len(self.observations), 1)
        self._propose(_expand(history.actions[:, -1], candidates))

    def _ask(self, actions: Tensor) -> PolicyOutput:
        return self._policy(self.observations[:, None], actions[:, None], self._returns, self._times)

    def _propose(self, blank: Tensor) -> None:
        output = self._ask(blank)
        self.actions: Tensor = choose_actions(output.actions, output.distribution, explore=self._explore)[:, -1]

    def step(self) -> tuple[Tensor, Tensor]:
        """Predict the next step: unchanged without heads, so that only a simulator may imagine for such a policy."""
        output = self._ask(self.actions)
        if output.next_observations is None or output.rewards is None:
            return self.observations, self._returns.new_zeros(len(self._returns))
        return output.next_observations[:, -1], output.rewards[:, -1]

    def advance(self, observations: Tensor, rewards: Tensor) -> None:
        """Propose an action for the next observation."""
        self.observations, self._returns, self._times = observations, self._returns - rewards[:, None], self._times + 1
        self._propose(torch.zeros_like(self.actions))
