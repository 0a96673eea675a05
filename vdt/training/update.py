"""One gradient step of the critic and one of the policy: the same for offline, online and every baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vdt.agent import Brain
from vdt.critic.critic import Critic
from vdt.data.batches import SequenceBatch, TransitionBatch
from vdt.policy.losses import (
    AdvantageWeighting,
    PolicyLosses,
    compute_behavior_loss,
    compute_next_observation_loss,
    compute_q_term,
    compute_reward_loss,
)
from vdt.schema import ActorConfig

Metrics = Mapping[str, Tensor]


def make_critic_optimizer(critic: Critic, learning_rate: float) -> torch.optim.Optimizer:
    """Adam for Q and V together; their losses share no parameter."""
    return torch.optim.Adam(critic.trainable_parameters(), lr=learning_rate, fused=True)


def make_policy_optimizer(policy: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only."""
    decayed = [p for p in policy.parameters() if p.dim() >= 2]
    plain = [p for p in policy.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def compute_learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Linear warm-up over `warmup` steps, then a cosine to zero at `total`, where it stays; `step` counts from 1."""
    if step <= warmup:
        return peak * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def update_critic(critic: Critic, optimizer: torch.optim.Optimizer, batch: TransitionBatch) -> Metrics:
    """One step on M1 + M2, then the target networks follow."""
    losses = critic.compute_losses(batch)
    optimizer.zero_grad(set_to_none=True)
    (losses.value_loss + losses.q_loss).backward()
    optimizer.step()
    critic.update_targets()
    return {name: value.detach() for name, value in vars(losses).items()}


def compute_policy_losses(brain: Brain, batch: SequenceBatch, config: ActorConfig) -> tuple[PolicyLosses, Tensor]:
    """M3 and the losses of the prediction heads on one batch.

    Terms whose coefficient is 0 are not computed: "off" costs nothing and changes nothing.

    Returns:
        The losses, and the weights (B, K) that multiplied the action errors.
    """
    output = brain.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    zero = output.actions.new_zeros(())
    weights = torch.ones_like(batch.mask)
    if brain.weighting.inverse_temperature > 0:
        advantages = brain.critic.compute_advantages(batch.observations, batch.actions)
        weights = brain.weighting.compute_weights(advantages)
    behavior = compute_behavior_loss(output.actions, batch.actions, weights, batch.mask)
    q_term = zero
    if config.q_coefficient > 0:
        min_q = brain.critic.compute_min_q(batch.observations, output.actions)
        q_term = compute_q_term(min_q, output.actions, batch.mask)
    total = (behavior - config.q_coefficient * q_term) / batch.actions.shape[-1]
    next_observation = reward = zero
    if config.next_observation_coefficient > 0:
        next_observation = compute_next_observation_loss(output.next_observations, batch.next_observations, batch.mask)
        total = total + config.next_observation_coefficient * next_observation
    if config.reward_coefficient > 0:
        reward = compute_reward_loss(output.rewards, batch.rewards, batch.mask)
        total = total + config.reward_coefficient * reward
    return PolicyLosses(total, behavior, q_term, next_observation, reward), weights


def update_policy(brain: Brain, optimizer: torch.optim.Optimizer, batch: SequenceBatch, config: ActorConfig) -> Metrics:
    """One step on the policy's losses; the critic is not changed."""
    brain.policy.train()
    losses, weights = compute_policy_losses(brain, batch, config)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    limit = config.gradient_clip if config.gradient_clip > 0 else math.inf
    norm = nn.utils.clip_grad_norm_(brain.policy.parameters(), limit)
    optimizer.step()
    brain.gradient_steps += 1
    metrics = {f"{name}_loss" if name != "q_term" else name: value.detach() for name, value in vars(losses).items()}
    return {**metrics, "gradient_norm": norm, **compute_weight_statistics(weights, batch.mask, brain.weighting)}


def compute_weight_statistics(weights: Tensor, mask: Tensor, weighting: AdvantageWeighting) -> Metrics:
    """Mean, maximum, clipped share and effective sample fraction of the weights of real steps (B, K)."""
    real, count = weights * mask, mask.sum().clamp(min=1.0)  # no indexing by the mask: a GPU would have to wait
    clipped = real >= 0.999 * weighting.max_weight / weighting.mean_weight
    return {
        "weight_mean": real.sum() / count,
        "weight_max": real.amax(),
        "weight_clipped_share": clipped.sum() / count,
        "weight_effective_fraction": real.sum().square() / (count * real.square().sum()),
    }
