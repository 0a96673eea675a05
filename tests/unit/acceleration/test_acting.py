"""The frozen Decision Transformer says what the policy says, and is what acts."""

import dataclasses
from typing import Any

import pytest
import torch

from support.builders import make_actor_critic, make_config, make_dataset
from support.environments import COUNTDOWN
from vdt.acceleration.acting import FrozenDecisionTransformer, freeze
from vdt.agent.agent import Agent, PlannerSettings
from vdt.environments import make_gymnasium_environment
from vdt.environments.rollout import collect_trajectories
from vdt.policy.decision_transformer import DecisionTransformer
from vdt.policy.mlp import MLPPolicy

CONFIG = dataclasses.replace(make_config().policy, context_length=5, embedding_size=16, layers=2, heads=2)


@pytest.mark.parametrize("kind", ["linear", "fourier"])
@pytest.mark.parametrize("head", ["deterministic", "gaussian"])
@torch.no_grad()
def test_a_frozen_policy_says_what_the_policy_says(head: str, kind: str) -> None:
    torch.manual_seed(0)
    settings = dataclasses.replace(CONFIG, head=head, return_embedding=kind, dropout=0.5)
    model = DecisionTransformer(3, 2, 20, settings).eval()
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    inputs = (torch.randn(2, 5, 3), torch.rand(2, 5, 2), torch.randn(2, 5), torch.arange(5).repeat(2, 1) + 4)
    said = model(*inputs)
    frozen = FrozenDecisionTransformer(model.train())(*inputs)  # never drops anything
    for name in ("actions", "next_observations", "rewards"):
        torch.testing.assert_close(getattr(frozen, name), getattr(said, name), atol=1e-5, rtol=1e-5)
    assert (said.distribution is None) == (frozen.distribution is None) == (head == "deterministic")
    if said.distribution is not None:
        torch.testing.assert_close(frozen.distribution.log_stds, said.distribution.log_stds, atol=1e-5, rtol=1e-5)


def test_what_acts_is_frozen_unless_acceleration_is_off_or_nothing_is_gained() -> None:
    runtime = make_config().runtime
    policy = DecisionTransformer(3, 2, 20, CONFIG)
    assert isinstance(freeze(policy, runtime), FrozenDecisionTransformer)
    assert freeze(policy, dataclasses.replace(runtime, acceleration="off")) is policy
    memoryless = MLPPolicy(3, 2, CONFIG)
    assert freeze(memoryless, runtime) is memoryless


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"planner.planning_horizon": 3},
        {"planner.forget_steps": 2},
        {"planner.forget_steps": 2, "policy.return_embedding": "fourier"},
    ],
)
def test_acting_is_the_same_without_acceleration(settings: dict[str, Any]) -> None:
    episodes = {}
    for word in ("auto", "off"):
        config = make_config({"policy.dropout": 0.3, "runtime.acceleration": word, **settings})
        actor_critic = make_actor_critic(config, make_dataset())
        for parameter in actor_critic.policy.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        environments = [make_gymnasium_environment(COUNTDOWN, 9) for _ in range(2)]
        agent = Agent(actor_critic, PlannerSettings.from_config(config))
        episodes[word] = collect_trajectories(agent, environments, [0, 1])
    for first, second in zip(episodes["auto"], episodes["off"], strict=True):
        torch.testing.assert_close(
            torch.from_numpy(first.actions), torch.from_numpy(second.actions), atol=1e-5, rtol=1e-5
        )
