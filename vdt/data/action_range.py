"""Range of an environment's actions; the data's and the networks' are from -1 to 1."""

from __future__ import annotations

from vdt.data.trajectory import FloatArray


def scale_actions(actions: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Map actions (..., A) from [-1, 1] to [`low`, `high`], each (A,)."""
    scaled: FloatArray = low + (actions + 1.0) / 2.0 * (high - low)
    return scaled
