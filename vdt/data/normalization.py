"""Units of the networks: normalised observations and standardised rewards, defined here alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vdt.data.statistics import MIN_STD, measure_observations, measure_rewards
from vdt.data.trajectory import TrajectoryDataset


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
        mean, std = measure_observations(dataset)
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
        return cls(*measure_rewards(dataset, return_scale))

    def standardize(self, rewards: Tensor) -> Tensor:
        """Map rewards divided by the return scale to the head's units, of any shape."""
        return (rewards - self.mean) / self.std

    def restore(self, standardized: Tensor) -> Tensor:
        """Map the head's predictions to rewards divided by the return scale (M6)."""
        return standardized * self.std + self.mean


RETURN_SCALE_UNITS = RewardStatistics()  # the return scale's own, as of release 0.2.0
