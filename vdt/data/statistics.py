"""Means and standard deviations of recordings, in NumPy alone: the step that fetches data starts without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from vdt.data.trajectory import BLOCK_ROWS, TrajectoryDataset

MIN_STD = 1e-6  # a constant dimension is only centred
MIN_REWARD_STD = 1e-6  # share of the largest reward: below it rewards are constant but for rounding
TINY = (
    f"observation components that vary, but with a standard deviation below {MIN_STD:g}, are not scaled, so the networks "
    "hardly see them; record them in a smaller unit, so that the numbers are larger. Counted from 0"
)
CONSTANT = (
    "observation components never change, as far as float32 tells (7 digits), so the policy has learnt nothing about other "
    "values of them; leave them out, always give that value, or record the difference from a start. Counted from 0"
)
COARSE_SHARE = 0.05  # of the standard deviation
COARSE = (
    "observation components vary little beside their size, so float32 (7 digits) rounds away a part of what they say; record the "
    "difference from a start. Counted from 0"
)


def measure_observations(dataset: TrajectoryDataset) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of each observation component, (S,) each, over all recorded observations."""
    mean = _average_rows(dataset.iterate_blocks("observations"))
    deviations = (block - mean for block in dataset.iterate_blocks("observations"))
    return mean, np.sqrt(_average_rows(np.square(block) for block in deviations))


def measure_rewards(dataset: TrajectoryDataset, return_scale: float) -> tuple[float, float]:
    """Return mean and standard deviation of the rewards of all steps, divided by the return scale; 1 where they are constant."""
    steps = dataset.steps

    def read(start: int, stop: int) -> npt.NDArray[np.float64]:
        return dataset.read_step_rewards(start, stop).astype(np.float64) / return_scale

    mean = _sum_pairwise(read, 0, steps) / steps
    std = math.sqrt(_sum_pairwise(lambda start, stop: np.square(read(start, stop) - mean), 0, steps) / steps)
    largest = max(float(np.abs(block).max()) for block in dataset.iterate_blocks("rewards", steps=True))
    return mean, std if std > MIN_REWARD_STD * (largest / return_scale) else 1.0


def describe_observation_doubts(dataset: TrajectoryDataset) -> list[str]:
    """Return a sentence each on components that vary too little to be scaled, never change, or are rounded coarsely."""
    deviation = measure_observations(dataset)[1]
    tiny = deviation < MIN_STD
    blocks = [(block.min(axis=0), block.max(axis=0)) for block in dataset.iterate_blocks("observations")]
    low, high = np.min([low for low, _ in blocks], axis=0), np.max([high for _, high in blocks], axis=0)
    coarse = np.spacing(np.maximum(np.abs(low), np.abs(high))) > COARSE_SHARE * deviation
    varies = low < high
    found = [(tiny & varies, TINY), (~varies, CONSTANT), (coarse & varies & ~tiny, COARSE)]
    return [f"{what}: {', '.join(map(str, np.flatnonzero(which)))}" for which, what in found if which.any()]


def _average_rows(blocks: Iterable[npt.NDArray[np.floating]]) -> npt.NDArray[np.float64]:
    """Return the mean over the rows of all blocks (N, S), (S,): equal to the bit however the rows are divided."""
    total: npt.NDArray[np.float64] | None = None
    count = 0
    for block in blocks:
        rows = block if total is None else np.concatenate([total[None], block])  # NumPy adds one row after the other
        total, count = np.add.reduce(rows, axis=0, dtype=np.float64), count + len(block)
    assert total is not None
    return total / count


def _sum_pairwise(read: Callable[[int, int], npt.NDArray[np.float64]], start: int, count: int) -> float:
    """Return the sum of `count` numbers, which `read` gives by first and last (exclusive), in the order of NumPy's sum."""
    if count <= BLOCK_ROWS:
        return float(np.add.reduce(read(start, start + count)))
    half = count // 2 - count // 2 % 8
    return _sum_pairwise(read, start, half) + _sum_pairwise(read, start + half, count - half)
