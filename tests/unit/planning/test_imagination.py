"""Imagined steps with cached keys and values equal full passes over the same context."""

from typing import Any

import pytest
import torch
from torch import Tensor

from support.builders import make_config
from vdt.acceleration.acting import FrozenDecisionTransformer, FrozenTransformer
from vdt.planning.imagination import ContextCache, imagine
from vdt.policy.decision_transformer import DecisionTransformer
from vdt.policy.history import History
from vdt.policy.mlp import MLPPolicy
from vdt.policy.transformer import CausalTransformer

S, A, K = 3, 2, 6
acting = pytest.mark.parametrize("freeze", [lambda policy: policy, FrozenDecisionTransformer], ids=["plain", "frozen"])


def make_policy(heads: int = 1, embedding: str = "linear") -> DecisionTransformer:
    torch.manual_seed(3)
    settings = {"policy.context_length": K, "policy.heads": heads, "policy.layers": 2}
    config = make_config({**settings, "policy.return_embedding": embedding}).policy
    policy = DecisionTransformer(S, A, 50, config).eval()
    for parameter in policy.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return policy


def make_history(steps: int, returns: tuple[tuple[float, ...], ...] = ((3.0, 1.0), (2.0, 0.5))) -> History:
    history = History(torch.tensor(returns), K)
    for step in range(steps):
        history.append_observation(torch.randn(len(returns), S), A)
        if step + 1 < steps:
            history.set_action(torch.rand(len(returns), A))
            history.align_returns(torch.rand(len(returns)))
    return history


