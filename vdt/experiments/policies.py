"""Policies of evaluated cells, entered beside their checkpoints so that `vdt.load_policy` finds them and their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vdt.agent.policy_files import PolicyFile, write_index, write_scores
from vdt.config.schema import Config
from vdt.evaluation.measurements import measure_policy
from vdt.evaluation.records import CellRecord


def keep_policies(branch: Any, record: CellRecord, config: Config, folder: Path, home: Path) -> Path:
    """Write the index of a cell's policies, and the scores of those that it trained itself beside their checkpoints.

    Another cell's actor keeps the scores of that cell, whose planner may be another.

    Args:
        branch: has the artifacts of the cell's steps; of them `agents` and `actor_shared_from` are read.
        record: what was measured.
        config: of the cell.
        folder: of the evaluation; the index lies there.
        home: the home folder.
    """
    policies = {}
    for name, file in branch.agents.items():
        path, evaluation = Path(file["path"]), record.evaluation
        scores = measure_policy(evaluation.policies.get(name, {}), evaluation.held_out.get(name))
        policy = PolicyFile(path, name, file["sha256"], scores, record.mlflow_run_id)
        policies[name] = policy
        if path.is_file() and not (name == "offline" and branch.actor_shared_from):
            write_scores(policy)
    return write_index(folder, policies, config, home)
