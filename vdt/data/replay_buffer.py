"""Replay buffer: trajectories in one growing matrix on the training device, the source of every batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vdt.data.normalization import Normalizer
from vdt.data.trajectory import FloatArray, Trajectory


@dataclass(frozen=True)
class TargetSettings:
    """Settings that turn stored rewards into targets.

    Attributes:
        discount: of the critic's returns (M2).
        n_step: longest sum of rewards before the bootstrap (M2).
        reward_scale: factor on the critic's rewards.
        reward_shift: added to the critic's rewards before scaling, in environment units.
        return_scale: divisor of the policy's rewards and returns-to-go.
    """

    discount: float
    n_step: int
    reward_scale: float
    reward_shift: float
    return_scale: float


def compute_returns_to_go(rewards: FloatArray) -> FloatArray:
    """Compute the undiscounted sum of this and all later rewards: (T,) -> (T,) (M4, hindsight)."""
    return np.cumsum(rewards[::-1], dtype=np.float64)[::-1].astype(np.float32)


def compute_n_step_targets(
    rewards: FloatArray, terminated: bool, discount: float, n_step: int, *, final_missing: bool = False
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Compute n-step reward sums and their bootstrap positions (M2).

    Near the end of an episode fewer than n steps are left; the discount is that of the steps taken. Where the final
    observation is missing, sums stop one step earlier, at the last known observation. The last step then has no target:
    0 steps taken, sum and discount 0.

    Args:
        rewards: (T,).
        terminated: True if nothing follows the last step; a time limit is False.
        discount: in [0, 1].
        n_step: n >= 1.
        final_missing: as in `Trajectory`.

    Returns:
        sums of discount^k r_{t+k}, (T,); steps k from t to the bootstrap observation, (T,);
        bootstrap discounts, discount^k, or 0 where the episode terminated within the n steps, (T,).
    """
    steps = len(rewards)
    last = steps - final_missing  # index of the last known observation
    taken = np.minimum(n_step, last - np.arange(steps))
    padded = np.concatenate([rewards[:last].astype(np.float64), np.zeros(n_step + final_missing)])
    sums = np.zeros(steps)
    for k in range(min(n_step, steps)):
        sums += discount**k * padded[k : k + steps]
    discounts = discount ** taken.astype(np.float64)
    if terminated:
        discounts[np.arange(steps) + taken == steps] = 0.0
    discounts[taken == 0] = 0.0
    return sums.astype(np.float32), taken.astype(np.float32), discounts.astype(np.float32)


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


class TrajectoryReplayBuffer:
    """First-in-first-out store of whole trajectories, normalised and with their targets, in one matrix.

    Each row holds one observation with the action, reward and targets that follow it (`Columns`). A trajectory of T
    steps owns T + 1 rows, so next observations are the rows below. The matrix doubles when full; held rows are copied,
    and evicted rows reclaimed, only then. The offline set and the online buffer are the same class: the former never
    evicts.
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
        self.normalizer = normalizer
        self.settings = settings
        self.capacity = capacity
        self.device = device or torch.device("cpu")
        self.observation_size = len(normalizer.mean)
        self.action_size = action_size
        self.column = Columns.make(self.observation_size, action_size)
        self.trajectories: deque[Trajectory] = deque()
        self.matrix = torch.zeros(0, self.column.count, device=self.device)
        self._starts: deque[int] = deque()
        self._end = 0
        self._spare = 0  # rows below the last one, so that windows do not leave the matrix
        self._index: tuple[Tensor, Tensor] | None = None
        self._target_index: tuple[Tensor, Tensor] | None = None
        self.final_missing = False  # of any trajectory held

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self.trajectories)

    @property
    def steps(self) -> int:
        """Return the number of actions held."""
        return sum(len(t) for t in self.trajectories)

    @property
    def target_steps(self) -> int:
        """Return the number of held steps that have a target (M2)."""
        return sum(len(t) - t.final_missing for t in self.trajectories)

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
            sizes = (trajectory.observations.shape[1], trajectory.actions.shape[1])
            if sizes != (self.observation_size, self.action_size):
                raise ValueError(f"trajectory of sizes {sizes}, buffer of {(self.observation_size, self.action_size)}")
        while self.capacity is not None and len(self.trajectories) + len(new) > self.capacity:
            self.trajectories.popleft()
            self._starts.popleft()
        self._reserve(sum(len(t) + 1 for t in new))
        for trajectory in new:
            self._write(trajectory)
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

    def _write(self, trajectory: Trajectory) -> None:
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
        rows = self.matrix[self._end : self._end + steps + 1]
        observations = torch.from_numpy(np.ascontiguousarray(trajectory.observations)).to(self.device)
        rows[:, column.observation] = self.normalizer.normalize(observations)
        rows[:, column.action.start :] = 0.0
        rows[:steps, column.action] = torch.from_numpy(np.ascontiguousarray(trajectory.actions)).to(self.device)
        rows[:steps, column.reward :] = torch.from_numpy(tail).to(self.device)
        self.trajectories.append(trajectory)
        self._starts.append(self._end)
        self._end += steps + 1

    def index(self) -> tuple[Tensor, Tensor]:
        """Return first row (E,) and steps (E,) of each trajectory held, oldest first, int64."""
        if self._index is None:
            starts = torch.tensor(list(self._starts), dtype=torch.int64, device=self.device)
            lengths = torch.tensor([len(t) for t in self.trajectories], dtype=torch.int64, device=self.device)
            self._index = (starts, lengths)
        return self._index

    def index_targets(self) -> tuple[Tensor, Tensor]:
        """Return the `index` of the steps that have a target (M2); the same object where every step has one.

        Raises:
            ValueError: if no step has one.
        """
        if self._target_index is None:
            starts, lengths = self._target_index = self.index()
            if self.final_missing:
                missing = torch.tensor([t.final_missing for t in self.trajectories], device=self.device)
                left = lengths - missing.long()
                if not left.any():
                    raise ValueError("no step held has an observation after it, so the critic has no target")
                self._target_index = starts[left > 0], left[left > 0]
        return self._target_index

    def list_step_rows(self, index: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """List the row of every step held, oldest first, (steps,) int64; rows of final observations are left out.

        Args:
            index: that of `index_targets` restricts the list to the steps that have a target.
        """
        starts, lengths = index or self.index()
        before = torch.cumsum(lengths, 0) - lengths  # steps of older trajectories
        return torch.arange(int(lengths.sum()), device=self.device) + torch.repeat_interleave(starts - before, lengths)

    def gather_windows(self, rows: Tensor, length: int) -> Tensor:
        """Gather `length` successive rows, beginning at each of `rows` (B,): (B, length, columns), one copy.

        A window that passes its trajectory's end continues into the rows below: finite numbers without meaning.
        """
        if length > self._spare:
            self._spare = length
            self.matrix = torch.cat([self.matrix, self.matrix.new_zeros(length, self.column.count)])
        columns = self.column.count
        overlapping = self.matrix.as_strided((self._end, length * columns), (columns, 1))
        return overlapping.index_select(0, rows).view(-1, length, columns)
