"""Range of an environment's actions; the data's and the networks' are from -1 to 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from vdt.data.trajectory import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

Numbers = TypeVar("Numbers", FloatArray, "Tensor")


def scale_actions(actions: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Map actions (..., A) from [-1, 1] to [`low`, `high`], each (A,)."""
    scaled: Numbers = low + (actions + 1.0) / 2.0 * (high - low)
    return scaled
