"""Test of whether a critic may guide a policy that sees more than the present state (ours; docs/method.md, section 2).

V sees one state. Where several policies made the data, their states look alike and what follows them differs, so V is the
mean over policies. A transformer's history tells them apart, and such a critic would pull it back to the mean. If the state
says all there is to know, what went wrong before a step says nothing about what goes wrong after it. So the two errors'
correlation over the data is the test.

After a time limit V itself stands for what follows, with the share gamma^h of what followed h steps before. So a constant
error c of V is missed by c (1 - gamma^h), which is not constant. The correlation is therefore taken with that share held
fixed, as a partial correlation.
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


def compute_last_shares(steps: int, discount: float, *, terminated: bool) -> Values:
    """Compute how much of V at an episode's last observation is in the return that followed each of its steps, (T,).

    Args:
        steps: T.
        discount: gamma.
        terminated: whether nothing follows the last step; then 0.
    """
    return np.zeros(steps) if terminated else discount ** np.arange(steps, 0, -1, dtype=np.float64)


def compute_past_errors(residuals: Values, discount: float, lag: int) -> Values:
    """Compute the TD error over `lag` steps before each step, (T - lag,): sum of gamma^k r + gamma^lag V(s_t+lag) - V(s_t).

    Residuals are what V missed to the end of the episode, so the difference of two is what it missed between them.
    """
    return residuals[:-lag] - discount**lag * residuals[lag:]


def compute_history_correlation(
    episodes: Sequence[tuple[Values, bool]], discount: float, weights: Sequence[float] | None = None
) -> float | None:
    """Compute the correlation of V's error before a step and its error after the step, over all steps of all episodes.

    With one policy and a true V it is 0: errors are then martingale differences. A constant error of V changes nothing.

    Args:
        episodes: of each the residuals (T,), and whether it terminated.
        discount: gamma.
        weights: how much a step of each episode counts, as often as the critic met it; none: all alike.

    Returns:
        From -1 to 1; none where fewer than `FEWEST_PAIRS` steps come `find_lag` steps after the start of their episode.
    """
    lag = find_lag(discount)
    each = [1.0] * len(episodes) if weights is None else weights
    long = [(*episode, weight) for episode, weight in zip(episodes, each, strict=True) if len(episode[0]) > lag]
    if sum(len(residuals) - lag for residuals, _, _ in long) < FEWEST_PAIRS:
        return None
    past = np.concatenate([compute_past_errors(residuals, discount, lag) for residuals, _, _ in long])
    future = np.concatenate([residuals[lag:] for residuals, _, _ in long])
    last = np.concatenate([compute_last_shares(len(r), discount, terminated=ended)[lag:] for r, ended, _ in long])
    count = np.concatenate([np.full(len(residuals) - lag, weight) for residuals, _, weight in long])
    return compute_partial_correlation(past, future, last, count / count.sum())


def compute_partial_correlation(first: Values, second: Values, given: Values, weights: Values) -> float:
    """Compute the correlation of two variables with the linear part in a third removed from both; 0 if either is constant.

    Args:
        first: (N,).
        second: (N,).
        given: (N,), the third; a constant one removes nothing.
        weights: (N,), of sum 1.
    """
    first, second, given = (values - weights @ values for values in (first, second, given))
    spread = weights @ given**2
    if spread > 0:
        first, second = (v - (weights @ (v * given)) / spread * given for v in (first, second))
    scale = math.sqrt((weights @ first**2) * (weights @ second**2))
    return float(weights @ (first * second)) / scale if scale > 0 else 0.0


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
    residuals: list[tuple[Values, bool]] = []
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
        ended = episode.terminated
        residuals.append((compute_residuals(values, rewards, discount, terminated=ended), ended))
        counts.append(1.0 if weights is None else weights[index])
        left -= steps
        if left <= 0:
            break
    return compute_history_correlation(residuals, discount, counts)
