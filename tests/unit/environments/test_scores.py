"""Scores and success rates against arithmetic by hand."""

import pytest

from vdt.environments.scores import compute_normalized_score, compute_wilson_interval, format_return, format_success


def test_normalized_score_by_hand() -> None:
    assert compute_normalized_score(3.0, 1.0, 5.0) == 50.0  # 100 (3 - 1) / (5 - 1)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # z = 1.96: z^2 = 3.8415. 8 of 10: (0.8 + 0.19207) / 1.38415 = 0.71674; 1.96 / 1.38415 sqrt(0.016 + 0.0096036) = 0.22657
        (8, 10, 0.49016, 0.94331),
        (0, 10, 0.0, 0.27753),  # high = z^2 / (10 + z^2) = 3.8415 / 13.8415
        (10, 10, 0.72247, 1.0),
        (1, 1, 0.20655, 1.0),  # low = 1 / (1 + z^2)
    ],
)
def test_wilson_interval_by_hand(successes: int, trials: int, low: float, high: float) -> None:
    assert compute_wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_a_rate_needs_trials(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"not {successes} of {trials}"):
        compute_wilson_interval(successes, trials)


def test_words() -> None:
    assert format_success([True] * 8 + [False] * 2) == "80% (49-94%)"
    assert [format_return(value) for value in (2.105, -56.5, 3011.4)] == ["2.10", "-56.50", "3011"]
