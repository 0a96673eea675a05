"""Trajectories, and data sets of them as contiguous arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
LARGE = ("observations", "actions", "rewards")  # arrays that may be mapped; the others have one entry an episode
BLOCK_ROWS = 2**16  # rows that a pass over a data set looks at together


@dataclass(frozen=True)
class Trajectory:
    """One episode in environment units: T actions, T+1 observations.

    Attributes:
        observations: (T+1, S); the last one is the observation after the last action.
        actions: (T, A).
        rewards: (T,).
        terminated: True if the task ended (no value after the last step). False if a time limit or the end
            of the recording cut it (the value after the last step is that of the final observation).
        success: whether the environment reported success at some step; none where it never reports it. Not stored.
        final_missing: True if the task went on after the last step and the observation there was not recorded. The last
            row of observations then repeats the one before, and neither a target nor a statistic may use it.

    Raises:
        ValueError: if the lengths do not fit together, there is no step, or a termination misses an observation.
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    terminated: bool
    success: bool | None = None
    final_missing: bool = False

    def __post_init__(self) -> None:
        steps = len(self.rewards)
        if steps == 0 or len(self.actions) != steps or len(self.observations) != steps + 1:
            raise ValueError(
                f"a trajectory of T >= 1 steps has T actions, T rewards and T+1 observations, "
                f"not {len(self.actions)}, {steps} and {len(self.observations)}"
            )
        if self.terminated and self.final_missing:
            raise ValueError("nothing follows a real end, so no observation is missing there")

    def __len__(self) -> int:
        return len(self.rewards)

    def __repr__(self) -> str:
        return (
            f"Trajectory(steps={len(self)}, observations={self.observations.shape}, actions={self.actions.shape}, "
            f"episode_return={self.episode_return:.2f}, {'terminated' if self.terminated else 'truncated'}"
            f"{', final observation missing' if self.final_missing else ''})"
        )

    @property
    def episode_return(self) -> float:
        """Return the undiscounted sum of rewards."""
        return float(self.rewards.sum(dtype=np.float64))


@dataclass(frozen=True)
class MappedFile:
    """File whose pages a data set's arrays are, as it was when it was mapped.

    Attributes:
        path: of the file.
        size: bytes.
        modified: time of its last change, nanoseconds.
    """

    path: Path
    size: int
    modified: int


