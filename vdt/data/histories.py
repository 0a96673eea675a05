"""What a policy sees at stored moments, for a critic that asks it what it would do there."""

from __future__ import annotations

import torch
from torch import Tensor

from vdt.data.batches import Histories
from vdt.data.replay_buffer import TrajectoryReplayBuffer


def find_bootstrap_rows(buffer: TrajectoryReplayBuffer, rows: Tensor) -> Tensor:
    """Row of the observation after the n-step rewards that start at `rows` (B,) of the buffer's matrix (M2)."""
    return rows + buffer.matrix[rows, buffer.column.bootstrap_steps].long()


def gather_histories(buffer: TrajectoryReplayBuffer, rows: Tensor, context_length: int) -> Histories:
    """The last `context_length` steps up to each of `rows` (B,), which may be an episode's final observation.

    A final observation has no return-to-go of its own: nothing was recorded after it, so it is 0.
    """
    column = buffer.column
    starts, _ = buffer.index()
    timesteps = rows - starts[torch.searchsorted(starts, rows, right=True) - 1]
    present = timesteps.clamp(max=context_length - 1)
    positions = torch.arange(context_length, device=rows.device)
    window = buffer.matrix[(rows - present)[:, None] + torch.minimum(positions, present[:, None])]
    return Histories(
        observations=window[..., column.observation],
        actions=window[..., column.action],
        returns_to_go=window[..., column.return_to_go],
        timesteps=(timesteps - present)[:, None] + positions,
        present=present,
    )
