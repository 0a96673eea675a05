"""The critic as one module: networks, target networks, and the questions others ask of it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vdt.config.schema import CriticConfig
from vdt.critic.losses import (
    PolicyValueLosses,
    Proposals,
    compute_conservative_loss,
    compute_q_loss,
    compute_q_targets,
)
from vdt.critic.networks import TwinQ, ValueNetwork
from vdt.data.batches import TransitionBatch


class Critic(nn.Module):
    """Twin Q, their slowly following targets, and V (M1, M2). All observations are normalised."""

    def __init__(self, observation_size: int, action_size: int, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.hidden_size, config.hidden_layers, config.activation)
        self.q = TwinQ(observation_size, action_size, *shape)
        self.value = ValueNetwork(observation_size, *shape)
        self.target_q = copy.deepcopy(self.q).requires_grad_(False)

    def compute_policy_value_losses(
        self, batch: TransitionBatch, bootstrap_actions: Tensor, proposals: Proposals | None
    ) -> PolicyValueLosses:
        """M2 with min target Q of the policy's actions (B, A) as the bootstrap, and CQL's term at `proposals`."""
        with torch.no_grad():
            q_mean = self.compute_min_q(batch.observations, batch.actions).mean()
            bootstrap_values = self.compute_min_q(batch.bootstrap_observations, bootstrap_actions)
        targets = compute_q_targets(batch.n_step_rewards, batch.bootstrap_discounts, bootstrap_values)
        q = self.q(batch.observations, batch.actions)
        conservative = q.new_zeros(())
        if proposals is not None:
            observations = batch.observations.expand(len(proposals.actions), -1, -1)
            proposed_q = self.q(observations, proposals.actions)
            conservative = compute_conservative_loss(q, proposed_q, proposals.log_densities)
        return PolicyValueLosses(compute_q_loss(q, targets), conservative, q_mean)

    def compute_min_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The smaller target Q: (..., S), (..., A) -> (...)."""
        smaller: Tensor = self.target_q(observations, actions).amin(0)
        return smaller

    @torch.no_grad()
    def compute_advantages(self, observations: Tensor, actions: Tensor, policy_actions: Tensor | None = None) -> Tensor:
        """min_i target Q - V at given actions: (..., S), (..., A) -> (...).

        With `policy_actions` (..., A) their min_i target Q stands in for V (AWAC).
        """
        taken = self.compute_min_q(observations, actions)
        usual: Tensor = (
            self.value(observations) if policy_actions is None else self.compute_min_q(observations, policy_actions)
        )
        return taken - usual

    def unfreeze(self) -> None:
        """Let Q and V learn again; the targets only follow."""
        self.requires_grad_(True)
        self.target_q.requires_grad_(False)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Q and V, without the targets."""
        return [*self.q.parameters(), *self.value.parameters()]
