"""Initial buffer of the online phase: the best trajectories of the data."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from vdt.config.schema import Config
from vdt.data.storage import write_trajectories
from vdt.data.trajectory import Trajectory, TrajectoryDataset

logger = logging.getLogger(__name__)


def select_best_trajectories(dataset: TrajectoryDataset, count: int) -> list[Trajectory]:
    """Return the `count` highest-return trajectories, worst first, so that first in, first out drops the worst first."""
    order = np.argsort(dataset.episode_returns, kind="stable")
    return [dataset[int(episode)] for episode in order[-count:]]


def seed_buffer(config: Config, dataset: TrajectoryDataset, path: Path) -> Path:
    """Write the highest-return offline trajectories that fit the online buffer to `path`."""
    best = TrajectoryDataset.from_trajectories(select_best_trajectories(dataset, config.online.buffer_trajectories))
    returns = best.episode_returns
    logger.info(
        f"buffer: {len(best)} of {len(dataset)} trajectories, returns {returns.min():.0f} to {returns.max():.0f}"
    )
    write_trajectories(path, best)
    return path
