"""Correlation and calibration of two measurements of the same steps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vdt.evaluation.records import Calibration

BINS = 10  # of predicted values, with equally many steps


def compute_correlation(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> float | None:
    """Return Pearson's correlation of two (N,) arrays; none where one of them never changes."""
    if not np.ptp(one) or not np.ptp(other):
        return None
    return float(np.corrcoef(one, other)[0, 1])


def compute_calibration(predicted: npt.NDArray[np.float64], earned: npt.NDArray[np.float64]) -> Calibration:
    """Compute the calibration of N predictions, (N,), against what was earned, (N,); N is at least one."""
    order = np.argsort(predicted, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    return Calibration(
        predicted=[float(predicted[part].mean()) for part in bins],
        earned=[float(earned[part].mean()) for part in bins],
        steps=len(predicted),
        bias=float((predicted - earned).mean()),
        correlation=compute_correlation(predicted, earned),
    )
