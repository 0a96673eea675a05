"""Returns to ask for that lie within the data: quantiles of its episodes' returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def compute_return_percentiles(episode_returns: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Compute the 0th, 1st, …, 100th percentile of episode returns (E,); their quantiles are those of the returns."""
    return tuple(np.percentile(episode_returns, range(101)).tolist())


def compute_return_quantiles(
    episode_returns: npt.NDArray[np.float64] | Sequence[float], shares: Sequence[float]
) -> tuple[float, ...]:
    """Compute quantiles of episode returns (E,), or of their percentiles, rounded to four digits."""
    return tuple(float(f"{value:.4g}") for value in np.quantile(episode_returns, shares))
