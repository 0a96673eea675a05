"""The policy's equations: M3 of docs/method.md, and the losses of the look-ahead's heads.

Terms that other methods have in its place are in `baseline_losses.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NORMAL_IQR = 1.3489795003921634  # distance of the quartiles of N(0, 1)
SCANNED = 50  # temperatures that are looked at, from 0 to the one asked for


@dataclass(frozen=True)
class AdvantageWeighting:
    """Advantage weights of mean 1 over the data (M3).

    Attributes:
        inverse_temperature: per unit of advantage; 0 gives uniform weights.
        max_weight: clip of exp(inverse_temperature * advantage).
        mean_weight: mean of the clipped weights over the data; weights are divided by it.
    """

    inverse_temperature: float
    max_weight: float
    mean_weight: float

    def compute_weights(self, advantages: Tensor) -> Tensor:
        """Return min(exp(eta A), w_max) / mean, of the shape of `advantages`."""
        return compute_advantage_weights(advantages, self.inverse_temperature, self.max_weight) / self.mean_weight


@dataclass(frozen=True)
class PolicyLosses:
    """Losses of one policy update; scalars.

    Attributes:
        total: the minimised loss.
        behavior: weighted squared action error, summed over action dimensions, or negative log-likelihood.
        q_term: mean of Q (`actor.q_source`) at the policy's actions, as `actor.q_normalization` scales it.
        next_observation: squared error of the predicted next observation; none while the heads' losses are not added.
        reward: squared error of the predicted reward, likewise.
        entropy: of a stochastic policy.
        temperature: weight of the entropy in the total, learnt.
    """

    total: Tensor
    behavior: Tensor
    q_term: Tensor
    next_observation: Tensor | None = None
    reward: Tensor | None = None
    entropy: Tensor | None = None
    temperature: Tensor | None = None


def compute_advantage_weights(advantages: Tensor, inverse_temperature: float, max_weight: float) -> Tensor:
    """Return min(exp(eta A), w_max), of the shape of `advantages` (M3), computed without overflow."""
    return (inverse_temperature * advantages).clamp(max=math.log(max_weight)).exp()


def compute_effective_sample_fraction(weights: Tensor) -> float:
    """Return (sum w)^2 / (N sum w^2): 1 for uniform weights, 1/N if a single one counts."""
    weights = weights.double()
    return float(weights.sum().square() / (weights.numel() * weights.square().sum()))


def compute_spread(values: Tensor, scale: str) -> float:
    """Compute the standard deviation of values (N,), or one that tails do not move; 0 of a single value.

    Args:
        values: any numbers.
        scale: "std"; or "iqr", the distance of the quartiles over 1.349, which is the standard deviation of a normal
            distribution.
    """
    if len(values) < 2:
        return 0.0
    if scale == "std":
        return float(values.std())
    low, high = torch.quantile(values.double(), torch.tensor([0.25, 0.75], dtype=torch.float64, device=values.device))
    return float(high - low) / NORMAL_IQR


def calibrate_advantage_weighting(
    advantages: Tensor,
    inverse_temperature: float,
    max_weight: float,
    min_effective_sample_fraction: float,
    *,
    reference: Tensor | None = None,
    scale: str = "std",
) -> AdvantageWeighting:
    """Fit the weighting to the spread of the advantages, so that its settings mean the same on every task (M3, ours).

    The temperature is per standard deviation of the advantages. It is lowered until the effective sample fraction is at
    least the requested one, and stays so below: where most weights are clipped, a larger temperature can have a larger
    fraction again, and would be a threshold.

    Args:
        advantages: a large sample from the data, (N,).
        inverse_temperature: eta, per standard deviation; 0 for uniform weights.
        max_weight: w_max.
        min_effective_sample_fraction: in [0, 1].
        reference: advantages whose spread is the unit, (M,); none for `advantages` themselves.
        scale: of `compute_spread`.
    """
    if inverse_temperature == 0:
        return AdvantageWeighting(0.0, max_weight, 1.0)
    spread = compute_spread(advantages if reference is None else reference, scale)
    highest = inverse_temperature / max(spread, 1e-8)

    def fraction(eta: float) -> float:
        return compute_effective_sample_fraction(compute_advantage_weights(advantages, eta, max_weight))

    def suffices(eta: float) -> bool:
        return fraction(eta) >= min_effective_sample_fraction  # not where every weight is rounded to 0

    tried = [highest * k / SCANNED for k in range(SCANNED + 1)]
    eta = highest
    if (first := next((k for k in range(1, SCANNED + 1) if not suffices(tried[k])), None)) is not None:
        eta, high = tried[first - 1], tried[first]
        for _ in range(40):
            middle = (eta + high) / 2
            eta, high = (middle, high) if suffices(middle) else (eta, middle)
    mean = float(compute_advantage_weights(advantages, eta, max_weight).double().mean())
    return AdvantageWeighting(eta, max_weight, mean)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real steps: both (B, K), mask 1 where real. Padding changes neither value nor gradient."""
    return (values * mask).sum() / mask.sum().clamp(min=1.0)


