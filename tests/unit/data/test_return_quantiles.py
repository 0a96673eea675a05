"""Returns to ask for: rounded, but never beyond what tells the data's returns apart."""

import numpy as np
import pytest

from vdt.data.return_quantiles import compute_return_quantiles

SHARES = (0.99, 0.9, 0.75)


def test_returns_are_asked_for_with_four_digits_golden() -> None:
    assert compute_return_quantiles(np.linspace(0.0, 3019.6, 101), SHARES) == (2989.0, 2718.0, 2265.0)


@pytest.mark.parametrize("offset", [20_000.0, -20_000.0, 1e6])
def test_returns_that_hardly_differ_stay_apart_and_within_the_data(offset: float) -> None:
    """A reward of 100 a step, of 200 steps: four digits would ask for 20000, below the worst episode."""
    returns = offset + np.linspace(1.0, 4.6, 11)
    found = compute_return_quantiles(returns, SHARES)
    assert len(set(found)) == 3 and all(returns.min() <= value <= returns.max() for value in found)
    assert np.allclose(found, np.quantile(returns, SHARES), atol=0.036)


def test_equal_returns_are_asked_for_as_they_are() -> None:
    assert compute_return_quantiles([1234.5, 1234.5], (0.99,)) == (1234.5,)
