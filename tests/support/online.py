"""A tiny agent that online tuning begins from: settings, data and what they consist of."""

from pathlib import Path

from support.builders import make_config, make_dataset
from vdt.data.trajectory import TrajectoryDataset

Inputs = tuple[Path, Path, TrajectoryDataset]  # of `tune_online`: agent, buffer file and data
DATASET = make_dataset((5, 1, 7, 3, 6, 2, 4, 4))
CONFIG = make_config({"online.buffer_trajectories": 6})
