"""Decision Transformer: actions from returns-to-go, observations and past actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdt.acceleration.linear import FixedLinear, Layer, Linear
from vdt.config.schema import PolicyConfig
from vdt.policy.gaussian import GaussianHead, SquashedGaussian
from vdt.policy.transformer import CausalTransformer, FixedTransformer


@dataclass(frozen=True)
class PolicyOutput:
    """What a policy predicts at each step of a sub-trajectory.

    Attributes:
        actions: (B, K, A) in [-1, 1], from everything up to and including that step's observation.
        next_observations: (B, K, S) normalised, from everything up to that step's action; None if not predicted.
        rewards: (B, K) divided by the return scale, likewise.
        distribution: of the action, whose middle `actions` is; None if the policy is deterministic.
    """

    actions: Tensor
    next_observations: Tensor | None = None
    rewards: Tensor | None = None
    distribution: SquashedGaussian | None = None

    def to_float32(self) -> PolicyOutput:
        """The same in float32, after a pass in lower precision."""
        return PolicyOutput(
            actions=self.actions.float(),
            next_observations=None if self.next_observations is None else self.next_observations.float(),
            rewards=None if self.rewards is None else self.rewards.float(),
            distribution=None if self.distribution is None else self.distribution.to_float32(),
        )


class DecisionTransformerPass:
    """Three tokens a step: return-to-go, observation, action.

    The observation token predicts the action; the action token predicts reward and change of the observation, which makes
    the policy its own environment model (M6).
    """

    horizon: int
    embed_timestep: Layer
    embed_return: Layer
    embed_observation: Layer
    embed_action: Layer
    transformer: Callable[..., Tensor]
    predict_action: Any  # two layers: means before the tanh, and the tanh
    predict_change: Layer
    predict_reward: Layer
    gaussian: GaussianHead | None

    def forward(self, observations: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor) -> PolicyOutput:
        """Predict at every step.

        Args:
            observations: (B, K, S), normalised.
            actions: (B, K, A); what stands at the last real step does not change that step's action prediction.
            returns_to_go: (B, K), divided by the return scale.
            timesteps: (B, K) int64.
        """
        out = self.transformer(self.embed(observations, returns_to_go, timesteps, actions)).unflatten(1, (-1, 3))
        after_observation, after_action = out[:, :, 1], out[:, :, 2]
        actions, distribution = self.predict_choice(after_observation)
        return PolicyOutput(actions, *self.predict_outcome(observations, after_action), distribution)

    def embed(
        self, observations: Tensor, returns_to_go: Tensor, timesteps: Tensor, actions: Tensor | None = None
    ) -> Tensor:
        """Tokens of steps, the action's if it is known: (..., K, S), (..., K), (..., K), (..., K, A) -> (..., 3K or 2K, D).

        Leading dimensions may differ where they broadcast.
        """
        parts = [self.embed_return(returns_to_go.unsqueeze(-1)), self.embed_observation(observations)]
        if actions is not None:
            parts.append(self.embed_action(actions))
        time = self.embed_timestep(timesteps.clamp(max=self.horizon)).unsqueeze(-2)
        tokens = torch.stack(torch.broadcast_tensors(*parts), dim=-2) + time  # (..., K, 2 or 3, D)
        return tokens.flatten(-3, -2)

    def embed_taken(self, actions: Tensor, timesteps: Tensor) -> Tensor:
        """Action tokens of steps: (..., A), (...) -> (..., D)."""
        return self.embed_action(actions) + self.embed_timestep(timesteps.clamp(max=self.horizon))

    def predict_choice(self, after_observation: Tensor) -> tuple[Tensor, SquashedGaussian | None]:
        """Actions (..., A), and their distribution if it is stochastic, from what is said after the observation tokens."""
        means = self.predict_action[0](after_observation)
        distribution = None if self.gaussian is None else self.gaussian(after_observation, means)
        return self.predict_action[1](means), distribution

    def predict_outcome(self, observations: Tensor, after_action: Tensor) -> tuple[Tensor, Tensor]:
        """Next observations (..., S) and rewards (...) from what the transformer says after the action tokens."""
        return observations + self.predict_change(after_action), self.predict_reward(after_action).squeeze(-1)


class DecisionTransformer(DecisionTransformerPass, nn.Module):
    """`DecisionTransformerPass` that learns."""

    def __init__(self, observation_size: int, action_size: int, horizon: int, config: PolicyConfig) -> None:
        """`horizon` bounds the timesteps that have an embedding; later ones share the last."""
        super().__init__()
        width = config.embedding_size
        self.context_length = config.context_length
        self.horizon = horizon
        self.embed_timestep: nn.Embedding = nn.Embedding(horizon + 1, width)
        self.embed_return: Linear = Linear(1, width)
        self.embed_observation: Linear = Linear(observation_size, width)
        self.embed_action: Linear = Linear(action_size, width)
        self.transformer: CausalTransformer = CausalTransformer(width, config.layers, config.heads, config.dropout)
        self.predict_action = nn.Sequential(nn.Linear(width, action_size), nn.Tanh())
        self.predict_change: nn.Linear = nn.Linear(width, observation_size)
        self.predict_reward: nn.Linear = nn.Linear(width, 1)
        nn.init.normal_(self.embed_timestep.weight, std=0.02)
        gaussian = config.head == "gaussian"
        self.gaussian = GaussianHead(width, action_size, config.initial_temperature) if gaussian else None


class FixedDecisionTransformer(DecisionTransformerPass):
    """`DecisionTransformerPass` with the weights that a policy has now: for acting, without a gradient."""

    def __init__(self, policy: DecisionTransformer) -> None:
        self.horizon, self.gaussian = policy.horizon, policy.gaussian
        times = policy.embed_timestep.weight.detach()
        self.embed_timestep = lambda timesteps: F.embedding(timesteps, times)
        self.embed_return = FixedLinear(policy.embed_return)
        self.embed_observation = FixedLinear(policy.embed_observation)
        self.embed_action = FixedLinear(policy.embed_action)
        self.transformer = FixedTransformer(policy.transformer)
        self.predict_action = (FixedLinear(policy.predict_action[0]), torch.tanh)
        self.predict_change = FixedLinear(policy.predict_change)
        self.predict_reward = FixedLinear(policy.predict_reward)
