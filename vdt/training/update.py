"""One gradient step of the policy: the same for offline, online and every baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vdt.acceleration.torch_overhead import compile_pass, skip_compiler, take_step
from vdt.agent.agent import ActorCritic
from vdt.config.schema import ActorConfig
from vdt.data.batches import SequenceBatch
from vdt.policy.decision_transformer import PolicyOutput
from vdt.policy.losses import (
    AdvantageWeighting,
    PolicyLosses,
    compute_behavior_loss,
    compute_likelihood_loss,
    compute_next_observation_loss,
    compute_q_term,
    compute_reward_loss,
    compute_scaled_q_term,
    compute_temperature_loss,
    masked_mean,
)

Metrics = Mapping[str, Tensor]
NOT_LOSSES = ("q_term", "entropy", "temperature")


def make_policy_optimizer(policy: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only."""
    decayed = [p for p in policy.parameters() if p.dim() >= 2]
    plain = [p for p in policy.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    skip_compiler()
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


def compile_policy(actor_critic: ActorCritic) -> None:
    """Let the policy's training pass go through torch.compile, if `runtime.compile` says so; acting stays as it is."""
    if actor_critic.config.runtime.compile:
        actor_critic.compiled_policy = compile_pass(actor_critic.policy)


def compute_weights(actor_critic: ActorCritic, batch: SequenceBatch, output: PolicyOutput) -> Tensor:
    """Weight of each step's action error (B, K): 1, or by the advantage over V, or over the policy's own action (AWAC)."""
    if actor_critic.weighting.inverse_temperature == 0:
        return torch.ones_like(batch.mask)
    own = output.actions.detach() if actor_critic.target_policy is not None else None
    return actor_critic.weighting.compute_weights(
        actor_critic.critic.compute_advantages(batch.observations, batch.actions, own)
    )


def compute_action_terms(
    actor_critic: ActorCritic, batch: SequenceBatch, output: PolicyOutput, weights: Tensor, config: ActorConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The first two terms of M3, with the entropy term of a stochastic policy: their sum, and each."""
    zero, size = output.actions.new_zeros(()), batch.actions.shape[-1]
    actions, terms = output.actions, {"behavior": zero, "q_term": zero}
    gaussian = output.distribution
    if gaussian is not None:
        actions, log_densities = gaussian.sample()
        terms["entropy"] = masked_mean(-log_densities, batch.mask)
        terms["temperature"] = gaussian.temperature
    if config.behavior_coefficient > 0:
        if gaussian is not None:
            likelihood = gaussian.compute_log_density(batch.actions)
            terms["behavior"] = compute_likelihood_loss(likelihood, weights, batch.mask)
        else:
            terms["behavior"] = compute_behavior_loss(actions, batch.actions, weights, batch.mask)
    if config.q_coefficient > 0:
        min_q = actor_critic.critic.compute_min_q(batch.observations, actions)
        if config.q_normalization == "gradient":
            terms["q_term"] = compute_q_term(min_q, actions, batch.mask)
        else:
            terms["q_term"] = compute_scaled_q_term(min_q, batch.mask, config.q_normalization)
    behavior, q_term = config.behavior_coefficient * terms["behavior"], config.q_coefficient * terms["q_term"]
    if gaussian is not None:  # densities and entropies are sums over action dimensions already
        curbed = gaussian.temperature.detach() * terms["entropy"]
        total = behavior - q_term - curbed + compute_temperature_loss(gaussian.temperature, terms["entropy"], size)
    elif config.q_normalization == "gradient":  # lambda is a displacement, whatever the number of dimensions
        total = (behavior - q_term) / size
    else:
        total = behavior / size - q_term
    return total, terms


def compute_policy_losses(
    actor_critic: ActorCritic, batch: SequenceBatch, config: ActorConfig
) -> tuple[PolicyLosses, Tensor]:
    """M3 and the losses of the prediction heads on one batch.

    Terms whose coefficient is 0 are not computed: "off" costs nothing and changes nothing.

    Returns:
        The losses, and the weights (B, K) that multiplied the action errors.
    """
    with torch.autocast(batch.mask.device.type, torch.bfloat16, actor_critic.config.runtime.precision == "bfloat16"):
        policy = actor_critic.policy if actor_critic.compiled_policy is None else actor_critic.compiled_policy
        output = policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps).to_float32()
    weights = compute_weights(actor_critic, batch, output)
    total, terms = compute_action_terms(actor_critic, batch, output, weights, config)
    next_observation = reward = output.actions.new_zeros(())
    if config.next_observation_coefficient > 0:
        next_observation = compute_next_observation_loss(
            output.next_observations, batch.next_observations, batch.next_observation_mask
        )
        total = total + config.next_observation_coefficient * next_observation
    if config.reward_coefficient > 0:
        reward = compute_reward_loss(output.rewards, batch.rewards, batch.mask)
        total = total + config.reward_coefficient * reward
    return PolicyLosses(total=total, next_observation=next_observation, reward=reward, **terms), weights


def update_policy(
    actor_critic: ActorCritic, optimizer: torch.optim.Optimizer, batch: SequenceBatch, config: ActorConfig
) -> Metrics:
    """One step on the policy's losses; the critic is not changed."""
    actor_critic.policy.train()
    losses, weights = compute_policy_losses(actor_critic, batch, config)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    limit = config.gradient_clip if config.gradient_clip > 0 else math.inf
    networks = [p for p in actor_critic.policy.parameters() if p.dim() > 0]  # not the temperature: its loss is its own
    norm = nn.utils.clip_grad_norm_(networks, limit)
    take_step(optimizer)
    actor_critic.gradient_steps += 1
    terms = {name: value.detach() for name, value in vars(losses).items() if value is not None}
    metrics = {name if name in NOT_LOSSES else f"{name}_loss": value for name, value in terms.items()}
    return {**metrics, "gradient_norm": norm, **compute_weight_statistics(weights, batch.mask, actor_critic.weighting)}


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
