"""Range of an environment's actions; the data's and the networks' are from -1 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from vdt.data.trajectory import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

Numbers = TypeVar("Numbers", FloatArray, "Tensor")


def make_range_recipe(low: Sequence[float], high: Sequence[float]) -> dict[str, list[float]]:
    """Return what a snapshot's recipe says of a given range, one number a component; nothing of -1 to 1."""
    return {"action_low": list(low), "action_high": list(high)} if low else {}


def scale_actions(actions: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Map actions (..., A) from [-1, 1] to [`low`, `high`], each (A,)."""
    scaled: Numbers = low + (actions + 1.0) / 2.0 * (high - low)
    return scaled
