"""Accelerated networks and updates give the textbook's numbers, under the same names."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vdt.acceleration.linear
from support.builders import (
    assert_identical,
    clone_state,
    make_actor_critic,
    make_buffer,
    make_config,
    make_dataset,
    make_tiny_sampler,
)
from vdt.acceleration.convert import FastAttention, accelerate, make_critic_update
from vdt.acceleration.critic_update import FusedCriticUpdate
from vdt.acceleration.linear import AVAILABLE, FastEnsemble, FastFeedForward, FastLinear
from vdt.agent.actor_critic import ActorCritic
from vdt.config.schema import Config
from vdt.critic.critic import Critic, CriticUpdate
from vdt.data.batches import SequenceBatch
from vdt.policy.decision_transformer import DecisionTransformer
from vdt.policy.losses import AdvantageWeighting
from vdt.training.update import PolicyUpdate, make_policy_optimizer, set_learning_rate, take_policy_step

AUTO = make_config().runtime
OFF = dataclasses.replace(AUTO, acceleration="off")
WIDE = {"critic.hidden_size": 48, "policy.embedding_size": 32, "policy.heads": 2, "policy.dropout": 0.0}  # for oneDNN
FAST = (FastAttention, FastEnsemble, FastFeedForward, FastLinear)
DATASET = make_dataset((7, 5, 9))


@pytest.fixture(params=[False, AVAILABLE] if AVAILABLE else [False], ids=lambda slow: "oneDNN" if slow else "MKL")
def slow_mkl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Intel's processors, and as on AMD's."""
    monkeypatch.setattr(vdt.acceleration.linear, "MKL_IS_SLOW", request.param)
    monkeypatch.setattr(vdt.acceleration.linear, "FEWEST_ROWS", 16)


def make_parts(word: str, **changes: Any) -> tuple[Config, ActorCritic]:
    config = make_config({**WIDE, "runtime.acceleration": word, **changes})
    actor_critic = make_actor_critic(config, DATASET, AdvantageWeighting(1.5, 3.0, 1.2))
    actor_critic.critic.unfreeze()
    return config, actor_critic


def find_fast(network: nn.Module) -> set[str]:
    return {name for name, part in network.named_modules() if isinstance(part, FAST)}


def test_layers_change_their_class_and_nothing_else() -> None:
    config = make_config(WIDE)
    policy, critic = DecisionTransformer(40, 3, 9, config.policy), Critic(40, 3, config.critic)
    for network in (policy, critic):
        before = clone_state(network)
        assert accelerate(network, OFF) is network and not find_fast(network)
        assert accelerate(network, AUTO) is network and find_fast(network)
        assert_identical(clone_state(network), before)
        assert find_fast(accelerate(network, AUTO)) == find_fast(copy.deepcopy(network))
    block = {f"transformer.blocks.0.{name}" for name in ("attention", "attention.project_in", "attention.project_out")}
    embedded = {"embed_return", "embed_observation", "embed_action"}
    assert find_fast(policy) == block | {"transformer.blocks.0.feedforward"} | embedded
    assert find_fast(critic) == {"q.ensemble", "value.ensemble", "target_q.ensemble"}


def test_networks_elsewhere_than_on_a_cpu_stay_as_they_are() -> None:
    critic = Critic(4, 3, make_config().critic).to("meta")
    assert not find_fast(accelerate(critic, AUTO))
    assert type(make_critic_update(critic, 1e-3, AUTO)) is CriticUpdate  # no GPU either


def test_which_update_is_made() -> None:
    critic = Critic(4, 3, make_config().critic)
    assert type(make_critic_update(critic, 1e-3, OFF)) is CriticUpdate
    assert type(make_critic_update(critic, 1e-3, AUTO)) is FusedCriticUpdate


@pytest.mark.usefixtures("slow_mkl")
@pytest.mark.parametrize("activation", ["relu", "mish"])
@pytest.mark.parametrize("changes", [{}, {"actor.q_normalization": "magnitude"}, {"policy.kind": "mlp"}], ids=str)
def test_training_gives_the_same_numbers_without_acceleration(activation: str, changes: dict[str, Any]) -> None:
    found: dict[str, Any] = {}
    sampler = make_tiny_sampler(make_buffer(DATASET))
    sequences, transitions = sampler.sample_sequences(16, 4), sampler.sample_transitions(48)
    if changes.get("policy.kind") == "mlp":
        heads = {"actor.next_observation_coefficient": 0.0, "actor.reward_coefficient": 0.0}
        changes = {**changes, **heads, "planner.planning_horizon": 1, "evaluation.lookahead_horizon": 1}
    for word in ("auto", "off"):
        config, actor_critic = make_parts(word, **changes, **{"critic.activation": activation})
        critic_update = make_critic_update(actor_critic.critic, 1e-3, config.runtime)
        policy_update = PolicyUpdate(actor_critic, config.actor, 1e-3)
        metrics = {}
        for _ in range(5):
            metrics = {**vars(critic_update.update(transitions)), **policy_update(sequences)}
        found[word] = {**metrics, **clone_state(actor_critic.critic), **clone_state(actor_critic.policy)}
    assert bool(find_fast(actor_critic.critic)) is False
    for name, value in found["off"].items():
        torch.testing.assert_close(found["auto"][name], value, rtol=1e-4, atol=2e-5, msg=name)


