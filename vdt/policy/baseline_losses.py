"""Terms that other methods have in place of M3: Decision Transformers with a Gaussian head, TD3+BC, QT, SAC and CQL."""

from __future__ import annotations

from torch import Tensor

from vdt.policy.gaussian import Gaussian, NormalGaussian, SquashedGaussian
from vdt.policy.losses import PolicyLosses, compute_behavior_loss, compute_q_term, masked_mean

TARGET_ENTROPY = -1.0  # per action dimension; SAC, ODT


def compute_likelihood_loss(log_densities: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean over real steps of -w log pi(a), the behaviour loss of a stochastic policy (ODT).

    Args:
        log_densities: (B, K) of the data's actions.
        weights: (B, K), one per step, no gradient.
        mask: (B, K), 1 where real.
    """
    return masked_mean(-weights.detach() * log_densities, mask)


def compute_temperature_loss(temperature: Tensor, entropy: Tensor, action_size: int) -> Tensor:
    """Compute the temperature alpha times (H - H_target), H held constant (SAC, ODT).

    Alpha falls while the entropy is above its target.

    Args:
        temperature: alpha, scalar, with gradient.
        entropy: H, scalar.
        action_size: A; the target is -A.
    """
    return temperature * (entropy.detach() - TARGET_ENTROPY * action_size)


def compute_displacement_term(gaussian: Gaussian, q: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
    """Compute the Q term of M3 beside a likelihood: lambda stays the displacement of the mean action, lambda/2.

    Near its minimum -log pi(a) is ||a - mean||^2 / (2 sigma^2), so the Q term is divided by 2 sigma^2 too, the mean
    variance over real steps and dimensions, held constant.

    Args:
        gaussian: the policy's distribution at each step, over (B, K, A).
        q: (B, K), computed from `actions`.
        actions: (B, K, A) the mean actions, with gradient.
        mask: (B, K), 1 where real.
    """
    variance = masked_mean(gaussian.compute_variances().mean(-1), mask).detach().clamp(min=1e-8)
    return compute_q_term(q, actions, mask) / (2 * variance)


def compute_scaled_q_term(min_q: Tensor, mask: Tensor, normalization: str) -> Tensor:
    """Compute the mean over real steps of min_i target Q(s, pi), scaled.

    It is divided by its mean magnitude (TD3+BC, QT), or left as it is (SAC, CQL).

    Args:
        min_q: (B, K) at the policy's actions, with gradient.
        mask: (B, K), 1 where real.
        normalization: "magnitude" for mean |Q|, held constant; "none".
    """
    mean = masked_mean(min_q, mask)
    if normalization == "none":
        return mean
    return mean / masked_mean(min_q.detach().abs(), mask).clamp(min=1e-8)


def _compute_gaussian_q_term(
    gaussian: Gaussian, min_q: Tensor | None, actions: Tensor, mask: Tensor, normalization: str
) -> Tensor:
    """Compute the Q term beside a likelihood in the units that `normalization` names; 0 without a Q."""
    if min_q is None:
        return actions.new_zeros(())
    if normalization == "gradient":
        return compute_displacement_term(gaussian, min_q, actions, mask)
    return compute_scaled_q_term(min_q, mask, normalization)


def compute_magnitude_policy_loss(
    predicted: Tensor,
    actions: Tensor,
    weights: Tensor,
    min_q: Tensor | None,
    mask: Tensor,
    q_coefficient: float,
    behavior_coefficient: float = 1.0,
    *,
    normalization: str = "magnitude",
) -> PolicyLosses:
    """Compute the mean squared action error minus the Q term, scaled by its magnitude or not (TD3+BC, QT).

    Arguments as of `compute_policy_loss`; `normalization` as of `compute_scaled_q_term`.
    """
    zero = predicted.new_zeros(())
    behavior = compute_behavior_loss(predicted, actions, weights, mask) if behavior_coefficient > 0 else zero
    q_term = zero if min_q is None else compute_scaled_q_term(min_q, mask, normalization)
    total = behavior_coefficient * behavior / actions.shape[-1] - q_coefficient * q_term
    return PolicyLosses(total, behavior, q_term)


def compute_likelihood_policy_loss(
    gaussian: NormalGaussian,
    actions: Tensor,
    weights: Tensor,
    min_q: Tensor | None,
    mask: Tensor,
    q_coefficient: float,
    behavior_coefficient: float = 1.0,
    *,
    normalization: str = "none",
) -> PolicyLosses:
    """Compute the weighted negative log-likelihood minus the Q term at the means (IQL, AWAC).

    Arguments as of `compute_stochastic_policy_loss`, but `min_q` is that of the means, and nothing is drawn.
    """
    behavior = actions.new_zeros(())
    if behavior_coefficient > 0:
        behavior = compute_likelihood_loss(gaussian.compute_log_density(actions), weights, mask)
    q_term = _compute_gaussian_q_term(gaussian, min_q, gaussian.means, mask, normalization)
    return PolicyLosses(behavior_coefficient * behavior - q_coefficient * q_term, behavior, q_term)


def compute_stochastic_policy_loss(
    gaussian: SquashedGaussian,
    asked: tuple[Tensor, Tensor],
    actions: Tensor,
    weights: Tensor,
    min_q: Tensor | None,
    mask: Tensor,
    q_coefficient: float,
    behavior_coefficient: float = 1.0,
    *,
    normalization: str = "none",
) -> PolicyLosses:
    """Compute the weighted negative log-likelihood minus Q term and entropy, plus the temperature's loss (ODT, SAC, CQL).

    Densities and entropies are already sums over action dimensions, so nothing is divided by their number.

    Args:
        gaussian: the policy's distribution at each step, over (B, K, A).
        asked: actions (B, K, A) that Q is asked for, drawn, or the mean ones where `normalization` is "gradient"; and
            log-densities (B, K) of drawn actions; with gradient.
        actions: (B, K, A) the data's.
        weights: (B, K), one per step, no gradient.
        min_q: (B, K) min_i target Q at these actions, with gradient; none where lambda is 0.
        mask: (B, K), 1 where real.
        q_coefficient: lambda.
        behavior_coefficient: 0 leaves the likelihood out.
        normalization: of the Q term: "gradient" (M3, `compute_displacement_term`), "magnitude" or "none".
    """
    (asked_actions, log_densities), temperature = asked, gaussian.temperature
    entropy = masked_mean(-log_densities, mask)
    behavior = actions.new_zeros(())
    if behavior_coefficient > 0:
        behavior = compute_likelihood_loss(gaussian.compute_log_density(actions), weights, mask)
    q_term = _compute_gaussian_q_term(gaussian, min_q, asked_actions, mask, normalization)
    total = behavior_coefficient * behavior - q_coefficient * q_term - temperature.detach() * entropy
    total = total + compute_temperature_loss(temperature, entropy, actions.shape[-1])
    return PolicyLosses(total, behavior, q_term, entropy=entropy, temperature=temperature)
