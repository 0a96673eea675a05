"""Test of whether a critic may guide a policy that sees more than the present state (ours; docs/method.md, section 2).

V sees one state. Where several policies made the data, their states look alike and what follows them differs, so V is the
mean over policies. A transformer's history tells them apart, and such a critic would pull it back to the mean. If the state
says all there is to know, what went wrong before a step says nothing about what goes wrong after it. So the two errors'
correlation over the data is the test.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from vdt.critic.critic import Critic
from vdt.data.normalization import Normalizer
from vdt.data.trajectory import TrajectoryDataset

logger = logging.getLogger(__name__)

Values = npt.NDArray[np.float64]

MOST_STEPS = 1_000_000  # of the data that are looked at
FEWEST_PAIRS = 1000  # of steps without which nothing is said


def find_lag(discount: float) -> int:
    """Return the number of steps between the two errors: half of the critic's horizon 1 / (1 - discount), at least 1."""
    return max(1, round(0.5 / (1 - discount))) if discount < 1 else MOST_STEPS


def compute_residuals(values: Values, rewards: Values, discount: float, *, terminated: bool) -> Values:
    """Compute what V missed in one episode: the discounted return that followed each step, minus V, (T,).

    Args:
        values: (T+1,) V of each observation; the last one follows a truncated episode.
        rewards: (T,) in V's units.
        discount: gamma.
        terminated: whether nothing follows the last step.
    """
    followed = 0.0 if terminated else float(values[-1])
    returns = []
    for reward in reversed(rewards.tolist()):
        followed = reward + discount * followed
        returns.append(followed)
    return np.asarray(returns[::-1]) - values[:-1]


def compute_past_errors(residuals: Values, discount: float, lag: int) -> Values:
    """Compute the TD error over `lag` steps before each step, (T - lag,): sum of gamma^k r + gamma^lag V(s_t+lag) - V(s_t).

    Residuals are what V missed to the end of the episode, so the difference of two is what it missed between them.
    """
    return residuals[:-lag] - discount**lag * residuals[lag:]


def compute_history_correlation(
    episodes: Sequence[Values], discount: float, weights: Sequence[float] | None = None
) -> float | None:
    """Compute the correlation of V's error before a step and its error after the step, over all steps of all episodes.

    With one policy and a true V it is 0: errors are then martingale differences.

    Args:
        episodes: of each the residuals (T,).
        discount: gamma.
        weights: how much a step of each episode counts, as often as the critic met it; none: all alike.

    Returns:
        From -1 to 1; none where fewer than `FEWEST_PAIRS` steps come `find_lag` steps after the start of their episode.
    """
    lag = find_lag(discount)
    each = [1.0] * len(episodes) if weights is None else weights
    long = [(residuals, weight) for residuals, weight in zip(episodes, each, strict=True) if len(residuals) > lag]
    if sum(len(residuals) - lag for residuals, _ in long) < FEWEST_PAIRS:
        return None
    past = np.concatenate([compute_past_errors(residuals, discount, lag) for residuals, _ in long])
    future = np.concatenate([residuals[lag:] for residuals, _ in long])
    share = np.concatenate([np.full(len(residuals) - lag, weight) for residuals, weight in long])
    share /= share.sum()
    past, future = past - share @ past, future - share @ future
    spread = math.sqrt((share @ past**2) * (share @ future**2))
    return float(share @ (past * future)) / spread if spread > 0 else 0.0


def measure_history_correlation(
    critic: Critic,
    dataset: TrajectoryDataset,
    normalizer: Normalizer,
    reward_scale: float,
    reward_shift: float,
    weights: Sequence[float] | None = None,
) -> float | None:
    """Compute the history correlation of a critic on its data, on `MOST_STEPS` steps at most.

    Args:
        critic: whose V and discount are tested.
        dataset: that it was trained on, in environment units.
        normalizer: of the observations.
        reward_scale: of the critic's rewards, which are (r + reward_shift) * reward_scale.
        reward_shift: see there.
        weights: how often the critic met a step of each episode, relative to others; none: all alike.

    Returns:
        As `compute_history_correlation`.
    """
    discount, device = critic.config.discount, normalizer.mean.device
    residuals: list[Values] = []
    counts: list[float] = []
    left = MOST_STEPS
    for index in np.random.default_rng(0).permutation(len(dataset)).tolist():
        episode = dataset[index]
        steps = len(episode) - episode.final_missing  # that step's next observation was not recorded
        if steps == 0:
            continue
        observations = torch.from_numpy(np.array(episode.observations[: steps + 1])).to(device)
        with torch.no_grad():
            values = critic.value(normalizer.normalize(observations)).double().cpu().numpy()
        rewards = (episode.rewards[:steps].astype(np.float64) + reward_shift) * reward_scale
        residuals.append(compute_residuals(values, rewards, discount, terminated=episode.terminated))
        counts.append(1.0 if weights is None else weights[index])
        left -= steps
        if left <= 0:
            break
    return compute_history_correlation(residuals, discount, counts)
