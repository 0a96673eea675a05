"""How well scores that need no environment order settings by their return: rank correlations. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vdt.reporting.ranking import OFFLINE, Ranking, Setting
from vdt.reporting.statistics import Interval, bootstrap

FEWEST = 3  # settings
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankAgreement:
    """Agreement of an offline score with the offline policy's normalized_score, over settings.

    Attributes:
        task: as of the ranking.
        score: name of the offline score.
        settings: how many have both.
        spearman: rank correlation with its bootstrap interval over settings; 1 is the same order.
        kendall: Kendall's τ-b, likewise.
        chosen: normalized_score of the setting that the offline score puts first.
        best: the highest one.
        mean: over all settings, which is what a blind choice gets.
    """

    task: str
    score: str
    settings: int
    spearman: Interval
    kendall: Interval
    chosen: float
    best: float
    mean: float


def compute_agreements(ranking: Ranking) -> list[RankAgreement]:
    """Compute the agreement of every offline score that at least three settings have beside a return."""
    found = []
    for name, sign in OFFLINE.items():
        both = [s for s in ranking.complete if name in s.offline and s.offline_return is not None]
        agreement = _compare(ranking.task, name, sign, both) if len(both) >= FEWEST else None
        found += [agreement] if agreement else []
    return found


def _compare(task: str, name: str, sign: int, settings: Sequence[Setting]) -> RankAgreement | None:
    """Compare an offline score with the returns; none where one of the two never changes."""
    scores = np.array([sign * setting.offline[name] for setting in settings])
    returns = np.array([setting.offline_return for setting in settings], np.float64)
    if not np.ptp(scores) or not np.ptp(returns):
        return None
    both = _compute_interval(compute_spearman, scores, returns), _compute_interval(compute_kendall, scores, returns)
    chosen, best, mean = returns[scores.argmax()], returns.max(), returns.mean()
    return RankAgreement(task, name, len(settings), *both, float(chosen), float(best), float(mean))


def _compute_interval(compute: Callable[[Array, Array], Array], scores: Array, returns: Array) -> Interval:
    """Return a correlation with its bootstrap interval over settings, which are resampled in pairs."""

    def resample(samples: Sequence[Array]) -> Array:
        rows = samples[0].astype(np.int64)
        return compute(scores[rows], returns[rows])

    value = float(compute(scores[None], returns[None])[0])
    return Interval(value, *bootstrap([list(range(len(scores)))], resample))


def compute_spearman(one: Array, other: Array) -> Array:
    """Compute Spearman's rank correlation in each row: (R, N) twice -> (R,); 0 where one of the two never changes."""
    from scipy.stats import rankdata

    first, second = (rankdata(values, axis=1) for values in (one, other))
    first, second = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (first, second))
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return _divide((first * second).sum(axis=1), scale)


def compute_kendall(one: Array, other: Array) -> Array:
    """Compute Kendall's τ-b in each row: (R, N) twice -> (R,); 0 where one of the two never changes."""
    from scipy.stats import kendalltau

    found = [kendalltau(*pair, method="asymptotic").statistic for pair in zip(one, other, strict=True)]
    return np.nan_to_num(np.array(found, np.float64))


def _divide(values: Array, scale: Array) -> Array:
    quotient: Array = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
    return quotient