@dataclass(frozen=True)
class TrajectoryDataset:
    """Episodes in contiguous arrays. Episode e owns T_e + 1 rows, the last of them its final observation.

    The arrays may be mapped files. They may hold further episodes, or further steps, which do not count (`choose`,
    `keep_first`). So passes over all rows go by `iterate_blocks`.

    Attributes:
        observations: (R, S); without further episodes R is the sum of T_e + 1.
        actions: (R, A); each episode's last row does not count.
        rewards: (R,); likewise.
        offsets: (E+1,) sum of T_e + 1 over the episodes before each one, and over all.
        terminated: (E,) bool, as in `Trajectory`.
        final_missing: (E,) bool, as in `Trajectory`; if not given, nothing is missing.
        first_rows: (E,) first row of each episode, rising; if not given, episodes lie end to end (`starts`).
        file: that the arrays are mapped from; none if they are in memory.

    Raises:
        ValueError: if the arrays do not fit together, an episode has no step, or a termination misses an observation.
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    offsets: npt.NDArray[np.int64]
    terminated: npt.NDArray[np.bool_]
    final_missing: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    first_rows: npt.NDArray[np.int64] | None = field(default=None, kw_only=True)
    file: MappedFile | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not len(self.final_missing):
            object.__setattr__(self, "final_missing", np.zeros(len(self.terminated), np.bool_))
        rows = len(self.observations)
        if len(self.actions) != rows or len(self.rewards) != rows:
            raise ValueError(
                f"lengths differ: {rows} observations, {len(self.actions)} actions, {len(self.rewards)} rewards"
            )
        if len(self.offsets) != len(self.terminated) + 1 or len(self.terminated) == 0:
            raise ValueError(f"{len(self.offsets)} offsets do not fit {len(self.terminated)} episodes")
        fits = self.offsets[-1] == rows if self.first_rows is None else self._are_apart(rows)
        if self.offsets[0] != 0 or not fits or (np.diff(self.offsets) < 2).any():
            raise ValueError("offsets must rise from 0 to the number of rows by at least 2 rows an episode")
        if len(self.final_missing) != len(self.terminated) or (self.final_missing & self.terminated).any():
            raise ValueError("final_missing has one flag an episode, and is not set where an episode really ended")

    def _are_apart(self, rows: int) -> bool:
        """Return whether the episodes lie one after another within the arrays' rows, with rows between them or not."""
        if len(self.starts) != len(self.terminated):
            return False
        stops = self.starts + np.diff(self.offsets)
        return bool(self.starts[0] >= 0 and stops[-1] <= rows and (self.starts[1:] >= stops[:-1]).all())

    @classmethod
    def from_trajectories(cls, trajectories: Iterable[Trajectory]) -> TrajectoryDataset:
        """Concatenate trajectories in the order given."""
        items = list(trajectories)
        if not items:
            raise ValueError("a data set needs at least one trajectory")
        offsets = np.concatenate([[0], np.cumsum([len(t) + 1 for t in items])]).astype(np.int64)
        rows, (observation_size, action_size) = (
            int(offsets[-1]),
            (items[0].observations.shape[1], items[0].actions.shape[1]),
        )
        observations = np.empty((rows, observation_size), np.float32)
        actions = np.zeros((rows, action_size), np.float32)
        rewards = np.zeros(rows, np.float32)
        for start, item in zip(offsets, items, strict=False):
            observations[start : start + len(item) + 1] = item.observations
            actions[start : start + len(item)] = item.actions
            rewards[start : start + len(item)] = item.rewards
        flags = ([t.terminated for t in items], [t.final_missing for t in items])
        return cls(observations, actions, rewards, offsets, *(np.array(flag, np.bool_) for flag in flags))

    def split(self, fraction: float, seed: int) -> tuple[TrajectoryDataset, TrajectoryDataset | None]:
        """Hold out whole episodes, chosen by `seed`: at least one, and at least one stays.

        Args:
            fraction: of the episodes that is held out; 0 holds out none.
            seed: the same seed chooses the same episodes.

        Returns:
            the rest, and the held-out episodes (none for fraction 0), both in their order.
        """
        if fraction == 0:
            return self, None
        count = min(max(1, round(fraction * len(self))), len(self) - 1)
        apart = np.zeros(len(self), np.bool_)
        apart[np.random.default_rng([seed, 4099]).permutation(len(self))[:count]] = True
        return self.choose(np.flatnonzero(~apart)), self.choose(np.flatnonzero(apart))

    def choose(self, episodes: npt.NDArray[np.int64] | Sequence[int]) -> TrajectoryDataset:
        """Return the data set of some episodes, given by their rising numbers, at least one; no array is copied."""
        kept = np.asarray(episodes, np.int64)
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(self.lengths[kept] + 1)]),
            terminated=self.terminated[kept],
            final_missing=self.final_missing[kept],
            first_rows=self.starts[kept],
        )

    def keep_best(self, fraction: float) -> TrajectoryDataset:
        """Return the episodes of the highest returns that hold at most this share of the steps (at least one), in their order."""
        if fraction == 1:
            return self
        best_first = np.argsort(-self.episode_returns, kind="stable")
        count = int((np.cumsum(self.lengths[best_first]) <= fraction * self.steps).sum())
        return self.choose(np.sort(best_first[: max(1, count)]))

    def keep_first(self, steps: int) -> TrajectoryDataset:
        """Return the first steps of each episode, at most `steps` (at least 1); a longer one is then cut. No array is copied."""
        if steps >= self.lengths.max():
            return self
        whole, lengths = self.lengths <= steps, np.minimum(self.lengths, steps)
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(lengths + 1)]),
            terminated=self.terminated & whole,
            final_missing=self.final_missing & whole,
            first_rows=self.starts,
        )

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.terminated)

    def __getitem__(self, episode: int) -> Trajectory:
        """Return one episode as views of the arrays."""
        start = int(self.starts[episode])
        stop = start + int(self.offsets[episode + 1] - self.offsets[episode])
        return Trajectory(
            self.observations[start:stop],
            self.actions[start : stop - 1],
            self.rewards[start : stop - 1],
            bool(self.terminated[episode]),
            final_missing=bool(self.final_missing[episode]),
        )

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[episode] for episode in range(len(self)))

    def __repr__(self) -> str:
        return f"TrajectoryDataset(episodes={len(self)}, steps={self.steps}, S={self.observation_size}, A={self.action_size})"

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Return the first row of each episode, (E,)."""
        return self.offsets[:-1] if self.first_rows is None else self.first_rows

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the steps of each episode, (E,)."""
        return np.diff(self.offsets) - 1

    @property
    def steps(self) -> int:
        """Return the number of actions in all episodes together."""
        return int(self.offsets[-1]) - len(self)

    @property
    def observation_size(self) -> int:
        """Return S."""
        return int(self.observations.shape[1])

    @property
    def action_size(self) -> int:
        """Return A."""
        return int(self.actions.shape[1])

    @property
    def target_steps(self) -> int:
        """Return the number of steps that the critic can learn from: all but those without a next observation (M2)."""
        return self.steps - int(self.final_missing.sum())

    def get_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that rebuild the data set, by name; `final_missing` only where an observation is missing.

        Of chosen episodes they are copies.
        """
        whole = self if self.offsets[-1] == len(self.rewards) else TrajectoryDataset.from_trajectories(self)
        names = ("observations", "actions", "rewards", "offsets", "terminated")
        extra = ("final_missing",) if whole.final_missing.any() else ()
        return {name: getattr(whole, name) for name in (*names, *extra)}

    def iterate_blocks(self, name: str, *, steps: bool = False) -> Iterator[FloatArray]:
        """Yield the rows of an array in their order, block by block, none empty; blocks are views where all of their rows count.

        Args:
            name: "observations", "actions" or "rewards".
            steps: whether the rows of final observations are left out; else only those of missing ones are.
        """
        array, last = getattr(self, name), self.starts + self.lengths
        apart = last if steps else last[self.final_missing]
        for start, stop in self._iterate_runs():
            low, high = np.searchsorted(apart, (start, stop))
            block = array[start:stop]
            kept = np.delete(block, apart[low:high] - start, axis=0) if high > low else block
            if len(kept):  # a block of one final observation may have none
                yield kept

    def _iterate_runs(self) -> Iterator[tuple[int, int]]:
        """Yield first and last row (exclusive) of each block: at most `BLOCK_ROWS` rows that lie end to end."""
        stops = self.starts + self.lengths + 1
        begins = np.append(True, self.starts[1:] != stops[:-1])
        ends = np.append(begins[1:], True)
        for first, stop in zip(self.starts[begins].tolist(), stops[ends].tolist(), strict=True):
            for start in range(first, stop, BLOCK_ROWS):
                yield start, min(start + BLOCK_ROWS, stop)

    def read_step_rewards(self, start: int, stop: int) -> FloatArray:
        """Return the rewards of some steps, (stop - start,), by the steps' numbers in all episodes end to end."""
        before = self.offsets[:-1] - np.arange(len(self))  # steps of earlier episodes
        first = int(np.searchsorted(before, start, side="right")) - 1
        last = int(np.searchsorted(before, stop))
        spans = zip(self.starts[first:last].tolist(), self.lengths[first:last].tolist(), strict=True)
        rewards = np.concatenate([self.rewards[row : row + steps] for row, steps in spans])
        return rewards[start - before[first] : stop - before[first]]

    @cached_property
    def episode_returns(self) -> npt.NDArray[np.float64]:
        """Return the undiscounted return of each episode, (E,)."""
        parts, first = [], 0
        while first < len(self):
            end = int(np.searchsorted(self.offsets, self.offsets[first] + BLOCK_ROWS, side="right")) - 1
            last = max(first + 1, end)
            spans = zip(self.starts[first:last].tolist(), self.lengths[first:last].tolist(), strict=True)
            rewards = np.concatenate([self.rewards[row : row + steps + 1] for row, steps in spans])
            rewards[self.offsets[first + 1 : last + 1] - self.offsets[first] - 1] = 0.0
            parts.append(np.add.reduceat(rewards.astype(np.float64), self.offsets[first:last] - self.offsets[first]))
            first = last
        return np.concatenate(parts)