def test_bfloat16_attention_stays_in_float32() -> None:
    attention = accelerate(nn.Sequential(DecisionTransformer(3, 2, 9, make_config(WIDE).policy)), AUTO)
    transformer = attention[0].transformer.eval()
    tokens = torch.randn(2, 6, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fast = transformer(tokens)
        assert fast.isfinite().all()
        seen = []
        part = transformer.blocks[0].attention
        part.attend = lambda *inputs, **settings: [
            seen.append(inputs[0].dtype),
            FastAttention.attend(*inputs, **settings),
        ][1]
        assert torch.equal(transformer(tokens), fast) and seen == [torch.bfloat16]
        assert (
            FastAttention.attend(*(torch.zeros(1, 1, 2, 4, dtype=torch.bfloat16) for _ in range(3))).dtype
            == torch.float32
        )


# A step on static buffers, which is what a GPU captures


def make_batches() -> list[SequenceBatch]:
    sampler = make_tiny_sampler(make_buffer(DATASET))
    return [sampler.sample_sequences(size, 4) for size in (8, 8, 8, 8, 5, 5, 8)]


@pytest.mark.parametrize("method", ["vdt", "odt"])  # the latter draws its actions, and learns a temperature
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_captured_actor_step_is_the_plain_one(method: str, dropout: float) -> None:
    found: list[dict[str, Tensor]] = []
    for captured in (False, True):
        config = make_config({**WIDE, "policy.dropout": dropout}, method=method)
        actor_critic = make_actor_critic(config, DATASET, AdvantageWeighting(1.5, 3.0, 1.2))
        update = PolicyUpdate(actor_critic, config.actor, 1e-3, captured=captured)
        curves = []
        for step, batch in enumerate(make_batches()):
            set_learning_rate(update.optimizer, 1e-3 * (step + 1))
            if step == 3:  # as each iteration of online tuning does
                actor_critic.weighting = AdvantageWeighting(0.5, 2.0, 1.1)
            curves.append({f"{name} {step}": value.clone() for name, value in update(batch).items()})
        assert actor_critic.gradient_steps == len(curves) and update.captured is captured
        found.append({**{k: v for metrics in curves for k, v in metrics.items()}, **clone_state(actor_critic.policy)})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_static_buffers_are_no_batch_of_ours_and_metrics_stay() -> None:
    config, actor_critic = make_parts("auto")
    update = PolicyUpdate(actor_critic, config.actor, 1e-3, captured=True)
    first, second = make_batches()[:2]
    kept = {name: value.clone() for name, value in vars(first).items()}
    metrics = update(first)
    before = {name: float(value) for name, value in metrics.items()}
    static = update.static.batch
    update(second)
    assert update.static.batch is static and not torch.equal(static.observations, first.observations)
    assert all(torch.equal(getattr(first, name), value) for name, value in kept.items())
    assert {name: float(value) for name, value in metrics.items()} == before


def test_a_rate_that_is_a_tensor_is_changed_in_place() -> None:
    _, actor_critic = make_parts("auto")
    optimizer = make_policy_optimizer(actor_critic, 1e-3, 0.0)
    rate = torch.tensor(1e-3)
    optimizer.param_groups[0]["lr"] = rate
    set_learning_rate(optimizer, 0.25)
    assert float(rate) == 0.25 and optimizer.param_groups[0]["lr"] is rate and optimizer.param_groups[1]["lr"] == 0.25


def test_update_policy_without_acceleration_takes_pytorchs_own_step() -> None:
    for word, own in (("auto", False), ("off", True)):
        config, actor_critic = make_parts(word)
        optimizer = make_policy_optimizer(actor_critic, 1e-3, 0.0)
        assert ("step" not in vars(optimizer)) is own
        take_policy_step(actor_critic, optimizer, make_batches()[0], config.actor)
        assert len(optimizer.state) == len(list(actor_critic.policy.parameters()))
