"""Trajectories, and data sets of them as contiguous arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


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
class TrajectoryDataset:
    """Episodes end to end in contiguous arrays. Episode e owns T_e + 1 rows, the last of them its final observation.

    Attributes:
        observations: (R, S) with R = sum of T_e + 1.
        actions: (R, A); zero in each episode's last row.
        rewards: (R,); zero in each episode's last row.
        offsets: (E+1,) first row of each episode; the last entry is R.
        terminated: (E,) bool, as in `Trajectory`.
        final_missing: (E,) bool, as in `Trajectory`; if not given, nothing is missing.

    Raises:
        ValueError: if the arrays do not fit together, an episode has no step, or a termination misses an observation.
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    offsets: npt.NDArray[np.int64]
    terminated: npt.NDArray[np.bool_]
    final_missing: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))

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
        if self.offsets[0] != 0 or self.offsets[-1] != rows or (np.diff(self.offsets) < 2).any():
            raise ValueError("offsets must rise from 0 to the number of rows by at least 2 rows an episode")
        if len(self.final_missing) != len(self.terminated) or (self.final_missing & self.terminated).any():
            raise ValueError("final_missing has one flag an episode, and is not set where an episode really ended")

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
        apart = set(np.random.default_rng([seed, 4099]).permutation(len(self))[:count].tolist())
        parts = ([self[k] for k in range(len(self)) if (k in apart) == kept] for kept in (False, True))
        rest, held = (TrajectoryDataset.from_trajectories(part) for part in parts)
        return rest, held

    def keep_best(self, fraction: float) -> TrajectoryDataset:
        """Return the episodes of the highest returns that hold at most this share of the steps (at least one), in their order."""
        if fraction == 1:
            return self
        best_first = np.argsort(-self.episode_returns, kind="stable")
        count = int((np.cumsum(self.lengths[best_first]) <= fraction * self.steps).sum())
        kept = sorted(best_first[: max(1, count)].tolist())
        return TrajectoryDataset.from_trajectories(self[episode] for episode in kept)

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.terminated)

    def __getitem__(self, episode: int) -> Trajectory:
        """Return one episode as views of the arrays."""
        start, stop = int(self.offsets[episode]), int(self.offsets[episode + 1])
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
        """Return the arrays that rebuild the data set, by name; `final_missing` only where an observation is missing."""
        names = ("observations", "actions", "rewards", "offsets", "terminated")
        extra = ("final_missing",) if self.final_missing.any() else ()
        return {name: getattr(self, name) for name in (*names, *extra)}

    def select_recorded_observations(self) -> FloatArray:
        """Return the recorded rows, (at most R, S): without the repeated ones of missing final observations."""
        if not self.final_missing.any():
            return self.observations
        recorded = np.ones(len(self.observations), np.bool_)
        recorded[self.offsets[1:][self.final_missing] - 1] = False
        return self.observations[recorded]

    @cached_property
    def episode_returns(self) -> npt.NDArray[np.float64]:
        """Return the undiscounted return of each episode, (E,)."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.offsets[:-1])
