"""Influence of each varied setting on the score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from vdt.reporting.ranking import Ranking, Setting

FEWEST = 4  # settings with a score
LOG_RATIO = 10  # numbers above 0 that span as much are compared by their logarithm
FANOVA = "Optuna's fANOVA: share of the score's variance that a forest of trees explains by each setting"
ETA = "share of the score's variance between the values of each setting (η²), others averaged over"


@dataclass(frozen=True)
class Importances:
    """Influence of settings.

    Attributes:
        method: how it was computed, in words.
        shares: dotted key -> share of the score's variance, the largest first.
        correlations: dotted key -> Spearman's rank correlation with the score; none where values have no order.
    """

    method: str
    shares: dict[str, float]
    correlations: dict[str, float | None]


def compute_importances(ranking: Ranking) -> Importances | None:
    """Compute the influence of each varied setting; none with fewer than four settings, or equal scores.

    With Optuna and scikit-learn it is fANOVA's; without them η², which `method` then says.
    """
    tried, keys = sorted(ranking.complete, key=lambda setting: setting.number), ranking.keys
    scores = np.array([setting.mean for setting in tried])
    if len(tried) < FEWEST or not keys or not np.ptp(scores):
        return None
    if find_spec("optuna") and find_spec("sklearn"):
        method, shares = FANOVA, _compute_fanova(tried, keys)
    else:
        method, shares = ETA, {key: compute_eta([s.values.get(key) for s in tried], scores) for key in keys}
    order = sorted(shares, key=lambda key: -shares[key])
    correlations = {key: _correlate([s.values.get(key) for s in tried], scores) for key in order}
    return Importances(method, {key: shares[key] for key in order}, correlations)


def is_number(value: Any) -> bool:
    """Return whether a value has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def has_log_scale(values: Sequence[Any]) -> bool:
    """Return whether numbers are compared by their logarithm: all above 0, and far apart."""
    return bool(min(values) > 0 and max(values) >= LOG_RATIO * min(values))


def _compute_fanova(tried: Sequence[Setting], keys: Sequence[str]) -> dict[str, float]:
    import optuna

    distributions: dict[str, Any] = {}
    columns: dict[str, list[Any]] = {}
    for key in keys:
        values: list[Any] = [setting.values.get(key) for setting in tried]
        if all(map(is_number, values)) and len(set(values)) > 1:
            low, high = float(min(values)), float(max(values))
            distributions[key] = optuna.distributions.FloatDistribution(low, high, log=has_log_scale(values))
            columns[key] = [float(value) for value in values]
        else:
            columns[key] = list(map(repr, values))
            distributions[key] = optuna.distributions.CategoricalDistribution(sorted(set(columns[key])))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for row, setting in enumerate(tried):
        params = {key: columns[key][row] for key in keys}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=setting.mean))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(found.get(key, 0.0)) for key in keys}


def compute_eta(values: Sequence[Any], scores: np.ndarray[Any, Any]) -> float:
    """Compute η²: the share of the scores' variance (N,) that lies between groups of equal values."""
    names = np.array(list(map(repr, values)))
    center, between = scores.mean(), 0.0
    for name in np.unique(names):
        group = scores[names == name]
        between += len(group) * (group.mean() - center) ** 2
    return float(between / ((scores - center) ** 2).sum())


def _correlate(values: Sequence[Any], scores: np.ndarray[Any, Any]) -> float | None:
    """Compute Spearman's correlation; none where the values have no order."""
    if not all(map(is_number, values)) or len(set(values)) == 1:
        return None
    from scipy.stats import spearmanr

    correlation = float(spearmanr(values, scores).statistic)
    return correlation if math.isfinite(correlation) else None
