"""Scores: D4RL's normalized scores, success rates, standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vdt.config.schema import Config
from vdt.data.trajectory import Trajectory

T = TypeVar("T", float, npt.NDArray[np.float64])


def compute_normalized_score(episode_return: T, reference_min: float, reference_max: float) -> T:
    """Compute the score that is 0 for the reference random policy and 100 for the reference expert.

    Args:
        episode_return: undiscounted, in the environment's reward units; one number or an array.
        reference_min: mean return of the random policy (`task.reference_return_min`).
        reference_max: mean return of the expert (`task.reference_return_max`).
    """
    return 100.0 * (episode_return - reference_min) / (reference_max - reference_min)


def compute_wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a success rate, in [0, 1]; it is wide where there are few trials.

    Args:
        successes: how many trials succeeded.
        trials: independent and alike.

    Raises:
        ValueError: if there is no trial, or there are more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"a success rate needs 0 to n successes of n >= 1 trials, not {successes} of {trials}")
    from scipy.stats import binomtest  # here: most environments report no success

    interval = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def compute_standard_error(values: Sequence[float] | npt.NDArray[np.floating]) -> float | None:
    """Return the sample standard deviation (n - 1) over the square root of n; none for fewer than two values."""
    count = len(values)
    return float(np.std(np.asarray(values, np.float64), ddof=1) / math.sqrt(count)) if count > 1 else None


def describe_score(mean: float, standard_error: float | None, episodes: int) -> str:
    """Return a mean score over episodes in words; one episode has no standard error."""
    if standard_error is None:
        return f"normalized_score {mean:.1f} (1 episode)"
    return f"normalized_score {mean:.1f} ± {standard_error:.1f} (standard error, {episodes} episodes)"


def score_episodes(trajectories: Iterable[Trajectory], config: Config) -> list[float | None]:
    """Return the normalized_score of each episode; none for one that was cut short.

    References are returns of whole episodes. An episode that `evaluation.max_episode_steps` stopped before the task's
    horizon is not comparable with them.
    """
    task, limit = config.task, config.evaluation.max_episode_steps
    return [
        None
        if 0 < limit < task.horizon and len(trajectory) >= limit and not trajectory.terminated
        else compute_normalized_score(trajectory.episode_return, task.reference_return_min, task.reference_return_max)
        for trajectory in trajectories
    ]


def format_success(successes: Sequence[bool]) -> str:
    """Return rate and Wilson's interval as text, e.g. "60% (31-83%)"."""
    low, high = compute_wilson_interval(sum(successes), len(successes))
    return f"{sum(successes) / len(successes):.0%} ({100 * low:.0f}-{100 * high:.0f}%)"


def describe_cut(cut_at: int | None) -> str:
    """Return the text in place of a normalized score, e.g. "cut at 50 steps"; empty for whole episodes."""
    return "" if cut_at is None else f"cut at {cut_at} steps"


def format_return(episode_return: float) -> str:
    """Format a return without decimals from 100 on, else with two: sparse rewards add up to small returns."""
    return f"{episode_return:.0f}" if abs(episode_return) >= 100 else f"{episode_return:.2f}"
