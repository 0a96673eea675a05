"""Replay buffer: trajectories in one growing matrix on the training device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from vdt.data.normalization import Normalizer
from vdt.data.targets import TargetSettings
from vdt.data.trajectory import Trajectory
from vdt.data.trajectory_store import TrajectoryStore


class TrajectoryReplayBuffer(TrajectoryStore):
    """First-in-first-out store of whole trajectories in memory.

    The matrix doubles when full; held rows are copied, and evicted rows reclaimed, only then. The online buffer evicts;
    an offline set in memory is one that never does.
    """

    def __init__(
        self,
        normalizer: Normalizer,
        settings: TargetSettings,
        *,
        action_size: int,
        capacity: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Start empty; `capacity` counts trajectories, None means no limit."""
        super().__init__(normalizer, settings, action_size=action_size, device=device)
        self.capacity = capacity
        self.trajectories: deque[Trajectory] = deque()
        self._starts: deque[int] = deque()
        self._spare = 0  # rows below the last one, so that windows do not leave the matrix

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self.trajectories)

    def _measure(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        lengths = np.array([len(t) for t in self.trajectories], np.int64)
        return (
            np.array(self._starts, np.int64),
            lengths,
            np.array([t.final_missing for t in self.trajectories], np.bool_),
        )

    def add(self, trajectory: Trajectory) -> None:
        """Append one trajectory; the oldest goes when the buffer is full."""
        self.extend([trajectory])

    def extend(self, trajectories: Iterable[Trajectory]) -> None:
        """Append trajectories in order, keeping the newest `capacity`.

        Raises:
            ValueError: if sizes differ from the buffer's.
        """
        new = list(trajectories)
        if self.capacity is not None:
            new = new[-self.capacity :]
        for trajectory in new:
            self.check_sizes(trajectory.observations.shape[1], trajectory.actions.shape[1])
        while self.capacity is not None and len(self.trajectories) + len(new) > self.capacity:
            self.trajectories.popleft()
            self._starts.popleft()
        self._reserve(sum(len(t) + 1 for t in new))
        for trajectory in new:
            self.fill_rows(self.matrix[self._end : self._end + len(trajectory) + 1], trajectory)
            self.trajectories.append(trajectory)
            self._starts.append(self._end)
            self._end += len(trajectory) + 1
        self._index = self._target_index = None
        self.final_missing = any(trajectory.final_missing for trajectory in self.trajectories)

    def _reserve(self, rows: int) -> None:
        """Make room for `rows` more, dropping evicted rows and doubling when the matrix is full."""
        if self._end + rows + self._spare <= len(self.matrix):
            return
        first = self._starts[0] if self._starts else self._end
        live = self._end - first
        size = max(2 * live, live + rows) if live else rows
        grown = torch.zeros(size + self._spare, self.column.count, device=self.device)
        grown[:live] = self.matrix[first : self._end]
        self.matrix = grown
        self._starts = deque(start - first for start in self._starts)
        self._end = live

    def _extend_below(self, length: int) -> None:
        if length > self._spare:
            self._spare = length
            self.matrix = torch.cat([self.matrix, self.matrix.new_zeros(length, self.column.count)])