def watch_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Tokens of each pass, and whether their keys are kept."""
    passed: list[tuple[int, bool]] = []
    call = CausalTransformer.forward

    def watch(self: Any, tokens: Tensor, caches: Any = (), **settings: bool) -> Tensor:
        passed.append((tokens.shape[1], len(caches) > 0))
        return call(self, tokens, caches, **settings)

    monkeypatch.setattr(CausalTransformer, "forward", watch)
    monkeypatch.setattr(FrozenTransformer, "__call__", watch)
    return passed


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("steps", [1, 4, 9])  # of history; the last is beyond the context of 6
@acting
@torch.no_grad()
def test_imagined_steps_equal_full_passes(freeze: Any, heads: int, steps: int) -> None:
    policy, history = make_policy(heads), make_history(steps)
    assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
    imagination = imagine(freeze(policy), history, 3)
    observations, actions = history.observations.repeat_interleave(2, 0), history.actions.repeat_interleave(2, 0)
    returns, times = history.returns_to_go.flatten(0, 1), history.timesteps().repeat(4, 1)
    for _ in range(3):
        torch.testing.assert_close(imagination.observations, observations[:, -1])
        proposed = policy(observations, actions, returns, times).actions[:, -1]
        torch.testing.assert_close(imagination.actions, proposed, atol=1e-5, rtol=1e-5)
        actions = torch.cat([actions[:, :-1], proposed[:, None]], 1)
        output = policy(observations, actions, returns, times)
        seen, paid = imagination.step()
        torch.testing.assert_close(seen, output.next_observations[:, -1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(paid, output.rewards[:, -1], atol=1e-5, rtol=1e-5)
        imagination.advance(seen, paid)
        observations = torch.cat([observations, seen[:, None]], 1)
        actions = torch.cat([actions, torch.zeros(4, 1, A)], 1)
        returns, times = (
            torch.cat([returns, returns[:, -1:] - paid[:, None]], 1),
            torch.cat([times, times[:, -1:] + 1], 1),
        )


@pytest.mark.parametrize(("heads", "embedding"), [(1, "linear"), (2, "linear"), (1, "fourier")])
@pytest.mark.parametrize("forget_steps", [1, 3, 6])
@acting
@torch.no_grad()
def test_decisions_with_a_cache_equal_full_passes(
    freeze: Any, forget_steps: int, heads: int, embedding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, cache = make_policy(heads, embedding), ContextCache(spare_steps=2)
    actor = freeze(policy)
    history = History(torch.tensor([[3.0, 1.0], [2.0, 0.5], [4.0, 0.0]]), K, forget_steps)
    passed = watch_passes(monkeypatch)
    for step in range(14):
        episodes = 3 if step < 9 else 2  # the second ends
        history.append_observation(torch.randn(episodes, S), A)
        imagination = imagine(actor, history, 2, cache)
        if step % 3 == 1:  # what is imagined leaves no trace
            imagination.advance(*imagination.step())
        new = passed[0][0]
        imagination = imagine(actor, history, 2, cache) if step % 2 else imagination  # neither does asking twice
        assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
        known = [held.repeat_interleave(2, 0) for held in (history.observations, history.actions)]
        full = policy(*known, history.returns_to_go.flatten(0, 1), history.timesteps().repeat(2 * episodes, 1))
        if step % 3 != 1 or step % 2:
            torch.testing.assert_close(imagination.actions, full.actions[:, -1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(imagination.step()[1], apply_taken(policy, known, history), atol=1e-5, rtol=1e-5)
        forgot = step >= K and (step - K) % forget_steps == 0
        assert new == (3 * len(history) - 1 if forgot or step == 0 else 3)
        passed.clear()
        history.set_action(torch.rand(episodes, A))
        history.align_returns(torch.rand(episodes))
        if step == 8:
            kept = torch.tensor([True, False, True])
            history.drop_finished(kept)
            cache.drop_finished(kept, 2)


@acting
@torch.no_grad()
def test_a_full_sliding_window_keeps_no_keys(freeze: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, cache, history = make_policy(), ContextCache(), History(torch.tensor([[3.0], [2.0]]), K)
    actor, passed = freeze(policy), watch_passes(monkeypatch)
    for step in range(K + 3):
        history.append_observation(torch.randn(2, S), A)
        once, twice = imagine(actor, history, 0, cache), imagine(actor, history, 0, cache)
        assert [keeps for _, keeps in passed] == [step < K] * 2  # until then the window only grows
        assert history.observations is not None and history.actions is not None and history.returns_to_go is not None
        known = (history.observations, history.actions, history.returns_to_go[:, 0], history.timesteps().repeat(2, 1))
        full = policy(*known).actions[:, -1]
        for imagination in (once, twice):
            torch.testing.assert_close(imagination.actions, full, atol=1e-5, rtol=1e-5)
        passed.clear()
        history.set_action(torch.rand(2, A))
        history.align_returns(torch.rand(2))


def apply_taken(policy: DecisionTransformer, known: list[Tensor], history: History) -> Tensor:
    """Rewards that are predicted if the proposed actions are taken at the end of what is known."""
    assert history.returns_to_go is not None
    observations, actions = known
    rest = (history.returns_to_go.flatten(0, 1), history.timesteps().repeat(len(observations), 1))
    proposed = policy(observations, actions, *rest).actions[:, -1:]
    rewards: Tensor = policy(observations, torch.cat([actions[:, :-1], proposed], 1), *rest).rewards[:, -1]
    return rewards


@pytest.mark.parametrize("cuts", [(7,), (1, 6), (3, 1, 3), (2, 5)])
@torch.no_grad()
def test_a_cached_transformer_continues_what_it_has_seen(cuts: tuple[int, ...]) -> None:
    transformer = make_policy(2).transformer
    tokens = torch.randn(3, 7, transformer.norm_out.weight.shape[0])
    caches, brief = transformer.make_caches(3, 7), transformer.make_caches(3, 7)
    whole = transformer(tokens)
    parts: list[Tensor] = [transformer(part, caches) for part in tokens.split(cuts, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)
    last: list[Tensor] = [transformer(part, brief, last_only=True) for part in tokens.split(cuts, 1)]
    torch.testing.assert_close(torch.cat(last, 1), whole[:, torch.tensor(cuts).cumsum(0) - 1], atol=1e-5, rtol=1e-5)
    assert [cache.length for cache in caches + brief] == [7] * 4


@torch.no_grad()
def test_a_memoryless_policy_looks_at_what_it_is_shown() -> None:
    policy = MLPPolicy(S, A, make_config().policy).eval()
    imagination = imagine(policy, make_history(2), 2)
    imagination.step()
    shown = torch.randn(4, S)
    imagination.advance(shown, torch.ones(4))
    torch.testing.assert_close(imagination.actions, policy.network(shown))
