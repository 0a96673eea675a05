"""Small finished cells for reports."""

from collections.abc import Mapping, Sequence
from typing import Any

from vdt.evaluation.records import CellRecord, Diagnostics, Evaluation, EvaluationReport, HeldOutReport, SnapshotRecord

WALKER = "walker2d-medium-v2"
LABELS = {  # as snapshots carry them
    "collected": "collected (not D4RL)",
    "d4rl": "D4RL",
    "minari": "minari (not comparable with D4RL)",
    "path": "own file (not D4RL)",
}
SHARES = {1: (1.0,), 2: (0.25, 0.75)}  # of choices, by the number of candidates


def make_evaluation(
    scores: Sequence[float | None], targets: Sequence[float] = (5000.0,), horizon: int = 1, **more: Any
) -> EvaluationReport:
    """Make episodes of 100 steps with the given scores, 46 units of return for each point; `more` are other fields."""
    whole = [score for score in scores if score is not None]
    fields: dict[str, Any] = {
        "label": "x",
        "candidate_returns": tuple(targets),
        "planning_horizon": horizon,
        "env_model": "learned" if horizon > 1 else "none",
        "episode_returns": [46.0 * (score or 0.0) for score in scores],
        "episode_lengths": [100] * len(scores),
        "normalized_scores": list(scores),
        "normalized_score_mean": sum(whole) / len(scores) if len(whole) == len(scores) else None,
        "normalized_score_standard_error": 0.0,
        "seconds": 0.5,
        "environment_steps": 100 * len(scores),
        "chosen_candidates": SHARES[len(targets)],
    }
    return EvaluationReport(**{**fields, **more})


def make_record(
    seed: int,
    policies: Mapping[str, Mapping[str, EvaluationReport]],
    *,
    env: str = WALKER,
    method: str = "vdt",
    patch: str = "",
    source: str = "collected",
    config: Mapping[str, Any] | None = None,
    held_out: Mapping[str, HeldOutReport] | None = None,
    diagnostics: Mapping[str, Diagnostics] | None = None,
    **fields: Any,
) -> CellRecord:
    """Make a finished cell with a look-ahead of two candidates and three steps; `fields` are a record's own."""
    snapshot = {
        "env": env,
        "source": source,
        "label": LABELS[source],
        "reason": "No D4RL file and no network.",
        "md5": "0123abcd",
        "size": 10,
        "card": {"normalized_score_mean": 62.5},
        **fields.pop("snapshot", {}),
    }
    settings = {
        **{"env": env, "preset": "smoke", "method": method, "seed": seed, "actor.q_coefficient": 0.03},
        **{"planner.candidates": 2, "planner.planning_horizon": 3, "task.candidate_returns": [5000.0, 2500.0]},
        **(config or {}),
    }
    return CellRecord(
        **{
            "key": f"{env}-{method}-{patch}-s{seed}",
            "patch": patch,
            "config": settings,
            "snapshot": SnapshotRecord(**snapshot),
            "evaluation": Evaluation(policies, held_out or {}, diagnostics or {}),
            "mlflow_run_id": f"run-{method}-{seed}",
            "seconds": {"pretrain_critic": 3.25, "train_actor": 60.0},
            **fields,
        }
    )
