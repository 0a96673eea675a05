"""A padded sub-trajectory, cut out of one episode step by step."""

from __future__ import annotations

import numpy as np

from reference.targets import returns_to_go_loop
from vdt.data.trajectory import Trajectory


def gather_sequence_loop(
    trajectory: Trajectory, start: int, context_length: int, mean: np.ndarray, std: np.ndarray, return_scale: float
) -> dict[str, np.ndarray]:
    """Fields of `SequenceBatch` for one sub-trajectory: real steps first, zeros after them."""
    size, width = trajectory.observations.shape[1], trajectory.actions.shape[1]
    fields = {
        "observations": np.zeros((context_length, size)),
        "actions": np.zeros((context_length, width)),
        "rewards": np.zeros(context_length),
        "returns_to_go": np.zeros(context_length),
        "timesteps": np.zeros(context_length, np.int64),
        "mask": np.zeros(context_length),
        "next_observations": np.zeros((context_length, size)),
    }
    to_go = returns_to_go_loop(list(trajectory.rewards))
    for position in range(context_length):
        step = start + position
        if step >= len(trajectory):
            break
        fields["observations"][position] = (trajectory.observations[step] - mean) / std
        fields["next_observations"][position] = (trajectory.observations[step + 1] - mean) / std
        fields["actions"][position] = trajectory.actions[step]
        fields["rewards"][position] = trajectory.rewards[step] / return_scale
        fields["returns_to_go"][position] = to_go[step] / return_scale
        fields["timesteps"][position] = step
        fields["mask"][position] = 1
    return fields
