"""Numbers that come from the caller's program: converted to float32, or refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.data.trajectory import FloatArray

LARGEST_FLOAT = np.array(np.finfo(np.float32).max)


def read_numbers(value: Any, what: str) -> FloatArray:
    """Return numbers as float32, whatever their shape; what is too large for it becomes infinite.

    Args:
        value: array or nested sequence.
        what: names it in errors.

    Raises:
        ValueError: if it is no array of real numbers.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of unequal length, a tensor on a GPU
        raise ValueError(f"{what} must be an array of numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} must be numbers, not {type(value).__name__} of {array.dtype}")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def expect_finite(
    rows: FloatArray, what: str, active: npt.NDArray[np.bool_] | None = None, limit: FloatArray = LARGEST_FLOAT
) -> None:
    """Check that numbers are finite, and not larger than a limit.

    Args:
        rows: of any shape.
        what: names them in the error.
        active: (N,), which of the N rows count; all if not given.
        limit: largest absolute value that is accepted, one for all or one for each column.

    Raises:
        ValueError: naming the first place that is not finite or too large.
    """
    bad = ~(np.abs(rows) <= limit)  # NaN is not
    if active is not None:
        bad &= active.reshape(-1, *[1] * (rows.ndim - 1))
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        name, of, whole = what.partition(" of ")  # "rewards of episode 1" -> "rewards[0] of episode 1"
        shown, value = f"{name}{list(place) if place else ''}{of}{whole}", rows[place]
        if not np.isfinite(value):
            raise ValueError(f"{shown} is not a finite float32 number: {value}")
        accepted = np.broadcast_to(limit, rows.shape)[place]
        raise ValueError(f"{shown} is too large for the policy: {value:g}; accepted is -{accepted:g} to {accepted:g}")
