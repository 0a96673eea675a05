"""Doubts about a user's own data that are logged each time it is used; in its card they would change the md5."""

from __future__ import annotations

import logging
from collections.abc import Collection

import numpy as np

from vdt.config.task import TaskConfig
from vdt.data.statistics import describe_observation_doubts
from vdt.data.trajectory import TrajectoryDataset
from vdt.datasets.action_outliers import Blocks, describe_outliers, find_outliers
from vdt.datasets.summary import NO_REFERENCE, are_equal

logger = logging.getLogger(__name__)


def log_doubts(
    dataset: TrajectoryDataset, task: TaskConfig, actions: Blocks | None, given: Collection[str] = ()
) -> None:
    """Log what a user can mend in the data, or should know of it.

    Args:
        dataset: of the user's own.
        task: of the cell.
        actions: yields the recorded actions, block by block, where the data gives the policy's range; else none.
        given: keys that the user has set.
    """
    for sentence in describe_observation_doubts(dataset):
        logger.warning(f"data: {sentence}")
    by_data = task.action_low and "task.action_low" not in given
    if actions is not None and by_data and (outliers := find_outliers(actions, dataset.lengths)):
        logger.warning(f"data: {describe_outliers(outliers, dataset.lengths, task)}")
    if len(dataset) > 1 and are_equal(dataset.episode_returns):
        logger.warning(f"data: {_describe_equal_returns(dataset, task)}")
    elif (reward := _find_only_reward(dataset)) is not None:
        logger.info(
            f"data: every reward is {reward:g}, so returns differ by the lengths of the episodes alone: only an episode's "
            "length can be learned"
        )


def _describe_equal_returns(dataset: TrajectoryDataset, task: TaskConfig) -> str:
    score = ", and the normalized_score means nothing" if task.reference == NO_REFERENCE else ""
    return (
        f"all {len(dataset)} episodes have the same return, {float(dataset.episode_returns[0]):.4g}: returns say nothing of "
        f"which one is better{score}"
    )


def _find_only_reward(dataset: TrajectoryDataset) -> float | None:
    """Return the reward of all steps; none if there are several, or it is 0."""
    first = float(dataset.rewards[dataset.starts[0]])
    if any(bool((block != np.float32(first)).any()) for block in dataset.iterate_blocks("rewards", steps=True)):
        return None
    return first or None
