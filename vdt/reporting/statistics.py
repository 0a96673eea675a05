"""Statistics of scores over runs: pure functions of plain numbers.

Scores come as one sequence per task, with one number per run (the mean over a trained policy's episodes), never one per
episode: the run is the unit of replication. The bootstrap resamples runs within each task, so that every task keeps its
share. With three runs a task an interval is a rough one, and with one run a task it has no width.

Tasks that are data sets of one env are a sample themselves: given the env of each task (`envs`), the bootstrap draws
data sets within each env first, then runs within each drawn data set.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Scores = Sequence[Sequence[float]]  # per task, per run
Envs = Sequence[Hashable]  # of each task
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Estimate with its bootstrap percentile interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:  # one run of each env: the interval has no width and says nothing
            return f"{self.value:.1f}"
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def compute_iqm(scores: Scores) -> float:
    """Compute the interquartile mean: the mean of all tasks' runs without the lowest and the highest quarter of them.

    A task with fewer runs than another, as in a study that is not finished, counts as if it had as many.
    """
    return float(_trim_runs([np.asarray([task], np.float64) for task in _check(scores)])[0])


def _trim_runs(samples: Sequence[Array]) -> Array:
    """Return the interquartile mean of each row: (R, runs) per task -> (R,)."""
    from scipy.stats import trim_mean  # imported here: it takes half a second, which other callers need not wait for

    runs = np.concatenate(samples, axis=1)
    most = max(task.shape[1] for task in samples)
    if runs.shape[1] == most * len(samples):
        means: Array = trim_mean(runs, 0.25, axis=1)
        return means
    weights = np.concatenate([np.full(task.shape, most / task.shape[1]) for task in samples], axis=1)
    order = np.argsort(runs, axis=1)
    runs, weights = (np.take_along_axis(values, order, axis=1) for values in (runs, weights))
    total = most * len(samples)
    left_out, above = total // 4, np.cumsum(weights, axis=1)  # at either end, as `trim_mean` would of `total` runs
    kept = np.clip(np.minimum(above, total - left_out) - np.maximum(above - weights, left_out), 0.0, None)
    weighted: Array = (kept * runs).sum(axis=1) / kept.sum(axis=1)
    return weighted


def compute_iqm_interval(
    scores: Scores, *, seed: int = 0, resamples: int = RESAMPLES, envs: Envs | None = None
) -> Interval:
    """Compute `compute_iqm` with its stratified bootstrap interval."""
    if sum(map(len, _check(scores))) == 1:  # for any sample; avoids the half second of importing SciPy
        return Interval(*[float(scores[0][0])] * 3)
    low, high = bootstrap(scores, _trim_runs, seed=seed, resamples=resamples, envs=envs)
    return Interval(compute_iqm(scores), low, high)


def compute_probability_of_improvement(first: Scores, second: Scores) -> float:
    """Compute the mean over tasks of P(a run of `first` scores above a run of `second`); a tie counts one half.

    Raises:
        ValueError: if the two do not have the same number of tasks.
    """
    if len(_check(first)) != len(_check(second)):
        raise ValueError(f"both need the same tasks; given are {len(first)} and {len(second)}")
    return float(np.mean([_compare(np.asarray([a]), np.asarray([b]))[0] for a, b in zip(first, second, strict=True)]))


def compute_improvement_interval(
    first: Scores, second: Scores, *, seed: int = 0, resamples: int = RESAMPLES, envs: Envs | None = None
) -> Interval:
    """Compute `compute_probability_of_improvement` with its bootstrap interval.

    The bootstrap is stratified; both sides are resampled, on the same drawn data sets.
    """
    value, tasks = compute_probability_of_improvement(first, second), len(first)

    def compute(samples: Sequence[Array]) -> Array:
        shares: Array = np.mean([_compare(samples[i], samples[tasks + i]) for i in range(tasks)], axis=0)
        return shares

    samples = resample(first, second, seed=seed, resamples=resamples, envs=envs)
    low, high = np.quantile(compute(samples), _get_levels())
    return Interval(value, float(low), float(high))


def _compare(first: Array, second: Array) -> Array:
    """Return P(x > y) + P(x = y) / 2 in each row: (R, N), (R, M) -> (R,); Mann and Whitney's U over the pairs."""
    from scipy.stats import mannwhitneyu

    pairs = first.shape[1] * second.shape[1]
    shares: Array = mannwhitneyu(first, second, axis=1, method="asymptotic").statistic / pairs
    return shares


