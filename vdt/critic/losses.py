"""The critic's equations: M1 and M2 of docs/method.md, and CQL's term."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CriticLosses:
    """Losses of one critic update and diagnostics for curves; scalars.

    Attributes:
        value_loss: M1.
        q_loss: M2, summed over the N estimates of Q.
        q_mean: mean of min_i target Q over the batch.
        advantage_mean: mean of min_i target Q - V.
        advantage_std: its standard deviation.
    """

    value_loss: Tensor
    q_loss: Tensor
    q_mean: Tensor
    advantage_mean: Tensor
    advantage_std: Tensor

    @classmethod
    def summarize(cls, value_loss: Tensor, q_loss: Tensor, target_q: Tensor, value: Tensor) -> CriticLosses:
        """Add diagnostics from target Q (N, B) and V (B,) of the data's actions."""
        min_q = target_q.amin(0)
        advantage = min_q - value.detach()
        return cls(value_loss, q_loss, min_q.mean(), advantage.mean(), advantage.std(correction=0))

    def detach(self) -> CriticLosses:
        """Detach the losses from their graph."""
        return CriticLosses(**{name: value.detach() for name, value in vars(self).items()})


@dataclass(frozen=True)
class PolicyValueLosses:
    """Losses of one update of Q for the current policy; scalars.

    Attributes:
        q_loss: M2 with the policy's value as the bootstrap, summed over the N estimates of Q.
        conservative_loss: CQL's term before its coefficient; 0 where it is off.
        q_mean: mean of min_i Q over the batch, of Q itself, not of its target.
    """

    q_loss: Tensor
    conservative_loss: Tensor
    q_mean: Tensor


@dataclass(frozen=True)
class Proposals:
    """Actions whose Q the CQL term lowers: P for each of B observations.

    Attributes:
        actions: (P, B, A).
        log_densities: (P, B) under the distribution that drew them.
    """

    actions: Tensor
    log_densities: Tensor


def compute_expectile_weights(error: Tensor, expectile: float) -> Tensor:
    """Return |expectile - 1(error < 0)| (M1), of the error's shape."""
    return torch.where(error < 0, 1.0 - expectile, expectile)


def compute_expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Compute the asymmetric squared error that pulls V towards the upper expectile of Q (M1).

    Args:
        error: target Q minus V, any shape.
        expectile: in (0, 1); above 0.5 penalises underestimating Q more.

    Returns:
        |expectile - 1(error < 0)| * error^2, same shape.
    """
    return compute_expectile_weights(error, expectile) * error.square()


def compute_value_loss(target_q: Tensor, value: Tensor, expectile: float) -> Tensor:
    """Compute the expectile regression loss of V on the smaller target Q (M1).

    Args:
        target_q: target networks at the data's actions, (N, B); no gradient flows into it.
        value: V at the same observations, (B,).
        expectile: in (0, 1).
    """
    return compute_expectile_loss(target_q.amin(0).detach() - value, expectile).mean()


def compute_q_targets(n_step_rewards: Tensor, bootstrap_discounts: Tensor, bootstrap_values: Tensor) -> Tensor:
    """Compute the n-step return with the value of the bootstrap observation (M2), (B,).

    Args:
        n_step_rewards: (B,) discounted sum of the received rewards.
        bootstrap_discounts: (B,) discount^k, 0 after termination.
        bootstrap_values: (B,) V at the bootstrap observations.
    """
    return n_step_rewards + bootstrap_discounts * bootstrap_values


def compute_q_loss(q: Tensor, targets: Tensor) -> Tensor:
    """Compute the squared error of the N Q estimates, (N, B) against (B,); their means are added (M2)."""
    return (q - targets.detach()).square().mean(1).sum()


def compute_conservative_loss(q: Tensor, proposed_q: Tensor, log_densities: Tensor) -> Tensor:
    """Compute the log of the sum over proposals of exp(Q) / density, minus Q of the data's action (CQL).

    The means of the N estimates are added.

    Args:
        q: at the data's actions, (N, B).
        proposed_q: at the proposals, (N, P, B).
        log_densities: of the proposals, (P, B); no gradient flows into them.
    """
    return (torch.logsumexp(proposed_q - log_densities.detach(), dim=1) - q).mean(1).sum()
