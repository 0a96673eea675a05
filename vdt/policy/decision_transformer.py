"""Decision Transformer: actions from returns-to-go, observations and past actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from vdt.config.schema import PolicyConfig
from vdt.policy.gaussian import Gaussian, make_head
from vdt.policy.precision import call_in_float32
from vdt.policy.return_embedding import make_return_embedding
from vdt.policy.transformer import CausalTransformer


@dataclass(frozen=True)
class PolicyOutput:
    """Predictions of a policy at each step of a sub-trajectory.

    Attributes:
        actions: (B, K, A) in [-1, 1], from all tokens up to and including that step's observation.
        next_observations: (B, K, S) normalised, from all tokens up to that step's action; None if not predicted.
        rewards: (B, K) standardised (vdt/data/normalization.py), likewise.
        distribution: of the action, centred on `actions`; None if the policy is deterministic.
    """

    actions: Tensor
    next_observations: Tensor | None = None
    rewards: Tensor | None = None
    distribution: Gaussian | None = None

    def to_float32(self) -> PolicyOutput:
        """Convert to float32, after a pass in lower precision."""
        return PolicyOutput(
            actions=self.actions.float(),
            next_observations=None if self.next_observations is None else self.next_observations.float(),
            rewards=None if self.rewards is None else self.rewards.float(),
            distribution=None if self.distribution is None else self.distribution.to_float32(),
        )


class ActingPolicy(Protocol):
    """Any policy that gives actions: a module of this package, or its frozen substitute of vdt/acceleration."""

    def __call__(self, observations: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor) -> PolicyOutput:
        """Predict actions at every step; shapes as of `DecisionTransformer.forward`."""


class DecisionTransformer(nn.Module):
    """Transformer policy with three tokens per step: return-to-go, observation, action.

    The observation token predicts the action. The action token predicts the reward and the change of the observation, so the
    policy is also a learned environment model (M6).
    """

    def __init__(self, observation_size: int, action_size: int, horizon: int, config: PolicyConfig) -> None:
        """Build the network; `horizon` bounds the timesteps that have an embedding, later ones share the last."""
        super().__init__()
        width = config.embedding_size
        self.horizon = horizon
        self.embed_timestep = nn.Embedding(horizon + 1, width)
        self.embed_return = make_return_embedding(config.return_embedding, width)
        self.embed_observation = nn.Linear(observation_size, width)
        self.embed_action = nn.Linear(action_size, width)
        self.transformer = CausalTransformer(width, config.layers, config.heads, config.dropout)
        self.predict_action = nn.Sequential(nn.Linear(width, action_size), nn.Tanh())
        self.predict_change = nn.Linear(width, observation_size)
        self.predict_reward = nn.Linear(width, 1)
        nn.init.normal_(self.embed_timestep.weight, std=0.02)
        self.gaussian = make_head(config, width, action_size)

    def forward(self, observations: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor) -> PolicyOutput:
        """Predict actions, next observations and rewards at every step.

        Args:
            observations: (B, K, S), normalised.
            actions: (B, K, A); the value at the last real step does not change that step's action prediction.
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
        """Embed steps as tokens: (..., K, S), (..., K), (..., K) and, if known, (..., K, A) -> (..., 2K or 3K, D).

        Leading dimensions may differ where they broadcast.
        """
        parts = [
            call_in_float32(self.embed_return, returns_to_go.unsqueeze(-1)),
            call_in_float32(self.embed_observation, observations),
        ]
        if actions is not None:
            parts.append(call_in_float32(self.embed_action, actions))
        time = self.embed_timestep(timesteps.clamp(max=self.horizon)).unsqueeze(-2)
        tokens: Tensor = torch.stack(torch.broadcast_tensors(*parts), dim=-2) + time  # (..., K, 2 or 3, D)
        return tokens.flatten(-3, -2)

    def embed_taken(self, actions: Tensor, timesteps: Tensor) -> Tensor:
        """Embed actions as tokens: (..., A), (...) -> (..., D)."""
        tokens: Tensor = self.embed_action(actions) + self.embed_timestep(timesteps.clamp(max=self.horizon))
        return tokens

    def predict_choice(self, after_observation: Tensor) -> tuple[Tensor, Gaussian | None]:
        """Predict actions (..., A), and their distribution if it is stochastic, from the observation tokens' outputs (..., D)."""
        means = call_in_float32(self.predict_action[0], after_observation)
        distribution = None if self.gaussian is None else call_in_float32(self.gaussian, after_observation, means)
        actions: Tensor = self.predict_action[1](means)
        return actions, distribution

    def predict_outcome(self, observations: Tensor, after_action: Tensor) -> tuple[Tensor, Tensor]:
        """Predict next observations (..., S) and rewards (...) from the action tokens' outputs (..., D) (M6)."""
        rewards: Tensor = call_in_float32(self.predict_reward, after_action).squeeze(-1)
        return observations + call_in_float32(self.predict_change, after_action), rewards
