"""Measurements of a policy as its checkpoint's metadata holds them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vdt.evaluation.records import EvaluationReport, HeldOutReport


def measure_policy(
    reports: Mapping[str, EvaluationReport], held_out: HeldOutReport | None = None
) -> dict[str, dict[str, float]]:
    """Return a policy's measurements by look-ahead setting, and those on held-out episodes as "held_out".

    Episodes that were cut short have a return and a success rate that say so in their names, and no score.
    """
    scores: dict[str, dict[str, float]] = {}
    for setting, report in reports.items():
        cut = "" if report.cut_at is None else f"_of_{report.cut_at}_steps"
        numbers = {
            "normalized_score": report.normalized_score_mean,
            f"success_rate{cut}": report.success_rate,
            f"episode_return{cut}": float(np.mean(report.episode_returns)),
        }
        scores[setting] = {key: value for key, value in numbers.items() if value is not None}
    if held_out is not None:
        scores["held_out"] = {key: value for key, value in vars(held_out).items() if isinstance(value, float)}
    return scores
