"""Correlation of two measurements of the same steps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def compute_correlation(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> float | None:
    """Return Pearson's correlation of two (N,) arrays; none where one of them never changes."""
    if not np.ptp(one) or not np.ptp(other):
        return None
    from scipy.stats import pearsonr  # here: half a second, and not every policy has a critic

    return float(pearsonr(one, other).statistic)
