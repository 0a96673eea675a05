"""Terms of the methods beside VDT, one number at a time, with nothing vectorised and nothing shared with the library."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def log_density_loop(action: Row, mean: Row, log_std: Row) -> float:
    """Of one action of tanh(N(mean, std^2)) in (-1, 1): change of variables, dimension by dimension."""
    total = 0.0
    for a, m, s in zip(action, mean, log_std, strict=True):
        u, std = math.atanh(a), math.exp(s)
        density = math.exp(-((u - m) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
        total += math.log(density / (1 - a**2))
    return total


def likelihood_loss_loop(log_densities: Sequence[Row], weights: Sequence[Row], mask: Sequence[Row]) -> float:
    """Mean over real steps of -w log pi(a) (ODT)."""
    total, count = 0.0, 0
    for densities, row, real in zip(log_densities, weights, mask, strict=True):
        for density, weight, here in zip(densities, row, real, strict=True):
            if here:
                total -= weight * density
                count += 1
    return total / count


def scaled_q_term_loop(min_q: Sequence[Row], mask: Sequence[Row]) -> float:
    """Mean Q over mean |Q| of real steps (TD3+BC, QT)."""
    real = [q for row, here in zip(min_q, mask, strict=True) for q, h in zip(row, here, strict=True) if h]
    return (sum(real) / len(real)) / (sum(abs(q) for q in real) / len(real))


def conservative_loss_loop(q: Sequence[Row], proposed: Sequence[Sequence[Row]], log_densities: Sequence[Row]) -> float:
    """Sum over the twins of mean_b [log sum_p exp(Q(s_b, a_pb)) / density_pb - Q(s_b, a_b)] (CQL)."""
    total = 0.0
    for twin, proposals in zip(q, proposed, strict=True):
        for b, of_data in enumerate(twin):
            inside = sum(math.exp(proposals[p][b]) / math.exp(log_densities[p][b]) for p in range(len(proposals)))
            total += (math.log(inside) - of_data) / len(twin)
    return total


def best_episodes_loop(returns: Row, lengths: Sequence[int], fraction: float) -> list[int]:
    """Episodes that %BC keeps: best first while they fit into the share of the steps, at least one."""
    left, kept = fraction * sum(lengths), []
    for episode in sorted(range(len(returns)), key=lambda e: -returns[e]):
        if lengths[episode] > left:
            break
        left -= lengths[episode]
        kept.append(episode)
    return sorted(kept or [max(range(len(returns)), key=lambda e: returns[e])])
