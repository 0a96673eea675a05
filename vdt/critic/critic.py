"""The critic: its networks, the losses of M1 and M2 on one batch, and one gradient step on them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vdt.checkpoint.optimizer_state import load_optimizer
from vdt.config.schema import CriticConfig
from vdt.critic.losses import (
    CriticLosses,
    PolicyValueLosses,
    Proposals,
    compute_conservative_loss,
    compute_q_loss,
    compute_q_targets,
    compute_value_loss,
)
from vdt.critic.networks import TwinQ, ValueNetwork
from vdt.data.batches import TransitionBatch


class Critic(nn.Module):
    """Twin Q, their slowly following targets, and V (M1, M2). All observations are normalised."""

    def __init__(self, observation_size: int, action_size: int, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        shape, norm = (config.hidden_size, config.hidden_layers, config.activation), config.layer_norm
        self.q = TwinQ(observation_size, action_size, *shape, members=config.members, layer_norm=norm)
        self.value = ValueNetwork(observation_size, *shape, layer_norm=norm)
        self.target_q = copy.deepcopy(self.q).requires_grad_(False)

    def compute_losses(self, batch: TransitionBatch) -> CriticLosses:
        """Compute M1 and M2 on one batch: V follows the smaller target Q, both Q the n-step return."""
        with torch.no_grad():
            target_q = self.target_q(batch.observations, batch.actions)  # (N, B)
            bootstrap_values = self.value(batch.bootstrap_observations)  # (B,)
        targets = compute_q_targets(batch.n_step_rewards, batch.bootstrap_discounts, bootstrap_values)
        value = self.value(batch.observations)
        value_loss = compute_value_loss(target_q, value, self.config.expectile)  # M1
        q_loss = compute_q_loss(self.q(batch.observations, batch.actions), targets)  # M2
        return CriticLosses.summarize(value_loss, q_loss, target_q, value)

    def compute_policy_value_losses(
        self, batch: TransitionBatch, bootstrap_actions: Tensor, proposals: Proposals | None
    ) -> PolicyValueLosses:
        """Compute M2 with min target Q of the policy's actions (B, A) as the bootstrap, and CQL's term at `proposals`."""
        with torch.no_grad():
            bootstrap_values = self.compute_min_q(batch.bootstrap_observations, bootstrap_actions)
        targets = compute_q_targets(batch.n_step_rewards, batch.bootstrap_discounts, bootstrap_values)
        q = self.q(batch.observations, batch.actions)
        conservative = q.new_zeros(())
        if proposals is not None:
            observations = batch.observations.expand(len(proposals.actions), -1, -1)
            proposed_q = self.q(observations, proposals.actions)
            conservative = compute_conservative_loss(q, proposed_q, proposals.log_densities)
        return PolicyValueLosses(compute_q_loss(q, targets), conservative, q.detach().amin(0).mean())

    def compute_min_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Compute the smaller target Q: (..., S), (..., A) -> (...)."""
        smaller: Tensor = self.target_q(observations, actions).amin(0)
        return smaller

    def compute_q1(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Compute the first Q itself, not its target, as TD3's actor follows it: (..., S), (..., A) -> (...)."""
        return self.q.evaluate_first(observations, actions)

    def compute_disagreement(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Compute the disagreement of the target Qs, largest minus smallest: (..., S), (..., A) -> (...)."""
        q: Tensor = self.target_q(observations, actions)
        return q.amax(0) - q.amin(0)

    @torch.no_grad()
    def compute_advantages(self, observations: Tensor, actions: Tensor, policy_actions: Tensor | None = None) -> Tensor:
        """Compute min_i target Q - V at given actions: (..., S), (..., A) -> (...).

        With `policy_actions` (..., A) their min_i target Q replaces V (AWAC).
        """
        taken = self.compute_min_q(observations, actions)
        usual: Tensor = (
            self.value(observations) if policy_actions is None else self.compute_min_q(observations, policy_actions)
        )
        return taken - usual

    @torch.no_grad()
    def update_targets(self) -> None:
        """Move the target networks by `target_update_rate` towards Q (M2)."""
        for target, source in zip(self.target_q.parameters(), self.q.parameters(), strict=True):
            target.lerp_(source, self.config.target_update_rate)

    def unfreeze(self) -> None:
        """Make Q and V trainable again; the targets only follow."""
        self.requires_grad_(True)
        self.target_q.requires_grad_(False)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """List the parameters of Q and V, without the targets."""
        return [*self.q.parameters(), *self.value.parameters()]


class CriticUpdate:
    """Adam on Q and V together: their losses share no parameter.

    `make_adam` and `descend` are methods of their own because vdt/acceleration overrides them with faster ones.
    """

    def __init__(self, critic: Critic, learning_rate: float) -> None:
        self.critic = critic
        self.adam = self.make_adam(learning_rate)
        self.compute_losses = critic.compute_losses  # an attribute, so that a compiled pass can take its place

    def make_adam(self, learning_rate: float) -> torch.optim.Optimizer:
        """Make the optimizer."""
        return torch.optim.Adam(self.critic.trainable_parameters(), learning_rate)

    def update(self, batch: TransitionBatch) -> CriticLosses:
        """Take one step on M1 + M2, then move the targets; the losses are those before the step."""
        losses = self.compute_losses(batch)
        self.descend(losses.value_loss + losses.q_loss)
        self.update_targets()
        return losses.detach()

    def descend(self, loss: Tensor) -> None:
        """Step along the gradient of a loss of this critic."""
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()

    def update_targets(self) -> None:
        """Move the critic's targets."""
        self.critic.update_targets()

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` stopped."""
        load_optimizer(self.adam, state)
