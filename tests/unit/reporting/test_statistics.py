"""Statistics against arithmetic by hand, slow literal versions, and laws."""

import itertools
import statistics
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from vdt.reporting.statistics import (
    bootstrap,
    compute_improvement_interval,
    compute_iqm,
    compute_iqm_interval,
    compute_probability_of_improvement,
    compute_profile,
    compute_profile_band,
    resample,
)

TASKS = [[3.0, 9.0, 4.0], [60.0, 61.0, 20.0], [100.0, 7.0, 8.0]]
OTHERS = [[3.0, 3.0], [99.0, 1.0], [50.0, 7.5]]


def test_a_single_run_is_its_own_interval_and_waits_for_no_library() -> None:
    code = """import sys
from vdt.reporting.statistics import Interval, compute_iqm_interval
assert compute_iqm_interval([[41.5]]) == Interval(41.5, 41.5, 41.5)
assert "scipy.stats" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_iqm_by_hand() -> None:
    # eight runs of two tasks, sorted 0 1 2 3 4 5 6 100: without two at either end (2 + 3 + 4 + 5) / 4
    assert compute_iqm([[100.0, 0.0, 3.0, 5.0], [1.0, 6.0, 2.0, 4.0]]) == 3.5
    # three runs: a quarter of three is no whole run, so nothing is left out: (1 + 2 + 30) / 3
    assert compute_iqm([[1.0, 2.0, 30.0]]) == 11.0


def test_iqm_counts_each_task_the_same_by_hand() -> None:
    # a task with one run of three counts as three such runs: of 10 10 10 10 100 100 one at either end is left out
    assert compute_iqm([[10.0, 100.0, 100.0], [10.0]]) == pytest.approx(130 / 4)
    assert compute_iqm([[10.0, 100.0, 100.0], [10.0]]) == pytest.approx(compute_iqm([[10.0, 100.0, 100.0], [10.0] * 3]))
    # two runs of three: each counts one and a half; of 1, 2, 3 and 4, 5 the 1 and two thirds of the 5 are left out
    assert compute_iqm([[1.0, 2.0, 3.0], [4.0, 5.0]]) == pytest.approx((2 + 3 + 1.5 * 4 + 0.5 * 5) / 4)


def test_an_interval_counts_each_task_the_same() -> None:
    """Runs do not differ within a task: each resample is the scores themselves, in whatever number."""
    uneven = compute_iqm_interval([[0.0, 0.0, 0.0, 0.0], [100.0]])
    assert (uneven.low, uneven.value, uneven.high) == (50.0, 50.0, 50.0)


def test_probability_of_improvement_by_hand() -> None:
    # task 1: of the pairs (1,2) (1,0) (3,2) (3,0) three are won: 0.75; task 2: (5,5) is a tie: 0.5
    assert compute_probability_of_improvement([[1.0, 3.0], [5.0]], [[2.0, 0.0], [5.0]]) == (0.75 + 0.5) / 2


def test_profile_by_hand() -> None:
    # above 2: both of task 1, none of the four of task 2: (1 + 0) / 2; above 0: all; above 3: one of two: 0.25
    assert compute_profile([[3.0, 4.0], [1.0, 1.0, 2.0, 2.0]], [0.0, 2.0, 3.0]) == [1.0, 0.5, 0.25]


def compute_iqm_literally(runs: Sequence[float]) -> float:
    left_out = len(runs) // 4
    kept = sorted(runs)[left_out : len(runs) - left_out]
    return sum(kept) / len(kept)


def compute_improvement_literally(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    shares = []
    for a, b in zip(first, second, strict=True):
        wins = [1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b]
        shares.append(sum(wins) / len(wins))
    return sum(shares) / len(shares)


def test_against_literal_versions() -> None:
    assert compute_iqm(TASKS) == pytest.approx(compute_iqm_literally([x for task in TASKS for x in task]))
    assert compute_probability_of_improvement(TASKS, OTHERS) == compute_improvement_literally(TASKS, OTHERS)
    for threshold in (3.0, 7.7, 61.0, 1000.0):
        literal = statistics.mean(sum(x > threshold for x in task) / len(task) for task in TASKS)
        assert compute_profile(TASKS, [threshold]) == [pytest.approx(literal)]


def test_interval_against_all_resamples() -> None:
    """Two tasks of three runs have 27 * 27 equally likely resamples; the bootstrap must find their quantiles."""
    tasks = TASKS[:2]
    every = [
        compute_iqm_literally([*a, *b])
        for a in itertools.product(tasks[0], repeat=3)
        for b in itertools.product(tasks[1], repeat=3)
    ]
    low, high = np.quantile(every, (0.025, 0.975))
    interval = compute_iqm_interval(tasks, resamples=40_000)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=0.5), pytest.approx(high, abs=0.5))
    assert interval.value == compute_iqm(tasks)
    pairs = [
        compute_improvement_literally([a, b], [c, d])
        for a in itertools.product(tasks[0], repeat=3)
        for b in itertools.product(tasks[1], repeat=3)
        for c in itertools.product(OTHERS[0], repeat=2)
        for d in itertools.product(OTHERS[1], repeat=2)
    ]
    share = compute_improvement_interval(tasks, OTHERS[:2], resamples=40_000)
    assert (share.low, share.high) == pytest.approx(tuple(np.quantile(pairs, (0.025, 0.975))))


def test_tasks_are_resampled_apart() -> None:
    """A bootstrap over all runs together would mix the tasks, whose runs do not differ among themselves here."""
    assert bootstrap([[0.0, 0.0], [100.0, 100.0]], lambda tasks: np.concatenate(tasks, 1).mean(1)) == (50.0, 50.0)
    interval = compute_iqm_interval([[0.0, 0.0], [100.0, 100.0]])
    assert (interval.low, interval.value, interval.high) == (50.0, 50.0, 50.0)


def test_data_sets_of_an_env_are_resampled_too() -> None:
    """Two data sets whose runs do not differ: both are the first with probability 1/4, both the second with 1/4."""
    tasks = [[0.0, 0.0, 0.0], [10.0, 10.0]]
    assert compute_iqm_interval(tasks).low == compute_iqm_interval(tasks).high  # runs alone say nothing of that
    both = compute_iqm_interval(tasks, envs=["walker2d", "walker2d"])
    assert (both.low, both.high) == (0.0, 10.0)
    apart = compute_iqm_interval(tasks, envs=["walker2d", "hopper"])
    assert (apart.low, apart.high) == (apart.value, apart.value)
    assert compute_iqm_interval(TASKS, envs=range(len(TASKS))) == compute_iqm_interval(TASKS)


def test_a_profiles_band_resamples_data_sets_too() -> None:
    tasks = [[10.0, 10.0], [90.0, 90.0]]
    assert compute_profile_band(tasks, [50.0]) == ([0.5], [0.5])
    assert compute_profile_band(tasks, [50.0], envs=[0, 0]) == ([0.0], [1.0])


def test_two_level_interval_against_all_resamples() -> None:
    """Two data sets of two runs: a slot has 2 data sets x 4 draws, so 64 equally likely resamples."""
    tasks = [[1.0, 2.0], [5.0, 9.0]]
    slots = [draw for task in tasks for draw in itertools.product(task, repeat=2)]
    every = [sum([*a, *b]) / 4 for a in slots for b in slots]
    found = bootstrap(tasks, lambda drawn: np.concatenate(drawn, 1).mean(1), resamples=200_000, envs=[0, 0])
    assert found == pytest.approx(tuple(np.quantile(every, (0.025, 0.975))), abs=0.05)
    means = resample(tasks, resamples=200_000, envs=[0, 0])
    assert np.concatenate(means, 1).mean() == pytest.approx(4.25, abs=0.02)


def test_both_methods_are_compared_on_the_same_drawn_data_sets() -> None:
    """The method wins on each data set, but its runs on the first are below the other's on the second."""
    ours, theirs = [[1.0, 1.0], [9.0, 9.0]], [[0.0, 0.0], [8.0, 8.0]]
    share = compute_improvement_interval(ours, theirs, envs=[0, 0])
    assert (share.low, share.value, share.high) == (1.0, 1.0, 1.0)


def test_laws() -> None:
    forth, back = (compute_probability_of_improvement(*pair) for pair in ((TASKS, OTHERS), (OTHERS, TASKS)))
    assert forth + back == pytest.approx(1.0)
    assert compute_probability_of_improvement(TASKS, TASKS) == 0.5
    assert compute_iqm_interval(TASKS) == compute_iqm_interval(TASKS), "the same report every time"
    one_run = compute_iqm_interval([[4.0], [6.0]])
    assert (one_run.low, one_run.high) == (5.0, 5.0), "one run per task has no width"
    thresholds = [0.0, 5.0, 50.0, 200.0]
    low, high = compute_profile_band(TASKS, thresholds)
    profile = compute_profile(TASKS, thresholds)
    assert all(a <= b <= c for a, b, c in zip(low, profile, high, strict=True))
    assert profile == sorted(profile, reverse=True)


@pytest.mark.parametrize("scores", [[], [[1.0], []]])
def test_every_task_needs_a_run(scores: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="every task needs at least one run"):
        compute_iqm(scores)
    with pytest.raises(ValueError, match="the same tasks"):
        compute_probability_of_improvement(TASKS, TASKS[:2])
