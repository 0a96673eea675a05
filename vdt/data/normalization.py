"""Normalisation of raw observations, defined here alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vdt.data.trajectory import TrajectoryDataset

MIN_STD = 1e-6  # a constant dimension is only centred


@dataclass(frozen=True)
class Normalizer:
    """Per-dimension centring and scaling, frozen after the offline phase.

    Attributes:
        mean: (S,).
        std: (S,), at least the floor, and 1 where the data is constant.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, dataset: TrajectoryDataset, floor: float = 0.0) -> Normalizer:
        """Compute mean and standard deviation over all recorded observations; a lower `floor` of the latter keeps noise small."""
        observations = dataset.select_recorded_observations()
        mean = observations.mean(axis=0, dtype=np.float64)
        std = observations.std(axis=0, dtype=np.float64)
        std = np.where(std < MIN_STD, 1.0, np.maximum(std, floor))
        return cls(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))

    def normalize(self, observations: Tensor) -> Tensor:
        """Normalise observations from environment units: (..., S) -> (..., S)."""
        return (observations - self.mean) / self.std

    def to(self, device: torch.device) -> Normalizer:
        """Return a copy on `device`."""
        return Normalizer(self.mean.to(device), self.std.to(device))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the numbers to store in a checkpoint."""
        return {"mean": self.mean, "std": self.std}
