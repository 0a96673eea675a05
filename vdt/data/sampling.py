"""Draws batches from a trajectory store: one vectorised gather each."""

from __future__ import annotations

import torch
from torch import Tensor

from vdt.data.batches import SequenceBatch, TransitionBatch
from vdt.data.replay_buffer import TrajectoryReplayBuffer


class Sampler:
    """Two-step sampling: a trajectory first, then a start inside it, uniformly.

    With weighting "length" trajectories are drawn with p proportional to their steps, so all sub-trajectories are equally
    likely. With "uniform" all trajectories are, and steps of short ones are drawn more often.
    """

    def __init__(self, buffer: TrajectoryReplayBuffer, weighting: str, generator: torch.Generator) -> None:
        """Draw from `buffer` with the buffer's device's `generator`."""
        self.buffer = buffer
        self.weighting = weighting
        self.generator = generator
        self._seen: tuple[Tensor, Tensor] | None = None
        self._cumulative = torch.zeros(0)

    def sample_steps(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw `count` steps.

        Returns:
            row of each step in the buffer's matrix, (count,); steps from the start of its episode, (count,); steps left in
            its episode, this one included, (count,). All int64.
        """
        index = self.buffer.index()
        starts, lengths = index
        if self._seen is not index:
            if not len(lengths):
                raise ValueError("cannot sample from an empty buffer")
            self._seen, self._cumulative = index, torch.cumsum(lengths, 0)
        uniform = torch.rand(count, generator=self.generator, device=starts.device, dtype=torch.float64)
        if self.weighting == "length":
            flat = (uniform * self._cumulative[-1]).long()
            trajectory = torch.searchsorted(self._cumulative, flat, right=True)
            step = flat - (self._cumulative[trajectory] - lengths[trajectory])
        else:
            scaled = uniform * len(lengths)
            trajectory = scaled.long()
            step = ((scaled - trajectory) * lengths[trajectory]).long()
        return starts[trajectory] + step, step, lengths[trajectory] - step

    def sample_transitions(self, batch_size: int) -> TransitionBatch:
        """Independent n-step transitions for the critic (M2)."""
        rows, _, _ = self.sample_steps(batch_size)
        return self.gather_transitions(rows)

    def gather_transitions(self, rows: Tensor) -> TransitionBatch:
        """The transitions that start at `rows` (B,) of the buffer's matrix."""
        s, a = self.buffer.observation_size, self.buffer.action_size
        matrix = self.buffer.matrix
        taken = matrix[rows]
        bootstrap = matrix[rows + taken[:, s + a + 3].long(), :s]
        return TransitionBatch(taken[:, :s], taken[:, s : s + a], taken[:, s + a + 2], bootstrap, taken[:, s + a + 4])

    def sample_sequences(self, batch_size: int, context_length: int) -> SequenceBatch:
        """Sub-trajectories of up to `context_length` steps, padded on the right."""
        rows, timesteps, left = self.sample_steps(batch_size)
        return self.gather_sequences(rows, timesteps, left, context_length)

    def gather_sequences(self, rows: Tensor, timesteps: Tensor, left: Tensor, context_length: int) -> SequenceBatch:
        """The sub-trajectories that start at `rows`; arguments as `sample_steps` returns them."""
        s, a = self.buffer.observation_size, self.buffer.action_size
        positions = torch.arange(context_length + 1, device=rows.device)
        inside = torch.minimum(positions, left[:, None])  # rows past the end repeat the last one and are masked
        window = self.buffer.matrix[rows[:, None] + inside]
        mask = (positions[:-1] < left[:, None]).float()
        kept = window[:, :-1] * mask[:, :, None]
        return SequenceBatch(
            observations=kept[..., :s],
            actions=kept[..., s : s + a],
            rewards=kept[..., s + a],
            returns_to_go=kept[..., s + a + 1],
            timesteps=(timesteps[:, None] + positions[:-1]) * mask.long(),
            mask=mask,
            next_observations=window[:, 1:, :s] * mask[:, :, None],
        )
