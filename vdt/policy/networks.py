"""Choice of the policy's network by its configuration."""

from __future__ import annotations

from vdt.config.schema import PolicyConfig
from vdt.policy.decision_transformer import DecisionTransformer
from vdt.policy.mlp import MLPPolicy


def make_policy_network(
    observation_size: int, action_size: int, horizon: int, config: PolicyConfig
) -> DecisionTransformer | MLPPolicy:
    """Make the network that `policy.kind` names."""
    if config.kind == "mlp":
        return MLPPolicy(observation_size, action_size, config)
    return DecisionTransformer(observation_size, action_size, horizon, config)