def compute_behavior_loss(predicted: Tensor, actions: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean over real steps of w ||pi - a||^2 (M3, first term).

    Args:
        predicted: (B, K, A).
        actions: (B, K, A) the data's.
        weights: (B, K), one per step, no gradient.
        mask: (B, K), 1 where real.
    """
    return masked_mean(weights.detach() * (predicted - actions).square().sum(-1), mask)


def compute_q_term(min_q: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean over real steps of min_i target Q(s, pi) in units of its own action gradient (M3, second term).

    Q is divided by g, the root mean square over real steps of ||dQ/da||, held constant. Then
    argmin ||a - b||^2 - lambda Q(a)/g lies lambda/2 away from b along the gradient: lambda is a distance in action units,
    whatever the task's rewards.

    Args:
        min_q: (B, K), computed from `actions`.
        actions: (B, K, A) the policy's, with gradient.
        mask: (B, K), 1 where real.

    Returns:
        A scalar of that value, whose gradient with respect to `actions` is the mean's.
    """
    (gradient,) = torch.autograd.grad((min_q * mask).sum(), actions, retain_graph=True)
    scale = masked_mean(gradient.square().sum(-1), mask).sqrt().clamp(min=1e-8)
    value = masked_mean(min_q.detach(), mask) / scale
    moved = masked_mean((gradient / scale * actions).sum(-1), mask)
    # dQ/da is known: `moved` has it as its gradient and cancels in the value, so no second pass runs back through Q
    return value + moved - moved.detach()


def compute_policy_loss(
    predicted: Tensor,
    actions: Tensor,
    weights: Tensor,
    min_q: Tensor | None,
    mask: Tensor,
    q_coefficient: float,
    behavior_coefficient: float = 1.0,
) -> PolicyLosses:
    """Compute the weighted behaviour loss minus lambda times the Q term (M3).

    Both are divided by the number of action dimensions, so lambda is a displacement whatever that number.

    Args:
        predicted: (B, K, A) the policy's actions, with gradient.
        actions: (B, K, A) the data's.
        weights: (B, K), one per step, no gradient.
        min_q: (B, K) min_i target Q at `predicted`, with gradient; none where lambda is 0.
        mask: (B, K), 1 where real.
        q_coefficient: lambda.
        behavior_coefficient: 0 leaves the first term out.
    """
    zero = predicted.new_zeros(())
    behavior = compute_behavior_loss(predicted, actions, weights, mask) if behavior_coefficient > 0 else zero
    q_term = zero if min_q is None else compute_q_term(min_q, predicted, mask)
    total = (behavior_coefficient * behavior - q_coefficient * q_term) / actions.shape[-1]
    return PolicyLosses(total, behavior, q_term)


def compute_next_observation_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Compute the squared error of next observations, mean over dimensions and real steps: (B, K, S) twice, mask (B, K)."""
    return masked_mean((predicted - target).square().mean(-1), mask)


def compute_reward_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Compute the squared error of standardised rewards, mean over real steps: all (B, K); a constant's is about 1."""
    return masked_mean((predicted - target).square(), mask)
