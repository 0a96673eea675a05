"""The transformer, the Decision Transformer and the memoryless policy: what sees what."""

import dataclasses

import pytest
import torch
from torch import Tensor

from reference.networks import attend_explicitly
from support.builders import make_config
from vdt.config.schema import PolicyConfig
from vdt.policy.decision_transformer import DecisionTransformer
from vdt.policy.mlp import MLPPolicy
from vdt.policy.networks import make_policy_network
from vdt.policy.transformer import Block, CausalSelfAttention, CausalTransformer

CONFIG = dataclasses.replace(make_config().policy, context_length=5, embedding_size=16, layers=2, heads=2, dropout=0.0)


def make_model(horizon: int = 20, config: PolicyConfig = CONFIG) -> DecisionTransformer:
    torch.manual_seed(0)
    model = DecisionTransformer(3, 2, horizon, config)
    for parameter in model.parameters():  # larger than at the start, so that an influence cannot hide in rounding
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def make_inputs(batch: int = 2, steps: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "observations": torch.randn(batch, steps, 3),
        "actions": torch.rand(batch, steps, 2) * 2 - 1,
        "returns_to_go": torch.randn(batch, steps),
        "timesteps": torch.arange(steps).repeat(batch, 1) + 4,
    }


def test_attention_equals_explicit_masked_softmax() -> None:
    torch.manual_seed(0)
    attention = CausalSelfAttention(12, 3, dropout=0.0)
    tokens = torch.randn(2, 7, 12)
    torch.testing.assert_close(attention(tokens), attend_explicitly(attention, tokens), atol=1e-5, rtol=1e-5)


def test_block_adds_both_parts_back() -> None:
    torch.manual_seed(0)
    block, tokens = Block(8, 2, 0.0), torch.randn(1, 4, 8)
    middle = tokens + attend_explicitly(block.attention, block.norm_attention(tokens))
    expected = middle + block.feedforward(block.norm_feedforward(middle))
    torch.testing.assert_close(block(tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changed", [1, 4, 6])
def test_later_tokens_change_no_earlier_output(changed: int) -> None:
    torch.manual_seed(0)
    model = CausalTransformer(16, 2, 2, 0.0).eval()
    tokens = torch.randn(2, 7, 16)
    other = tokens.clone()
    other[:, changed:] += torch.randn(2, 7 - changed, 16)
    difference = (model(tokens) - model(other)).abs().amax((0, 2))
    assert (difference[:changed] == 0).all()
    assert (difference[changed:] > 0).all()


@pytest.mark.parametrize("name", ["observations", "actions", "returns_to_go", "timesteps"])
def test_the_future_does_not_leak(name: str) -> None:
    model, inputs = make_model(), make_inputs()
    later = {**inputs, name: inputs[name].clone()}
    later[name][:, 3:] += 1
    before, after = model(**inputs), model(**later)
    for field in ("actions", "next_observations", "rewards"):
        difference = (
            (getattr(before, field) - getattr(after, field)).abs().flatten(2).sum(2)
            if field != "rewards"
            else (before.rewards - after.rewards).abs()
        )
        assert (difference[:, :3] == 0).all(), field
        assert (difference[:, 4] > 0).all(), field  # and the past is seen


def test_action_prediction_does_not_depend_on_the_same_steps_action() -> None:
    model, inputs = make_model(), make_inputs()
    other = {**inputs, "actions": inputs["actions"].clone()}
    other["actions"][:, 2] = -other["actions"][:, 2]
    before, after = model(**inputs), model(**other)
    assert torch.equal(before.actions[:, :3], after.actions[:, :3])
    assert (before.actions[:, 3] != after.actions[:, 3]).any()  # the next step sees it
    assert (before.rewards[:, 2] != after.rewards[:, 2]).all()  # and so do this step's reward
    assert (before.next_observations[:, 2] != after.next_observations[:, 2]).any()  # and next observation


@pytest.mark.parametrize("name", ["observations", "returns_to_go", "timesteps"])
def test_action_prediction_depends_on_the_present(name: str) -> None:
    model, inputs = make_model(), make_inputs()
    other = {**inputs, name: inputs[name].clone()}
    other[name][:, -1] += 1
    assert (model(**inputs).actions[:, -1] != model(**other).actions[:, -1]).all()


def test_padding_on_the_right_changes_nothing() -> None:
    model, inputs = make_model(), make_inputs()
    short = {name: value[:, :3] for name, value in inputs.items()}
    for field in ("actions", "next_observations", "rewards"):
        torch.testing.assert_close(getattr(model(**inputs), field)[:, :3], getattr(model(**short), field))


def test_predicted_change_is_added_to_the_observation() -> None:
    model, inputs = make_model(), make_inputs()
    model.predict_change.weight.data.zero_()
    model.predict_change.bias.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(
        model(**inputs).next_observations, inputs["observations"] + torch.tensor([1.0, 2.0, 3.0])
    )


def test_actions_stay_in_range() -> None:
    model, inputs = make_model(), make_inputs()
    model.predict_action[0].weight.data *= 100
    actions = model(**inputs).actions
    assert actions.shape == (2, 5, 2) and actions.abs().max().item() <= 1


def test_timesteps_beyond_the_horizon_share_the_last_embedding() -> None:
    model, inputs = make_model(horizon=6), make_inputs()
    end, far, near = (model(**{**inputs, "timesteps": torch.full((2, 5), t)}).actions for t in (6, 600, 5))
    assert torch.equal(end, far)
    assert not torch.equal(end, near)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model, inputs = DecisionTransformer(3, 2, 20, dataclasses.replace(CONFIG, dropout=0.5)), make_inputs()
    assert not torch.equal(model(**inputs).actions, model(**inputs).actions)
    model.eval()
    assert torch.equal(model(**inputs).actions, model(**inputs).actions)


def test_memoryless_policy_sees_the_observation_alone() -> None:
    policy, inputs = MLPPolicy(3, 2, CONFIG).eval(), make_inputs()
    output = policy(**inputs)
    assert output.next_observations is None and output.rewards is None and output.actions.shape == (2, 5, 2)
    assert output.actions.abs().max().item() <= 1
    other = {**inputs, "actions": -inputs["actions"], "returns_to_go": inputs["returns_to_go"] + 1}
    assert torch.equal(policy(**other).actions, output.actions)
    torch.testing.assert_close(policy(**{k: v[:, 2:3] for k, v in inputs.items()}).actions, output.actions[:, 2:3])


def test_kind_names_the_network() -> None:
    assert isinstance(make_policy_network(3, 2, 9, CONFIG), DecisionTransformer)
    assert isinstance(make_policy_network(3, 2, 9, dataclasses.replace(CONFIG, kind="mlp")), MLPPolicy)
    assert make_policy_network(3, 2, 9, CONFIG).horizon == 9
