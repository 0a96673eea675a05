"""Units of the networks: normalised observations and standardised rewards, defined here alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vdt.data.trajectory import BLOCK_ROWS, TrajectoryDataset

MIN_STD = 1e-6  # a constant dimension is only centred
MIN_REWARD_STD = 1e-6  # share of the largest reward: below it rewards are constant but for rounding


TINY = (
    f"observation components that vary, but with a standard deviation below {MIN_STD:g}, are not scaled, so the networks "
    "hardly see them; record them in a smaller unit, so that the numbers are larger. Counted from 0"
)
CONSTANT = (
    "observation components never change, so the policy has learnt nothing about other values of them; leave them out, or "
    "always give that value. Counted from 0"
)


@dataclass(frozen=True)
class Normalizer:
    """Per-dimension centring and scaling, frozen after the offline phase.

    Attributes:
        mean: (S,).
        std: (S,), at least the floor, and 1 where the data is constant.
        clip: largest absolute value of a normalised observation; 0 is no limit.
    """

    mean: Tensor
    std: Tensor
    clip: float = 0.0

    @classmethod
    def fit(cls, dataset: TrajectoryDataset, floor: float = 0.0, clip: float = 0.0) -> Normalizer:
        """Compute mean and standard deviation over all recorded observations; a lower `floor` of the latter keeps noise small."""
        mean, std = _measure(dataset)
        std = np.where(std < MIN_STD, 1.0, np.maximum(std, floor))
        return cls(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32), clip)

    def normalize(self, observations: Tensor) -> Tensor:
        """Normalise observations from environment units: (..., S) -> (..., S)."""
        normalized = (observations - self.mean) / self.std
        return normalized.clamp(-self.clip, self.clip) if self.clip > 0 else normalized

    def to(self, device: torch.device) -> Normalizer:
        """Return a copy on `device`."""
        return Normalizer(self.mean.to(device), self.std.to(device), self.clip)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the numbers to store in a checkpoint; the clip is a setting."""
        return {"mean": self.mean, "std": self.std}


def describe_tiny_observations(dataset: TrajectoryDataset) -> list[str]:
    """Return a sentence on components that vary, but too little to be scaled, and one on those that never change, if any do."""
    tiny = _measure(dataset)[1] < MIN_STD
    if not tiny.any():
        return []
    blocks = [(block.min(axis=0), block.max(axis=0)) for block in dataset.iterate_blocks("observations")]
    varies = np.min([low for low, _ in blocks], axis=0) < np.max([high for _, high in blocks], axis=0)
    found = [(tiny & varies, TINY), (~varies, CONSTANT)]
    return [f"{what}: {', '.join(map(str, np.flatnonzero(which)))}" for which, what in found if which.any()]


def _measure(dataset: TrajectoryDataset) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of each observation component."""
    mean = _average_rows(dataset.iterate_blocks("observations"))
    deviations = (block - mean for block in dataset.iterate_blocks("observations"))
    return mean, np.sqrt(_average_rows(np.square(block) for block in deviations))


@dataclass(frozen=True)
class RewardStatistics:
    """Units of the policy's reward head, which predicts (r - mean) / std; frozen after the offline phase.

    In units of the return scale rewards may be as small as 0.003 +- 0.001, which no head predicts better than a constant.

    Attributes:
        mean: of the data's rewards, divided by the return scale.
        std: likewise; 1 where the rewards are constant.
    """

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, dataset: TrajectoryDataset, return_scale: float) -> RewardStatistics:
        """Compute mean and standard deviation over all steps."""
        steps = dataset.steps

        def read(start: int, stop: int) -> npt.NDArray[np.float64]:
            return dataset.read_step_rewards(start, stop).astype(np.float64) / return_scale

        mean = _sum_pairwise(read, 0, steps) / steps
        std = math.sqrt(_sum_pairwise(lambda start, stop: np.square(read(start, stop) - mean), 0, steps) / steps)
        largest = max(float(np.abs(block).max()) for block in dataset.iterate_blocks("rewards", steps=True))
        return cls(mean, std if std > MIN_REWARD_STD * (largest / return_scale) else 1.0)

    def standardize(self, rewards: Tensor) -> Tensor:
        """Map rewards divided by the return scale to the head's units, of any shape."""
        return (rewards - self.mean) / self.std

    def restore(self, standardized: Tensor) -> Tensor:
        """Map the head's predictions to rewards divided by the return scale (M6)."""
        return standardized * self.std + self.mean


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


RETURN_SCALE_UNITS = RewardStatistics()  # the return scale's own, as of release 0.2.0
