"""Targets of critic and policy: rewards of one trajectory turned into sums (M2, M4)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from vdt.data.trajectory import FloatArray


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


def compute_n_step_sums(rewards: FloatArray, discount: float, n_step: int) -> npt.NDArray[np.float64]:
    """Compute the sum of discount^k r_{t+k} over the next n rewards, or those that are left: (T,) -> (T,)."""
    steps, exact = len(rewards), rewards.astype(np.float64)
    if n_step >= steps:  # all that are left: each sum holds the one after it
        later = accumulate(exact[::-1].tolist(), lambda total, reward: reward + discount * total)
        return np.array(list(later), np.float64)[::-1]
    padded, sums = np.concatenate([exact, np.zeros(n_step)]), np.zeros(steps)
    for k in range(n_step):
        sums += discount**k * padded[k : k + steps]
    return sums


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
    sums = np.zeros(steps)
    sums[:last] = compute_n_step_sums(rewards[:last], discount, n_step)
    discounts = discount ** taken.astype(np.float64)
    if terminated:
        discounts[np.arange(steps) + taken == steps] = 0.0
    discounts[taken == 0] = 0.0
    return sums.astype(np.float32), taken.astype(np.float32), discounts.astype(np.float32)
