"""A critic update as PyTorch's tutorials would write it: autograd, Adam, a loop over the targets."""

from __future__ import annotations

import torch
from torch import Tensor

from vdt.critic.critic import Critic
from vdt.critic.losses import compute_q_loss, compute_q_targets, compute_value_loss
from vdt.data.batches import TransitionBatch


def compute_critic_losses(critic: Critic, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
    """M1 and M2 for autograd."""
    with torch.no_grad():
        target_q = critic.target_q(batch.observations, batch.actions)
        bootstrap_values = critic.value(batch.bootstrap_observations)
    targets = compute_q_targets(batch.n_step_rewards, batch.bootstrap_discounts, bootstrap_values)
    value_loss = compute_value_loss(target_q, critic.value(batch.observations), critic.config.expectile)
    return value_loss, compute_q_loss(critic.q(batch.observations, batch.actions), targets)


def update_critic_by_autograd(critic: Critic, adam: torch.optim.Adam, batch: TransitionBatch) -> None:
    """One step on M1 + M2, then the targets follow."""
    adam.zero_grad()
    sum(compute_critic_losses(critic, batch)).backward()  # type: ignore[union-attr]
    adam.step()
    rate = critic.config.target_update_rate
    with torch.no_grad():
        for target, followed in zip(critic.target_q.parameters(), critic.q.parameters(), strict=True):
            target.copy_((1 - rate) * target + rate * followed)
