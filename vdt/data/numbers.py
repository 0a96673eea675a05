"""Numbers that come from the caller's program: converted to float32, or refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.data.trajectory import FloatArray


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


def expect_finite(rows: FloatArray, what: str, active: npt.NDArray[np.bool_] | None = None) -> None:
    """Check that numbers are finite.

    Args:
        rows: of any shape.
        what: names them in the error.
        active: (N,), which of the N rows count; all if not given.

    Raises:
        ValueError: naming the first place that is not finite.
    """
    bad = ~np.isfinite(rows)
    if active is not None:
        bad &= active.reshape(-1, *[1] * (rows.ndim - 1))
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        shown = list(place) if place else ""
        raise ValueError(f"{what}{shown} is not a finite float32 number: {rows[place]}")
