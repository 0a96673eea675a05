"""Dataset card: content and origin of a snapshot, and the changes made to its data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.config.task import TaskConfig
from vdt.data.reward_scale import describe_reward_scale
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.loaded_data import LoadedData
from vdt.datasets.summary import NO_REFERENCE
from vdt.environments.scores import compute_normalized_score, compute_standard_error

QUANTILES = {"min": 0.0, "10%": 0.1, "25%": 0.25, "50%": 0.5, "75%": 0.75, "90%": 0.9, "max": 1.0}


def make_card(env: str, task: TaskConfig, source: str, recording: LoadedData) -> dict[str, Any]:
    """Return the card as plain values: the same data gives the same card."""
    dataset = recording.dataset
    limits = [(block.min(), block.max()) for block in dataset.iterate_blocks("actions", steps=True)]
    return {
        "env": env,
        "source": source,
        "licence": "that of the file given" if source == "path" else task.licence,
        "episodes": len(dataset),
        "steps": dataset.steps,
        "observation_size": dataset.observation_size,
        "action_size": dataset.action_size,
        "return_mean": float(dataset.episode_returns.mean()),
        "return_quantiles": _compute_quantiles(dataset.episode_returns),
        **measure_scores(dataset, task),
        "length_quantiles": _compute_quantiles(dataset.lengths),
        "terminated_share": float(dataset.terminated.mean()),
        "action_min": float(min(low for low, _ in limits)),
        "action_max": float(max(high for _, high in limits)),
        "clipped_actions": recording.clipped_actions,
        "clipped_share": recording.clipped_actions / (dataset.steps * dataset.action_size),
        "notes": [*recording.notes, *describe_doubts(dataset, task)],
        "recipe": recording.recipe,
    }


def measure_scores(dataset: TrajectoryDataset, task: TaskConfig) -> dict[str, Any]:
    """Return the entries of a card that the task's reference returns decide: two runs of one snapshot may have others."""
    scores = compute_normalized_score(dataset.episode_returns, task.reference_return_min, task.reference_return_max)
    return {
        "reference": task.reference,
        "normalized_score_mean": float(scores.mean()),
        "normalized_score_standard_error": compute_standard_error(scores) or 0.0,
    }


def describe_doubts(dataset: TrajectoryDataset, task: TaskConfig) -> list[str]:
    """Return warnings for a reader of results, one sentence each; also logged."""
    return [
        *describe_missing(dataset),
        *describe_reward_scale(task.reward_scaling, dataset.episode_returns),
        *describe_zero_rewards(dataset),
        *describe_still_actions(dataset, task),
    ]


def describe_missing(dataset: TrajectoryDataset) -> list[str]:
    """Return consequences of missing final observations, one sentence each; empty where all were recorded."""
    if not dataset.final_missing.any():
        return []
    left_out = dataset.rewards[(dataset.starts + dataset.lengths - 1)[dataset.final_missing]]
    sums = iter((float(left_out.sum(dtype=np.float64)), float(dataset.episode_returns.sum())))
    paid = sum(np.count_nonzero(block) for block in dataset.iterate_blocks("rewards"))
    notes = [
        f"{len(left_out)} truncated episodes lack the observation after their last step. Returns, returns-to-go and the policy "
        f"count these steps and their rewards (sum {next(sums):.4g} of {next(sums):.4g}); the critic leaves them out"
    ]
    if np.count_nonzero(left_out) == paid > 0:
        notes.append(
            "every reward other than 0 lies in the steps that the critic leaves out, so it learns from zeros alone: mark "
            "real ends as such, or give the missing observations"
        )
    return notes


def describe_zero_rewards(dataset: TrajectoryDataset) -> list[str]:
    """Return the consequence of rewards that are all 0, one sentence; empty where one is not."""
    if any(block.any() for block in dataset.iterate_blocks("rewards", steps=True)):
        return []
    return [
        "every reward is 0, so all episodes have the same return: the critic and the returns-to-go have nothing to learn "
        "from, and the policy can only imitate"
    ]


def describe_still_actions(dataset: TrajectoryDataset, task: TaskConfig) -> list[str]:
    """Return the consequence of action components that never change, one sentence; empty where all change."""
    first, still = dataset.actions[dataset.starts[0]], np.ones(dataset.action_size, np.bool_)
    for block in dataset.iterate_blocks("actions", steps=True):
        still &= (block == first).all(axis=0)
        if not still.any():
            return []
    low, high = np.array(task.action_low or -1.0), np.array(task.action_high or 1.0)
    values = low + (first + 1.0) * (high - low) / 2.0
    listed = ", ".join(f"{k} is always {values[k]:g}" for k in np.flatnonzero(still))
    return [f"action components that never change (counted from 0): {listed}; the policy can learn these values alone"]


def describe_clipping(card: dict[str, Any], task: TaskConfig) -> str:
    """Return what was done to actions beyond the range that they are scaled from, one sentence."""
    own = "task.action_low and task.action_high" if task.action_low else "[-1, 1]"
    return (
        f"{card['clipped_actions']:,} action components ({card['clipped_share']:.2%}) lie outside {own} and were clipped to "
        "the nearest end: the policy learns other actions than were recorded, unless the actuators clip as well"
    )


def _compute_quantiles(values: npt.NDArray[Any]) -> dict[str, float]:
    return {name: float(np.quantile(values, share)) for name, share in QUANTILES.items()}


def format_card(card: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    quantiles = " | ".join(QUANTILES)
    rows = [
        f"| {name} | " + " | ".join(f"{card[key][q]:,.{digits}f}" for q in QUANTILES) + " |"
        for name, key, digits in (("episode return", "return_quantiles", 1), ("episode length", "length_quantiles", 0))
    ]
    notes = [f"- {note}" for note in card["notes"]] or ["- nothing was changed"]
    return "\n".join(
        [
            f"# {card['env']} from source `{card['source']}`",
            "",
            f"- why this source: {card.get('reason', 'not recorded')}",
            f"- {card['episodes']:,} episodes, {card['steps']:,} steps, "
            f"observations of {card['observation_size']}, actions of {card['action_size']}",
            f"- mean return {card['return_mean']:,.1f}, mean normalized_score {card['normalized_score_mean']:.1f} "
            f"± {card['normalized_score_standard_error']:.1f} (standard error over episodes)",
            f"- score 0 and 100 are {card['reference']}",
            f"- {card['terminated_share']:.1%} of the episodes really ended, the others were cut",
            f"- actions as the networks see them from {card['action_min']:.3f} to {card['action_max']:.3f}; "
            f"{card['clipped_actions']:,} components ({card['clipped_share']:.3%}) were clipped to [-1, 1]",
            f"- licence: {card['licence']}",
            "",
            f"| quantile | {quantiles} |",
            "|---|" + "---|" * len(QUANTILES),
            *rows,
            "",
            "What was done to it:",
            *notes,
            "",
            "Made by:",
            "```json",
            json.dumps(card["recipe"], indent=2, sort_keys=True),
            "```",
            "",
        ]
    )


def describe(dataset: TrajectoryDataset, card: dict[str, Any]) -> str:
    """Return one line for the log."""
    scored = f"mean normalized_score {card['normalized_score_mean']:.1f}"
    if card["reference"] == NO_REFERENCE:
        scored = f"mean return {card['return_mean']:.4g}, no score"
    return f"{card['env']} ({card['source']}): {len(dataset):,} episodes, {dataset.steps:,} steps, {scored}"
