"""The return's token: which returns it tells apart after the layer norm, in which range, and in which precision."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from support.builders import make_config, make_dataset, make_store
from vdt.agent.actor_critic import ActorCritic
from vdt.checkpoint.store import load_state
from vdt.policy.decision_transformer import DecisionTransformer
from vdt.policy.mlp import MLPPolicy
from vdt.policy.return_embedding import FREQUENCIES, FourierReturn, make_return_embedding
from vdt.tracking import NullTracker
from vdt.training.critic_pretraining import pretrain_critic
from vdt.training.offline import train_actor

CONFIG = dataclasses.replace(make_config().policy, context_length=5, embedding_size=16, layers=1, heads=2, dropout=0.0)


def measure_distance(kind: str, first: float, second: float) -> float:
    """Distance of two returns' tokens after the layer norm, where each has the norm sqrt(128) = 11.3."""
    torch.manual_seed(0)
    embedding = make_return_embedding(kind, 128)
    if isinstance(embedding, FourierReturn):
        embedding.fit(torch.tensor([0.0, 40.0]))
    with torch.no_grad():
        tokens = torch.nn.functional.layer_norm(embedding(torch.tensor([[first], [second]])), (128,))
    return float((tokens[0] - tokens[1]).norm())


def test_large_returns_are_told_apart() -> None:
    """Door's returns over the scale of 100, as 20 and 30; linear is how conditioning was lost there."""
    assert measure_distance("linear", 20.0, 30.0) < 0.5
    assert measure_distance("fourier", 20.0, 30.0) > 5.0
    assert measure_distance("fourier", 20.0, 22.0) > 2.0


def test_features_golden() -> None:
    # a quarter of the range from 2 to 6: angles pi/4, pi/2, pi, 2 pi, 4 pi
    embedding = FourierReturn(2 * FREQUENCIES)
    embedding.fit(torch.tensor([4.0, 2.0, 6.0]))
    with torch.no_grad():
        embedding.project.weight.copy_(torch.eye(2 * FREQUENCIES))
        embedding.project.bias.zero_()
        features = embedding(torch.tensor([3.0]))
    half = math.sqrt(0.5)
    expected = [half, 1.0, 0.0, 0.0, 0.0, half, 0.0, -1.0, 1.0, 1.0]
    torch.testing.assert_close(features, torch.tensor(expected), atol=1e-5, rtol=0)


def test_returns_beyond_the_datas_are_the_nearest_of_its_own() -> None:
    embedding = FourierReturn(8)
    embedding.fit(torch.tensor([2.0, 6.0]))
    assert torch.equal(embedding(torch.tensor([[99.0], [-7.0]])), embedding(torch.tensor([[6.0], [2.0]])))
    embedding.fit(torch.tensor([3.0, 3.0]))
    assert embedding(torch.tensor([3.0])).isfinite().all(), "all returns are equal"


@pytest.mark.parametrize("acceleration", ["auto", "off"])
def test_the_range_is_the_datas_and_goes_with_the_policy(acceleration: str, tmp_path: Any) -> None:
    config = make_config({"policy.return_embedding": "fourier", "runtime.acceleration": acceleration})
    dataset = make_dataset()
    critic = pretrain_critic(config, dataset, NullTracker(), make_store(tmp_path / "critic"))
    path = train_actor(config, dataset, critic, NullTracker(), make_store(tmp_path / "actor"))
    embedding = ActorCritic.from_state(load_state(path)["actor_critic"], torch.device("cpu")).policy.embed_return
    to_go = torch.cat([torch.from_numpy(e.rewards[::-1].cumsum()[::-1].copy()) for e in dataset]) / 10
    assert isinstance(embedding, FourierReturn)
    torch.testing.assert_close(torch.cat([embedding.low, embedding.high]), torch.stack([to_go.min(), to_go.max()]))


@pytest.mark.parametrize("kind", ["linear", "fourier"])
@pytest.mark.parametrize("head", ["deterministic", "gaussian"])
def test_bfloat16_leaves_returns_and_heads_in_float32(head: str, kind: str) -> None:
    """2.000 and 2.004 are one number in bfloat16: four rewards of a hopper at a return scale of 1000."""
    torch.manual_seed(0)
    policy = DecisionTransformer(3, 2, 20, dataclasses.replace(CONFIG, head=head, return_embedding=kind))
    if isinstance(policy.embed_return, FourierReturn):
        policy.embed_return.fit(torch.tensor([0.0, 4.0]))

    def ask(wanted: float) -> tuple[Tensor, Any]:
        returns, times = torch.full((1, 5), wanted), torch.arange(5)[None]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            token = policy.embed(torch.zeros(1, 5, 3), returns, times)[:, 0::2]
            return token, policy(torch.zeros(1, 5, 3), torch.zeros(1, 5, 2), returns, times)

    (first, output), (second, _) = ask(2.0), ask(2.004)
    exact = policy.embed_return(torch.tensor([[2.0], [2.004]])).diff(dim=0)
    torch.testing.assert_close((second - first)[0, :1], exact, atol=1e-6, rtol=1e-2)
    outputs = (output.actions, output.next_observations, output.rewards)
    assert {part.dtype for part in outputs} == {torch.float32}
    assert output.distribution is None or output.distribution.log_stds.dtype == torch.float32


@pytest.mark.parametrize("head", ["deterministic", "gaussian"])
def test_bfloat16_leaves_observations_and_heads_of_the_memoryless_policy_in_float32(head: str) -> None:
    torch.manual_seed(0)
    policy = MLPPolicy(3, 2, dataclasses.replace(CONFIG, kind="mlp", head=head, hidden_size=8))
    seen: list[torch.dtype] = []
    policy.network[0].register_forward_hook(lambda layer, given, out: seen.append(out.dtype))
    policy.network[3].register_forward_hook(lambda layer, given, out: seen.append(out.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = policy(torch.randn(2, 1, 3), torch.zeros(2, 1, 2), torch.zeros(2, 1), torch.zeros(2, 1))
    assert seen == [torch.float32, torch.bfloat16], "the hidden layers alone are in lower precision"
    assert output.actions.dtype == torch.float32
    assert output.distribution is None or output.distribution.log_stds.dtype == torch.float32
