"""Trajectory stores: trajectories as rows of one matrix, normalised and with their targets; the source of every batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vdt.data.normalization import Normalizer
from vdt.data.targets import TargetSettings, compute_n_step_targets, compute_returns_to_go
from vdt.data.trajectory import BLOCK_ROWS, FloatArray, Trajectory

LISTED_STEPS = 2**24  # of more steps, rows are computed when they are drawn: a list would take 128 MB and more
EVERY = slice(None)  # column


@dataclass(frozen=True)
class Columns:
    """Column layout of the buffer's matrix, in this order.

    Attributes:
        observation: S columns, normalised.
        action: A columns.
        reward: divided by the return scale.
        return_to_go: this and all later rewards, divided by the return scale.
        n_step_reward: discounted sum of the critic's next rewards (M2).
        bootstrap_steps: rows down to the observation where that sum stops; 0 where the next observation is missing, so
            that the critic has no target.
        bootstrap_discount: 0 after termination.
        timestep: steps since the start of the episode.
        steps_left: of the episode, this one included; 0 in the row of the final observation.
        count: of all columns.
    """

    observation: slice
    action: slice
    reward: int
    return_to_go: int
    n_step_reward: int
    bootstrap_steps: int
    bootstrap_discount: int
    timestep: int
    steps_left: int
    count: int

    @classmethod
    def make(cls, observation_size: int, action_size: int) -> Columns:
        """Make the layout for these sizes."""
        first = observation_size + action_size
        observation, action = slice(0, observation_size), slice(observation_size, first)
        t = first
        return cls(observation, action, t, t + 1, t + 2, t + 3, t + 4, t + 5, t + 6, t + 7)


class StepRows:
    """Rows of all steps of an index, by the steps' numbers.

    Attributes:
        count: of the steps.
    """

    def __init__(self, starts: Tensor, lengths: Tensor) -> None:
        """Count the steps of trajectories with these first rows (E,) and steps (E,), at least 1 each."""
        self.count = int(lengths.sum())
        self._starts, self._before = starts, torch.cumsum(lengths, 0) - lengths  # steps of older trajectories
        self._listed = list_rows(starts, lengths) if self.count <= LISTED_STEPS else None

    def select(self, numbers: Tensor) -> Tensor:
        """Return the rows of steps, (B,), by their numbers (B,), int64."""
        if self._listed is not None:
            return self._listed.index_select(0, numbers)
        trajectory = torch.searchsorted(self._before, numbers, right=True) - 1
        return self._starts[trajectory] + (numbers - self._before[trajectory])


def list_rows(starts: Tensor, lengths: Tensor) -> Tensor:
    """List the rows of trajectories with these first rows (E,) and numbers of rows (E,), one after another, int64."""
    before = torch.cumsum(lengths, 0) - lengths
    return torch.arange(int(lengths.sum()), device=starts.device) + torch.repeat_interleave(starts - before, lengths)


class TrajectoryStore(ABC):
    """Trajectories, normalised and with their targets, in one matrix.

    Each row holds one observation with the action, reward and targets that follow it (`Columns`). A trajectory of T
    steps owns T + 1 rows, so next observations are the rows below.

    Attributes:
        device: of every tensor that is returned, and of every row number that is given.
        matrix: (rows, columns). Other code reads it through `take` and `gather_windows`.
        final_missing: whether any trajectory misses its final observation.
    """

    def __init__(
        self, normalizer: Normalizer, settings: TargetSettings, *, action_size: int, device: torch.device | None = None
    ) -> None:
        """Start without trajectories."""
        self.normalizer = normalizer
        self.settings = settings
        self.device = device or torch.device("cpu")
        self.observation_size = len(normalizer.mean)
        self.action_size = action_size
        self.column = Columns.make(self.observation_size, action_size)
        self.matrix = torch.zeros(0, self.column.count, device=self.device)
        self.final_missing = False
        self._end = 0
        self._index: tuple[Tensor, Tensor] | None = None
        self._target_index: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of trajectories."""

    @abstractmethod
    def _measure(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return first row, steps and missing final observations of each trajectory held, oldest first, (E,) each."""

    @property
    def steps(self) -> int:
        """Return the number of actions held."""
        return int(self.index()[1].sum())

    @property
    def target_steps(self) -> int:
        """Return the number of held steps that have a target (M2)."""
        return self.steps - int(self._measure()[2].sum())

    def index(self) -> tuple[Tensor, Tensor]:
        """Return first row (E,) and steps (E,) of each trajectory held, oldest first, int64."""
        if self._index is None:
            starts, lengths, _ = self._measure()
            self._index = (torch.tensor(starts, device=self.device), torch.tensor(lengths, device=self.device))
        return self._index

    def index_targets(self) -> tuple[Tensor, Tensor]:
        """Return the `index` of the steps that have a target (M2); the same object where every step has one.

        Raises:
            ValueError: if no step has one.
        """
        if self._target_index is None:
            starts, lengths = self._target_index = self.index()
            if self.final_missing:
                left = lengths - torch.tensor(self._measure()[2], device=self.device).long()
                if not left.any():
                    raise ValueError("no step held has an observation after it, so the critic has no target")
                self._target_index = starts[left > 0], left[left > 0]
        return self._target_index

    def list_step_rows(self, index: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """List the row of every step held, oldest first, (steps,) int64; rows of final observations are left out.

        Args:
            index: that of `index_targets` restricts the list to the steps that have a target.
        """
        return list_rows(*(index or self.index()))

    def take(self, rows: Tensor, columns: slice | int = EVERY) -> Tensor:
        """Return a copy of some columns of `rows` (B,), (B, columns) or (B,)."""
        return self.matrix[rows, columns]

    def gather_windows(self, rows: Tensor, length: int) -> Tensor:
        """Gather `length` successive rows, beginning at each of `rows` (B,): (B, length, columns), one copy.

        A window that passes its trajectory's end continues into the rows below: finite numbers without meaning.
        """
        self._extend_below(length)
        columns = self.column.count
        overlapping = self.matrix.as_strided((self._end, length * columns), (columns, 1))
        return overlapping.index_select(0, rows).view(-1, length, columns)

    @abstractmethod
    def _extend_below(self, length: int) -> None:
        """Make sure that `length` rows below the last one exist, so that windows do not leave the matrix."""

    def find_return_range(self) -> Tensor:
        """Return the lowest and the highest return-to-go of all steps held, (2,), by one pass over the matrix."""
        column, low, high = self.column, torch.inf, -torch.inf
        for start in range(int(self.index()[0][0]), self._end, BLOCK_ROWS):
            block = self.matrix[start : min(start + BLOCK_ROWS, self._end)]
            values = block[block[:, column.steps_left] > 0, column.return_to_go]
            if len(values):
                low, high = min(low, float(values.min())), max(high, float(values.max()))
        return torch.tensor([low, high], device=self.device)

    def fill_rows(self, rows: Tensor, trajectory: Trajectory) -> None:
        """Write one trajectory into `rows` (T + 1, columns), which may lie anywhere."""
        steps, column, settings = len(trajectory), self.column, self.settings
        scaled = (trajectory.rewards + settings.reward_shift) * settings.reward_scale
        targets = compute_n_step_targets(
            scaled,
            trajectory.terminated,
            settings.discount,
            settings.n_step,
            final_missing=trajectory.final_missing,
        )
        to_go, place = compute_returns_to_go(trajectory.rewards), np.arange(steps)
        scores = trajectory.rewards / settings.return_scale, to_go / settings.return_scale
        tail = np.stack([*scores, *targets, place, steps - place], axis=1, dtype=np.float32)
        rows[:, column.observation] = self.normalizer.normalize(_put(trajectory.observations, self.device))
        rows[:, column.action.start :] = 0.0
        rows[:steps, column.action] = _put(trajectory.actions, rows.device)
        rows[:steps, column.reward :] = _put(tail, rows.device)

    def check_sizes(self, observation_size: int, action_size: int) -> None:
        """Refuse trajectories of other sizes.

        Raises:
            ValueError: naming both.
        """
        sizes = (observation_size, action_size)
        if sizes != (self.observation_size, self.action_size):
            raise ValueError(f"trajectory of sizes {sizes}, buffer of {(self.observation_size, self.action_size)}")


def _put(values: FloatArray, device: torch.device) -> Tensor:
    """Return an array on a device; a copy of one that cannot be written to, as mapped ones."""
    values = np.ascontiguousarray(values)
    return (torch.from_numpy(values) if values.flags.writeable else torch.tensor(values)).to(device)
