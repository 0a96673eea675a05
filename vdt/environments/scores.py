"""Where returns become D4RL's normalized scores, and successes become rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", float, npt.NDArray[np.float64])
NORMAL_QUANTILE = 1.959963984540054  # of 97.5 %, for two-sided intervals of 95 %


def compute_normalized_score(episode_return: T, reference_min: float, reference_max: float) -> T:
    """0 for the reference random policy, 100 for the reference expert.

    Args:
        episode_return: undiscounted, in the environment's reward units; one number or an array.
        reference_min: mean return of the random policy (`task.reference_return_min`).
        reference_max: mean return of the expert (`task.reference_return_max`).
    """
    return 100.0 * (episode_return - reference_min) / (reference_max - reference_min)


def compute_wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a success rate, in [0, 1]; it stays inside, and is wide where there are few trials.

    Args:
        successes: how many trials succeeded.
        trials: independent and alike.

    Raises:
        ValueError: if there is no trial, or there are more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"a success rate needs 0 to n successes of n >= 1 trials, not {successes} of {trials}")
    rate, square = successes / trials, NORMAL_QUANTILE**2
    middle = (rate + square / (2 * trials)) / (1 + square / trials)
    half = NORMAL_QUANTILE / (1 + square / trials) * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def format_success(successes: Sequence[bool]) -> str:
    """Rate and Wilson's interval in words, e.g. "60% (31-83%)"."""
    low, high = compute_wilson_interval(sum(successes), len(successes))
    return f"{sum(successes) / len(successes):.0%} ({100 * low:.0f}-{100 * high:.0f}%)"


def format_return(episode_return: float) -> str:
    """Without decimals from 100 on, else with two: sparse rewards add up to small returns."""
    return f"{episode_return:.0f}" if abs(episode_return) >= 100 else f"{episode_return:.2f}"
