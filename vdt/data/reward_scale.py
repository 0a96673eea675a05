"""The factor on the critic's rewards."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MIN_SPREAD = 0.01  # share of the largest return: a smaller range is not scaled by


def compute_reward_scale(scaling: str, episode_returns: npt.NDArray[np.float64]) -> float:
    """Compute the factor that brings the critic's advantages to O(1).

    Args:
        scaling: "return_range" for 1000 / (best - worst episode return), IQL's rule for the gym tasks; "none" for 1. Where
            returns are nearly equal their range is noise, and the largest of them takes its place; 1 where all are equal.
        episode_returns: undiscounted, (E,).
    """
    if scaling == "none":
        return 1.0
    spread, largest = float(np.ptp(episode_returns)), float(np.abs(episode_returns).max())
    if spread == 0:
        return 1.0
    return 1000.0 / (spread if spread >= MIN_SPREAD * largest else largest)


def describe_reward_scale(scaling: str, episode_returns: npt.NDArray[np.float64]) -> list[str]:
    """Return remarks on an unusual reward scale of the critic, one sentence each; empty where the range decides."""
    spread, largest = float(np.ptp(episode_returns)), float(np.abs(episode_returns).max())
    if scaling == "none" or spread == 0 or spread >= MIN_SPREAD * largest:
        return []
    scale = compute_reward_scale(scaling, episode_returns)
    return [
        f"episode returns differ by {spread:.3g} only, less than {MIN_SPREAD:.0%} of the largest ({largest:.4g}): the "
        f"critic's reward scale is {scale:.4g}, not 1000 / {spread:.3g}"
    ]
