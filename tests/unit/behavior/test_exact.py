"""Arithmetic that no processor can do otherwise: sums without rounding, functions made of basic operations."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vdt.behavior.exact import VALUE_LIMIT, compute_exp, compute_tanh, round_values, round_weights
from vdt.behavior.policy import load_ladder
from vdt.config.layers import PARAMS


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_a_matrix_product_is_not_rounded(scale: float) -> None:
    """At the largest values that may enter: any order of summation gives the sum of fractions."""
    generator = np.random.default_rng(0)
    weights = round_weights(scale * generator.standard_normal((200, 3)).astype(np.float32))
    values = round_values(
        VALUE_LIMIT * np.sign(generator.standard_normal((4, 200))) * (1 - generator.random((4, 200)) / 99)
    )
    product = values @ weights
    exact = sum(Fraction(float(v)) * Fraction(float(w)) for v, w in zip(values[0], weights[:, 0], strict=True))
    assert Fraction(float(product[0, 0])) == exact
    order = generator.permutation(200)
    assert np.array_equal(values[:, order] @ weights[order], product)
    assert np.array_equal(np.cumsum(values[:, :, None] * weights, axis=1)[:, -1], product)


@pytest.mark.parametrize("path", sorted((PARAMS / "behavior").glob("*.npz")), ids=lambda path: path.stem)
def test_weights_of_the_ladders_hardly_move(path: Path) -> None:
    for policy in load_ladder(path).policies:
        for weights in policy.weights:
            assert np.abs(round_weights(weights) - weights).max() < 2e-6 * max(1.0, np.abs(weights).max())


def test_functions_are_those_of_their_names() -> None:
    values = np.linspace(-30.0, 30.0, 6001)
    np.testing.assert_allclose(compute_tanh(values), np.tanh(values), rtol=0, atol=1e-8)
    values = np.linspace(-20.0, 2.0, 2001)
    np.testing.assert_allclose(compute_exp(values), np.exp(values), rtol=1e-6, atol=1e-8)


def test_values_are_clipped_and_on_the_grid() -> None:
    assert round_values(np.array([1e9, -1e9, 2.0**-19, 3 * 2.0**-19, -0.3])).tolist() == [
        *(256.0, -256.0, 0.0, 2.0**-17),
        -round(0.3 * 2**18) / 2**18,
    ]
    assert round_values(np.array([50.0, -50.0]), 10.0).tolist() == [10.0, -10.0]
