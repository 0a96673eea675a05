"""Sub-trajectories of recorded episodes in which a policy answers to histories as long as while it acts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vdt.data.trajectory_store import TrajectoryStore

STEPS_PER_PASS = 8192  # of all sub-trajectories in one forward, or of one if that is longer


@dataclass(frozen=True)
class Windows:
    """B sub-trajectories of K steps.

    Attributes:
        rows: of the buffer's matrix, (B, K); beyond an episode's end they are another's.
        timesteps: since the start of the episode, (B, K).
        episodes: which episode of the buffer each belongs to, (B,).
        answered: whether the policy's answer at a step counts, (B, K) bool; each step counts in one sub-trajectory.
    """

    rows: Tensor
    timesteps: Tensor
    episodes: Tensor
    answered: Tensor


def iterate_windows(buffer: TrajectoryStore, length: int, *, final: bool) -> Iterator[Windows]:
    """Yield chunks of overlapping sub-trajectories that answer for every step held.

    A history is as long as while acting, or down to half of that: each pass answers for half of its steps. At an
    episode's first steps the history is what there is.

    Args:
        buffer: the episodes.
        length: K, of the acting context.
        final: whether final observations, on which no action was recorded, are answered too.
    """
    stride = max(1, length // 2)
    starts, steps = buffer.index()
    steps = steps + int(final)
    rows = buffer.list_step_rows((starts, steps))
    episodes = torch.repeat_interleave(torch.arange(len(starts), device=rows.device), steps)
    timesteps, last = rows - starts[episodes], steps[episodes] - 1
    opens = (timesteps % stride == 0) & ((timesteps == 0) | (timesteps + length - stride <= last))
    positions = torch.arange(length, device=rows.device)
    for part in opens.nonzero()[:, 0].split(max(1, STEPS_PER_PASS // length)):
        first = timesteps[part, None]
        answered = (first + positions <= last[part, None]) & ((first == 0) | (positions >= length - stride))
        yield Windows(rows[part, None] + positions, first + positions, episodes[part], answered)
