"""The policy's objective (M3) step by step, with nothing vectorised and nothing shared with the library."""

from __future__ import annotations

import math

from torch import Tensor

from vdt.data.batches import SequenceBatch
from vdt.policy.decision_transformer import PolicyOutput


def decision_transformer_loss_loop(output: PolicyOutput, batch: SequenceBatch) -> Tensor:
    """Plain Decision Transformer: mean over real steps of the mean squared error of action, observation and reward."""
    assert output.next_observations is not None and output.rewards is not None
    terms = []
    for b, row in enumerate(batch.mask):
        for k, real in enumerate(row):
            if real:
                action = (output.actions[b, k] - batch.actions[b, k]).square().mean()
                observation = (output.next_observations[b, k] - batch.next_observations[b, k]).square().mean()
                terms.append(action + observation + (output.rewards[b, k] - batch.rewards[b, k]).square())
    total: Tensor = sum(terms) / len(terms)  # type: ignore[assignment]
    return total


def poster_loss_loop(
    predicted: Tensor, actions: Tensor, advantages: Tensor, min_q: Tensor, mask: Tensor, eta: float, coefficient: float
) -> float:
    """Mean over real steps of exp(eta A) ||pi - a||^2 - lambda min Q(s, pi), as the poster prints it."""
    terms = []
    for b, row in enumerate(mask.tolist()):
        for k, real in enumerate(row):
            if real:
                pairs = zip(predicted[b, k].tolist(), actions[b, k].tolist(), strict=True)
                error = sum((p - a) ** 2 for p, a in pairs)
                terms.append(math.exp(eta * float(advantages[b, k])) * error - coefficient * float(min_q[b, k]))
    return sum(terms) / len(terms)


def behavior_loss_loop(
    predicted: Tensor, actions: Tensor, advantages: Tensor, mask: Tensor, eta: float, w_max: float
) -> float:
    """Mean over real steps of min(exp(eta A), w_max) ||pi - a||^2."""
    total, count = 0.0, 0
    for b, row in enumerate(mask.tolist()):
        for k, real in enumerate(row):
            if real:
                weight = min(math.exp(eta * float(advantages[b, k])), w_max)
                total += weight * sum(
                    (p - a) ** 2 for p, a in zip(predicted[b, k].tolist(), actions[b, k].tolist(), strict=True)
                )
                count += 1
    return total / count
