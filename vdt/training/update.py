"""Gradient step of the policy: the same for offline, online and every baseline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vdt.acceleration.capture import StaticStep
from vdt.acceleration.convert import is_captured, make_adamw
from vdt.acceleration.torch_overhead import compile_pass
from vdt.agent.actor_critic import ActorCritic
from vdt.checkpoint.optimizer_state import load_optimizer
from vdt.config.schema import ActorConfig
from vdt.data.batches import SequenceBatch
from vdt.policy.baseline_losses import (
    compute_likelihood_policy_loss,
    compute_magnitude_policy_loss,
    compute_stochastic_policy_loss,
)
from vdt.policy.decision_transformer import PolicyOutput
from vdt.policy.gaussian import SquashedGaussian
from vdt.policy.losses import (
    AdvantageWeighting,
    PolicyLosses,
    compute_next_observation_loss,
    compute_policy_loss,
    compute_reward_loss,
)

Metrics = Mapping[str, Tensor]
NOT_LOSSES = ("q_term", "entropy", "temperature")


def make_policy_optimizer(
    actor_critic: ActorCritic, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Make AdamW for the policy, with weight decay on matrices only."""
    parameters = list(actor_critic.policy.parameters())
    decayed, plain = [p for p in parameters if p.dim() >= 2], [p for p in parameters if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return make_adamw(groups, learning_rate, actor_critic.config.runtime, parameters[0].device)


def compute_learning_rate(step: int, total: int, warmup: int, peak: float, schedule: str = "cosine") -> float:
    """Compute the rate of `step` (from 1): a linear warm-up, then a cosine to zero at `total`, or the constant peak."""
    if step <= warmup:
        return peak * step / warmup
    if schedule == "constant":
        return peak
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def choose_losses(config: ActorConfig, step: int) -> ActorConfig:
    """Return the settings of the losses of `step` (from 1): the data's actions alone during the warm start (CQL)."""
    if step > config.warm_start_steps:
        return config
    return dataclasses.replace(config, behavior_coefficient=1.0, q_coefficient=0.0)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of all parameter groups, in place where it is a tensor that a graph reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def compile_policy(actor_critic: ActorCritic) -> None:
    """Compile the policy's training pass with torch.compile, if `runtime.compile` is set; acting is unchanged."""
    if actor_critic.config.runtime.compile:
        actor_critic.compiled_policy = compile_pass(actor_critic.policy)


def compute_weights(actor_critic: ActorCritic, batch: SequenceBatch, output: PolicyOutput) -> Tensor:
    """Compute the weight of each step's action error (B, K): 1, or by the advantage over V or the policy's action (AWAC)."""
    if actor_critic.weighting.inverse_temperature == 0:
        return torch.ones_like(batch.mask)
    own = output.actions.detach() if actor_critic.target_policy is not None else None
    return actor_critic.weighting.compute_weights(
        actor_critic.critic.compute_advantages(batch.observations, batch.actions, own)
    )


def compute_action_losses(
    actor_critic: ActorCritic, batch: SequenceBatch, output: PolicyOutput, weights: Tensor, config: ActorConfig
) -> PolicyLosses:
    """Compute the sum of M3 that the configuration selects; an unused critic is not evaluated."""
    gaussian, normalization = output.distribution, config.q_normalization
    actions = output.actions
    if isinstance(gaussian, SquashedGaussian):
        drawn, log_densities = gaussian.sample()
        actions = actions if normalization == "gradient" else drawn  # a displacement is one of the mean action
    elif gaussian is not None:
        actions = gaussian.means
    compute_q = actor_critic.critic.compute_q1 if config.q_source == "q1" else actor_critic.critic.compute_min_q
    q = compute_q(batch.observations, actions) if config.q_coefficient > 0 else None
    rest = (batch.actions, weights, q, batch.mask, config.q_coefficient, config.behavior_coefficient)
    if isinstance(gaussian, SquashedGaussian):
        return compute_stochastic_policy_loss(gaussian, (actions, log_densities), *rest, normalization=normalization)
    if gaussian is not None:
        return compute_likelihood_policy_loss(gaussian, *rest, normalization=normalization)
    if normalization == "gradient":
        return compute_policy_loss(actions, *rest)
    return compute_magnitude_policy_loss(actions, *rest, normalization=normalization)


def compute_policy_losses(
    actor_critic: ActorCritic, batch: SequenceBatch, config: ActorConfig
) -> tuple[PolicyLosses, Tensor]:
    """Compute M3 and the losses of the prediction heads on one batch.

    Terms whose coefficient is 0 are not computed: "off" costs nothing and changes nothing.

    Returns:
        The losses, and the weights (B, K) that multiplied the action errors.
    """
    with actor_critic.autocast():
        policy = actor_critic.policy if actor_critic.compiled_policy is None else actor_critic.compiled_policy
        output = policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps).to_float32()
    weights = compute_weights(actor_critic, batch, output)
    losses = compute_action_losses(actor_critic, batch, output, weights, config)
    total = losses.total
    next_observation = reward = output.actions.new_zeros(())
    if config.next_observation_coefficient > 0:
        next_observation = compute_next_observation_loss(
            output.next_observations, batch.next_observations, batch.next_observation_mask
        )
        total = total + config.next_observation_coefficient * next_observation
    if config.reward_coefficient > 0:
        rewards = actor_critic.reward_statistics.standardize(batch.rewards)
        reward = compute_reward_loss(output.rewards, rewards, batch.mask)
        total = total + config.reward_coefficient * reward
    return dataclasses.replace(losses, total=total, next_observation=next_observation, reward=reward), weights


