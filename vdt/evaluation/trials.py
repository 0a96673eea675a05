"""Trials of a search: settings that were tried, with their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

COMPLETE, PRUNED, FAILED, RUNNING = "complete", "pruned", "failed", "running"


@dataclass(frozen=True)
class Trial:
    """Settings that a search has tried.

    Attributes:
        number: from 0, in the order in which trials began.
        settings: dotted key -> value.
        state: "complete", "pruned" (stopped early, with intermediate scores alone), "failed" or "running".
        score: mean over envs and tuning seeds, higher is better; none unless complete.
        scores_by_seed: tuning seed -> score, the mean over envs.
        intermediate: gradient step of the actor -> score of the first tuning seed so far.
        seconds: wall time from its begin to its end; none while it runs.
        patch: name of the patch that its cells carry.
    """

    number: int
    settings: Mapping[str, Any]
    state: str
    score: float | None
    scores_by_seed: Mapping[int, float] = field(default_factory=dict)
    intermediate: Mapping[int, float] = field(default_factory=dict)
    seconds: float | None = None
    patch: str = ""


def find_best(trials: list[Trial]) -> Trial | None:
    """Return the complete trial of the highest score, the earlier one of two equals; none if none is complete."""
    finished = [trial for trial in trials if trial.state == COMPLETE and trial.score is not None]
    return max(finished, key=lambda trial: (trial.score, -trial.number), default=None)
