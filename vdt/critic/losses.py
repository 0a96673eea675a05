"""The critic's equations: M1 and M2 of docs/method.md."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CriticLosses:
    """Losses of one critic update and what is worth plotting; scalars.

    Attributes:
        value_loss: M1.
        q_loss: M2, summed over the twins.
        q_mean: mean of min_i target Q over the batch.
        advantage_mean: mean of min_i target Q - V.
        advantage_std: its standard deviation.
    """

    value_loss: Tensor
    q_loss: Tensor
    q_mean: Tensor
    advantage_mean: Tensor
    advantage_std: Tensor


def compute_expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Asymmetric squared error that pulls V towards the upper expectile of Q (M1).

    Args:
        error: target Q minus V, any shape.
        expectile: in (0, 1); above 0.5 penalises underestimating Q more.

    Returns:
        |expectile - 1(error < 0)| * error^2, same shape.
    """
    return torch.where(error < 0, 1.0 - expectile, expectile) * error.square()


def compute_value_loss(target_q: Tensor, value: Tensor, expectile: float) -> Tensor:
    """Expectile regression of V on the smaller target Q (M1).

    Args:
        target_q: target networks at the data's actions, (2, B); no gradient flows into it.
        value: V at the same observations, (B,).
        expectile: in (0, 1).
    """
    return compute_expectile_loss(target_q.amin(0).detach() - value, expectile).mean()


def compute_q_targets(n_step_rewards: Tensor, bootstrap_discounts: Tensor, bootstrap_values: Tensor) -> Tensor:
    """n-step return with the value of the observation where the rewards stop (M2), (B,).

    Args:
        n_step_rewards: (B,) discounted sum of the rewards really taken.
        bootstrap_discounts: (B,) discount^k, 0 after a real end.
        bootstrap_values: (B,) V at the bootstrap observations.
    """
    return n_step_rewards + bootstrap_discounts * bootstrap_values


def compute_q_loss(q: Tensor, targets: Tensor) -> Tensor:
    """Squared error of both Q estimates, (2, B) against (B,); the twins' means are added (M2)."""
    return (q - targets.detach()).square().mean(1).sum()