def compute_profile(scores: Scores, thresholds: Sequence[float]) -> list[float]:
    """Compute the performance profile: for each threshold the share of runs above it, every task counting the same."""
    shares = _compute_shares([np.asarray([task], np.float64) for task in _check(scores)], thresholds)
    return [float(share) for share in shares[0]]


def compute_profile_band(
    scores: Scores,
    thresholds: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    envs: Envs | None = None,
) -> tuple[list[float], list[float]]:
    """Compute lower and upper end of the profile's bootstrap interval at each threshold."""
    shares = _compute_shares(resample(scores, seed=seed, resamples=resamples, envs=envs), thresholds)
    low, high = np.quantile(shares, _get_levels(), axis=0)
    return low.tolist(), high.tolist()


def _compute_shares(samples: Sequence[Array], thresholds: Sequence[float]) -> Array:
    """Compute the shares of runs above each threshold: (R, N) per task -> (R, thresholds)."""
    per_task = [(task[:, :, None] > np.asarray(thresholds)).mean(axis=1) for task in samples]
    shares: Array = np.mean(per_task, axis=0)
    return shares


def bootstrap(
    scores: Scores,
    compute: Callable[[Sequence[Array]], Array],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    envs: Envs | None = None,
) -> tuple[float, float]:
    """Compute the percentile interval of a statistic, resampling runs with replacement within each task.

    Args:
        scores: per task, per run.
        compute: resampled scores, (resamples, runs) per task -> the statistic of each row, (resamples,).
        seed: of the resampling, so that a report can be made again to the digit.
        resamples: how many.
        envs: env of each task; data sets of the same env are resampled too.
    """
    low, high = np.quantile(compute(resample(scores, seed=seed, resamples=resamples, envs=envs)), _get_levels())
    return float(low), float(high)


def _get_levels() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def resample(*sides: Scores, seed: int = 0, resamples: int = RESAMPLES, envs: Envs | None = None) -> list[Array]:
    """Draw runs with replacement, within each task, or within each drawn data set of an env.

    Args:
        sides: scores of one method each, over the same tasks. A drawn data set is the same for all sides.
        seed: of the draws.
        resamples: R, how many.
        envs: env of each task; none where each task is an env of its own.

    Returns:
        (R, runs) for each task of the first side, then of the next.
    """
    generator = np.random.default_rng(seed)
    labels = list(envs) if envs is not None else list(range(len(sides[0])))
    places = [[place for place, other in enumerate(labels) if other == label] for label in labels]
    drawn = [None if len(own) == 1 else generator.choice(own, resamples) for own in places]
    samples = []
    for side in sides:
        tasks = [np.asarray(task, np.float64) for task in _check(side)]
        for task, chosen in zip(tasks, drawn, strict=True):
            if chosen is None:
                samples.append(task[generator.integers(0, len(task), (resamples, len(task)))])
            else:
                samples.append(_draw_runs(tasks, chosen, len(task), generator))
    return samples


def _draw_runs(
    tasks: Sequence[Array], chosen: npt.NDArray[np.int64], count: int, generator: np.random.Generator
) -> Array:
    """Draw `count` runs of each chosen task, (R,) -> (R, count); tasks may have different numbers of runs."""
    sizes = np.array([len(task) for task in tasks])
    padded = np.full((len(tasks), sizes.max()), np.nan)
    for row, task in zip(padded, tasks, strict=True):
        row[: len(task)] = task
    runs = (generator.random((len(chosen), count)) * sizes[chosen][:, None]).astype(np.int64)
    drawn: Array = padded[chosen[:, None], runs]
    return drawn


def _check(scores: Scores) -> Scores:
    """Return the scores, if there is a task and every task has a run.

    Raises:
        ValueError: otherwise.
    """
    if not scores or not all(len(task) for task in scores):
        raise ValueError(f"every task needs at least one run; runs per task: {[len(task) for task in scores]}")
    return scores
