"""Conversion of a file's numbers to float32, with an account of those that float32 does not hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.data.errors import DataError
from vdt.data.numbers import LARGEST_FLOAT
from vdt.data.trajectory import FloatArray


class FiniteNumbers:
    """Converter of one array, in one piece or block by block."""

    def __init__(self, origin: object, name: str) -> None:
        """Convert an array of a file.

        Args:
            origin: names the file in the error.
            name: of the array.
        """
        self._origin, self._name = origin, name
        self._infinite = self._large = 0
        self._first: tuple[int, float] | None = None  # row and value

    def convert(self, values: npt.NDArray[Any], start: int = 0) -> FloatArray:
        """Return values as float32, whatever they are; `check` refuses those that are not finite then.

        Args:
            values: of real numbers, of any shape.
            start: row of the first of them in the array.
        """
        with np.errstate(over="ignore"):
            numbers: FloatArray = np.asarray(values).astype(np.float32, copy=False)
        wrong = ~np.isfinite(numbers)
        if wrong.any():
            infinite = int((~np.isfinite(values)).sum())
            self._infinite += infinite
            self._large += int(wrong.sum()) - infinite
            if self._first is None:
                place = tuple(np.argwhere(wrong)[0])
                self._first = start + int(place[0] if place else 0), float(np.asarray(values)[place])
        return numbers

    def check(self) -> None:
        """Refuse an array that had values which are not finite, or too large for float32.

        Raises:
            DataError: with their number, and the row and value of the first.
        """
        if self._first is None:
            return
        kinds = [("not finite", self._infinite), ("too large for float32", self._large)]
        what, (row, value) = " or ".join(kind for kind, count in kinds if count), self._first
        raise DataError(
            f"{self._origin}: {self._name!r} has {self._infinite + self._large} values that are {what}, the first in row {row} "
            f"({value:g}); accepted are finite float32, up to {float(LARGEST_FLOAT):.4g}"
        )
