"""Network arithmetic whose result is the same, to the last bit, on every processor.

A rounded sum of products depends on the order of its terms, on the width of the processor's registers and on fused
multiply-add. Here nothing is rounded: factors are integer multiples of powers of two. They are few enough bits apart
that float64 holds every product and every partial sum exactly. A matrix product by any BLAS is then the same. All else
consists of elementwise `+ - * /` and roundings, which IEEE 754 defines to the bit. The functions exp, log and tanh of
NumPy and of the C library are not so defined, and are not used.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vdt.environments.reproducible import round_to_grid

Array = npt.NDArray[np.float64]

VALUE_BITS = 18  # inputs of a layer are multiples of 2^-18 …
VALUE_LIMIT = 256.0  # … between -256 and 256
FLOAT_BITS = 53  # of float64: whole numbers up to 2^53 are exact


def round_values(values: Array, limit: float = VALUE_LIMIT) -> Array:
    """Return values that may enter a layer: clipped to [-limit, limit], and on the grid."""
    return round_to_grid(np.clip(values, -limit, limit), VALUE_BITS)


def round_weights(weights: npt.NDArray[np.floating]) -> Array:
    """Return a weight matrix (inputs, outputs) on the finest grid on which its products sum up exactly."""
    exact = weights.astype(np.float64)
    largest = VALUE_LIMIT * float(np.abs(exact).sum(axis=0).max())
    return round_to_grid(exact, FLOAT_BITS - 1 - VALUE_BITS - math.frexp(largest)[1])


def compute_tanh(values: Array) -> Array:
    """Return tanh, elementwise, with an absolute error below 1e-8.

    It uses Lambert's continued fraction for an eighth of the argument, then three times tanh(2x) = 2 tanh(x) / (1 +
    tanh(x)^2).
    """
    eighth = np.clip(values, -10.0, 10.0) * 0.125
    square = eighth * eighth
    result = eighth / (1.0 + square / (3.0 + square / (5.0 + square / (7.0 + square / 9.0))))
    for _ in range(3):
        result = (result + result) / (1.0 + result * result)
    return np.asarray(result)


def compute_exp(values: Array) -> Array:
    """Return exp, elementwise, of values between -20 and 2: (1 + tanh(x / 2)) / (1 - tanh(x / 2))."""
    tanh = compute_tanh(values * 0.5)
    return np.asarray((1.0 + tanh) / (1.0 - tanh))
