"""Returns to ask for that lie within the data: quantiles of its episodes' returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

DIGITS = 4
ROUNDING_SHARE = 0.01


def compute_return_percentiles(episode_returns: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Compute the 0th, 1st, …, 100th percentile of episode returns (E,); their quantiles are those of the returns."""
    return tuple(np.percentile(episode_returns, range(101)).tolist())


def compute_return_quantiles(
    episode_returns: npt.NDArray[np.float64] | Sequence[float], shares: Sequence[float]
) -> tuple[float, ...]:
    """Compute quantiles of episode returns (E,), or of their percentiles, rounded to four digits.

    More digits are kept where four would move a quantile by more than a hundredth of the range of the returns.
    """
    tolerance = ROUNDING_SHARE * float(np.max(episode_returns) - np.min(episode_returns))
    return tuple(_round(float(value), tolerance) for value in np.quantile(episode_returns, shares))


def _round(value: float, tolerance: float) -> float:
    """Return the value with the fewest digits, at least four, that move it by no more than the tolerance."""
    rounded = (float(f"{value:.{digits}g}") for digits in range(DIGITS, 17))
    return next((near for near in rounded if abs(near - value) <= tolerance), value)
