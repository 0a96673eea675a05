"""Rewards to targets, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence


def n_step_target_loop(
    rewards: Sequence[float], terminated: bool, discount: float, n_step: int, start: int
) -> tuple[float, int, float]:
    """Sum, steps taken and bootstrap discount of one step, walked by hand (M2)."""
    total, factor, taken, at = 0.0, 1.0, 0, start
    while taken < n_step and at < len(rewards):
        total += factor * float(rewards[at])
        factor *= discount
        taken += 1
        at += 1
    nothing_follows = terminated and at == len(rewards)
    return total, taken, 0.0 if nothing_follows else factor


def returns_to_go_loop(rewards: Sequence[float]) -> list[float]:
    """What was still to come at each step (M4)."""
    result = []
    for start in range(len(rewards)):
        total = 0.0
        for reward in rewards[start:]:
            total += float(reward)
        result.append(total)
    return result