def take_policy_step(
    actor_critic: ActorCritic, optimizer: torch.optim.Optimizer, batch: SequenceBatch, config: ActorConfig
) -> Metrics:
    """Take one step on the policy's losses; nothing here waits for a GPU, and nothing is counted."""
    losses, weights = compute_policy_losses(actor_critic, batch, config)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    limit = config.gradient_clip if config.gradient_clip > 0 else math.inf
    networks = [p for p in actor_critic.policy.parameters() if p.dim() > 0]  # not the temperature: its loss is its own
    norm = nn.utils.clip_grad_norm_(networks, limit)
    optimizer.step()
    terms = {name: value.detach() for name, value in vars(losses).items() if value is not None}
    metrics = {name if name in NOT_LOSSES else f"{name}_loss": value for name, value in terms.items()}
    return {**metrics, "gradient_norm": norm, **compute_weight_statistics(weights, batch.mask, actor_critic.weighting)}


class PolicyUpdate:
    """`take_policy_step` with its own optimizer; a captured one works on static buffers, as a CUDA graph on a GPU."""

    def __init__(
        self, actor_critic: ActorCritic, config: ActorConfig, learning_rate: float, *, captured: bool | None = None
    ) -> None:
        """Make the optimizer; `captured` is by default that of `runtime` and the device."""
        self.actor_critic, self.config = actor_critic, config
        self.optimizer = make_policy_optimizer(actor_critic, learning_rate, config.weight_decay)
        compile_policy(actor_critic)
        if captured is None:
            captured = is_captured(actor_critic.config.runtime, actor_critic.normalizer.mean.device)
        self.static = StaticStep(lambda batch: take_policy_step(actor_critic, self.optimizer, batch, self.config))
        self.captured = captured

    def __call__(self, batch: SequenceBatch) -> Metrics:
        """Take one step and count it; the metrics are those before it."""
        actor_critic = self.actor_critic
        actor_critic.policy.train()
        metrics: Metrics
        if self.captured:
            metrics = self.static(batch, key=(actor_critic.weighting, self.config))  # no tensors
        else:
            metrics = take_policy_step(actor_critic, self.optimizer, batch, self.config)
        actor_critic.gradient_steps += 1
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` stopped."""
        load_optimizer(self.optimizer, state)
        self.static.reset()


def compute_weight_statistics(weights: Tensor, mask: Tensor, weighting: AdvantageWeighting) -> Metrics:
    """Compute mean, maximum, clipped share and effective sample fraction of the weights of real steps (B, K)."""
    real, count = weights * mask, mask.sum().clamp(min=1.0)  # no indexing by the mask: a GPU would have to wait
    largest, tiny = real.amax(), torch.finfo(real.dtype).tiny
    share = real / largest.clamp(min=tiny)  # whose square is not rounded to 0
    clipped = real >= 0.999 * weighting.max_weight / weighting.mean_weight
    return {
        "weight_mean": real.sum() / count,
        "weight_max": largest,
        "weight_clipped_share": clipped.sum() / count,
        "weight_effective_fraction": share.sum().square() / (count * share.square().sum()).clamp(min=tiny),
    }
