"""Sampling of batches from a trajectory store: one vectorised gather each."""

from __future__ import annotations

import torch
from torch import Tensor

from vdt.data.batches import ContextBatch, SequenceBatch, TransitionBatch, concatenate
from vdt.data.trajectory_store import StepRows, TrajectoryStore


def compute_return_weights(returns: Tensor, temperature: float) -> Tensor:
    """Compute by what `data.trajectory_weighting` return multiplies the share of each trajectory's steps (Hong et al., 2023).

    Args:
        returns: (E,) float64 of the trajectories, in any unit.
        temperature: of their standardised values; smaller prefers the best more.

    Returns:
        exp(z / temperature), (E,), the largest 1; all 1 where the returns are equal.
    """
    spread = float(returns.std(correction=0))
    if spread <= 1e-8 * float(returns.abs().max()):  # equal but for rounding
        return torch.ones_like(returns)
    standard = (returns - returns.mean()) / spread
    return torch.exp((standard - standard.max()) / temperature)


class Sampler:
    """Two-step sampler: a trajectory first, then a start inside it, uniformly.

    With draws "length" trajectories are drawn with p proportional to their steps, so all sub-trajectories are equally
    likely. With "uniform" all trajectories are, and steps of short ones are drawn more often. With "return" p is
    proportional to steps times exp(z / temperature), z the standardised return of the trajectory among those held.

    Sub-trajectories start at a step. So the first of K steps is met by one start, the K-th by K. With `starts_before`
    they also start up to K - 1 steps before the first, of which they hold nothing: then all steps of a trajectory are met
    by K starts. Trajectories are drawn as often as without.

    Where a smaller share of the sub-trajectories than `start_fraction` starts less than K steps away from their trajectory's
    first step, as many more of a batch are drawn there, to the nearest whole number.
    """

    def __init__(
        self,
        buffer: TrajectoryStore,
        draws: str,
        generator: torch.Generator,
        *,
        policy_draws: str = "",
        return_temperature: float = 1.0,
        starts_before: bool = False,
        start_fraction: float = 0.0,
    ) -> None:
        """Draw from `buffer` with the buffer's device's `generator`.

        Args:
            buffer: of trajectories.
            draws: "length", "uniform" or "return".
            generator: of the draws.
            policy_draws: of steps and sub-trajectories that the policy learns from; empty: as `draws`. The
                critic's transitions are drawn by `draws` in any case.
            return_temperature: of draws "return".
            starts_before: of sub-trajectories, see above.
            start_fraction: likewise.
        """
        self.buffer = buffer
        self.draws = {True: draws, False: policy_draws or draws}  # with targets (the critic's) or all
        self.generator = generator
        self.return_temperature, self.starts_before = return_temperature, starts_before
        self.start_fraction = start_fraction
        self._pools: dict[bool, tuple[tuple[Tensor, Tensor], StepRows]] = {}  # with targets or all: index and rows
        self._bounds: dict[tuple[bool, int], tuple[tuple[Tensor, Tensor], Tensor]] = {}  # likewise: index and shares
        self._missing: dict[tuple[int, int], tuple[tuple[Tensor, Tensor], float]] = {}  # index and share of the draws
        self._positions = torch.zeros(0)

    def sample_rows(self, count: int, *, with_target: bool = False) -> Tensor:
        """Draw `count` steps: the row of each in the buffer's matrix, (count,) int64.

        Args:
            count: how many.
            with_target: whether only steps with a target of the critic are drawn (M2).
        """
        draws = self.draws[with_target]
        if draws == "return":
            starts, place = self._draw(count, 0, with_target=with_target)
            return starts + place
        index = self.buffer.index_targets() if with_target else self.buffer.index()
        starts, lengths = index
        if draws == "length":
            seen, pool = self._pools.get(with_target, (None, None))
            if seen is not index or pool is None:
                _expect_some(lengths)
                pool = StepRows(starts, lengths)
                self._pools[with_target] = index, pool
            return pool.select(torch.randint(pool.count, (count,), generator=self.generator, device=starts.device))
        _expect_some(lengths)
        uniform = torch.rand(count, generator=self.generator, device=starts.device, dtype=torch.float64)
        scaled = uniform * len(lengths)
        trajectory = scaled.long()
        return starts[trajectory] + ((scaled - trajectory) * lengths[trajectory]).long()

    def _draw(self, count: int, before: int, *, with_target: bool = False) -> tuple[Tensor, Tensor]:
        """Draw trajectories, and starts from `before` steps before their first step on.

        Returns:
            the row of each trajectory's first step, and the start as its distance from there, both (count,) int64.
        """
        index = self.buffer.index_targets() if with_target else self.buffer.index()
        starts, lengths = index[0], index[1] + before
        seen, bounds = self._bounds.get((with_target, before), (None, starts))
        if seen is not index:
            _expect_some(lengths)
            shares = self._compute_shares(self.draws[with_target], starts, index[1])
            bounds = torch.cat([shares.new_zeros(1), torch.cumsum(shares, 0) / shares.sum()])
            self._bounds[with_target, before] = index, bounds
        uniform = torch.rand(count, generator=self.generator, device=starts.device, dtype=torch.float64)
        trajectory = torch.searchsorted(bounds[1:], uniform, right=True).clamp_(max=len(starts) - 1)
        low, high = bounds[trajectory], bounds[trajectory + 1]
        inside = ((uniform - low) / (high - low) * lengths[trajectory]).long()
        return starts[trajectory], torch.minimum(inside, lengths[trajectory] - 1) - before

    def _compute_shares(self, draws: str, starts: Tensor, lengths: Tensor) -> Tensor:
        """Compute what the probability of each trajectory is proportional to, (E,), from first rows and numbers of steps."""
        if draws == "uniform":
            return torch.ones_like(lengths, dtype=torch.float64)
        if draws == "length":
            return lengths.double()
        returns = self.buffer.take(starts, self.buffer.column.return_to_go).double()
        return lengths * compute_return_weights(returns, self.return_temperature)

    def sample_transitions(self, batch_size: int) -> TransitionBatch:
        """Draw independent n-step transitions for the critic (M2)."""
        return self.gather_transitions(self.sample_rows(batch_size, with_target=True))

    def sample_transitions_in_context(
        self, batch_size: int, context_length: int, *, present: bool, window_steps: int = 1
    ) -> tuple[TransitionBatch, ContextBatch, ContextBatch | None]:
        """Draw transitions, the contexts of a policy after them, and, if `present`, those at their beginning.

        Args:
            batch_size: B, of the transitions.
            context_length: K, steps of a context.
            present: whether the contexts at the beginning are wanted too.
            window_steps: W, successive transitions that share a context, at most K; B is a multiple of it. The first of
                them has at least K - W steps before it, where the trajectory does. All transitions are drawn as often
                but for the W - 1 at either end of a trajectory: the outermost (W + 1)(W + 2) / 6W times as often.
        """
        buffer, rows = self.buffer, self.sample_rows(batch_size // window_steps, with_target=True)
        if window_steps > 1:
            rows = self._surround(rows, window_steps)
        after = gather_contexts(buffer, find_bootstrap_rows(buffer, rows), context_length)
        before = gather_contexts(buffer, rows, context_length) if present else None
        return self.gather_transitions(rows.flatten()), after, before

    def _surround(self, rows: Tensor, count: int) -> Tensor:
        """Return `count` successive rows with a target around each of `rows` (B,), (B, count); the ends are repeated."""
        starts, lengths = self.buffer.index_targets()
        place = torch.searchsorted(starts, rows, right=True) - 1
        first = rows - torch.randint(count, rows.shape, generator=self.generator, device=rows.device)
        around = first[:, None] + torch.arange(count, device=rows.device)
        return around.clamp(starts[place, None], (starts + lengths - 1)[place, None])

    def sample_steps(self, count: int, *, with_target: bool = False) -> tuple[Tensor, Tensor]:
        """Draw observations (count, S) and actions (count, A) as the policy's steps, or `with_target` as the critic's."""
        column, taken = self.buffer.column, self.buffer.take(self.sample_rows(count, with_target=with_target))
        return taken[:, column.observation], taken[:, column.action]

    def gather_transitions(self, rows: Tensor) -> TransitionBatch:
        """Gather the transitions that start at `rows` (B,) of the buffer's matrix; each must have a target (M2)."""
        column, taken = self.buffer.column, self.buffer.take(rows)
        later = rows + taken[:, column.bootstrap_steps].long()
        return TransitionBatch(
            observations=taken[:, column.observation],
            actions=taken[:, column.action],
            n_step_rewards=taken[:, column.n_step_reward],
            bootstrap_observations=self.buffer.take(later, column.observation),
            bootstrap_discounts=taken[:, column.bootstrap_discount],
        )

    def sample_sequences(self, batch_size: int, context_length: int) -> SequenceBatch:
        """Draw sub-trajectories of up to `context_length` steps, padded on the right."""
        before, near = context_length - 1 if self.starts_before else 0, self.start_fraction > 0
        if not (before or near):
            return self.gather_sequences(self.sample_rows(batch_size), context_length)
        first, place = self._draw(batch_size, before)
        if near and (more := self._count_missing(batch_size, context_length, before)):
            choices = self.buffer.take(first[:more], self.buffer.column.steps_left).clamp(max=context_length) + before
            uniform = torch.rand(more, generator=self.generator, device=place.device, dtype=torch.float64)
            place = torch.cat([(uniform * choices).long() - before, place[more:]])
        return self.gather_sequences(first + place.clamp(min=0), context_length, context_length + place.clamp(max=0))

    def _count_missing(self, count: int, context_length: int, before: int) -> int:
        """Count the draws of `count` that must be made near first steps for `start_fraction` of all to be there.

        Of the others a share s is there anyway, so it is (f - s) / (1 - s) of them.
        """
        index, bounds = self._bounds[False, before]  # of the draws just made
        seen, missing = self._missing.get((context_length, before), (None, 0.0))
        if seen is not index:
            lengths = index[1]
            near = (lengths.clamp(max=context_length) + before) / (lengths + before).double()
            share = float((bounds.diff() * near).sum())
            missing = max(0.0, (self.start_fraction - share) / (1.0 - share)) if share < 1.0 else 0.0
            self._missing[context_length, before] = index, missing
        return round(missing * count)

    def gather_sequences(self, rows: Tensor, context_length: int, longest: Tensor | None = None) -> SequenceBatch:
        """Gather the sub-trajectories that start at `rows` (B,); all fields but the mask are views of one copied window.

        Args:
            rows: of the buffer's matrix.
            context_length: K.
            longest: number of steps that each may hold, (B,), at least 1; none is K for all.
        """
        column = self.buffer.column
        window = self.buffer.gather_windows(rows, context_length + 1)
        steps, first = window[:, :-1], window[:, :1]
        if len(self._positions) != context_length:
            self._positions = torch.arange(context_length, dtype=window.dtype, device=window.device)
        left = first[..., column.steps_left]
        if longest is not None:
            left = torch.minimum(left, longest[:, None])
        mask = next_mask = (left - self._positions).clamp_(0.0, 1.0)
        if self.buffer.final_missing:
            next_mask = mask * (steps[..., column.bootstrap_steps] > 0)
        return SequenceBatch(
            observations=steps[..., column.observation],
            actions=steps[..., column.action],
            rewards=steps[..., column.reward],
            returns_to_go=steps[..., column.return_to_go],
            timesteps=(first[..., column.timestep] + self._positions).long(),
            mask=mask,
            next_observations=window[:, 1:, column.observation],
            next_observation_mask=next_mask,
        )


class MixedSampler:
    """Sampler of the critic's batches from two buffers, with a fixed share of each (RLPD's symmetric sampling)."""

    def __init__(self, own: Sampler, offline: Sampler, offline_share: float) -> None:
        """Draw a share of `offline_share` from `offline`, the rest from `own`; both draw from one generator."""
        self.own, self.offline, self.offline_share = own, offline, offline_share
        self.generator = own.generator

    def split(self, count: int) -> list[tuple[Sampler, int]]:
        """Divide `count` draws: own ones first, then the offline ones, `offline_share` of all to the nearest whole number."""
        offline = round(self.offline_share * count)
        return [(self.own, count - offline), (self.offline, offline)]

    def sample_transitions(self, batch_size: int) -> TransitionBatch:
        """Draw as `Sampler.sample_transitions`."""
        return concatenate([sampler.sample_transitions(count) for sampler, count in self.split(batch_size)])

    def sample_transitions_in_context(
        self, batch_size: int, context_length: int, *, present: bool, window_steps: int = 1
    ) -> tuple[TransitionBatch, ContextBatch, ContextBatch | None]:
        """Draw as `Sampler.sample_transitions_in_context`."""
        parts = [
            s.sample_transitions_in_context(
                n * window_steps, context_length, present=present, window_steps=window_steps
            )
            for s, n in self.split(batch_size // window_steps)
        ]
        befores = [before for _, _, before in parts if before is not None]
        before = concatenate(befores) if befores else None
        return concatenate([batch for batch, _, _ in parts]), concatenate([after for _, after, _ in parts]), before

    def sample_steps(self, count: int, *, with_target: bool = False) -> tuple[Tensor, Tensor]:
        """Draw as `Sampler.sample_steps`."""
        parts = [sampler.sample_steps(share, with_target=with_target) for sampler, share in self.split(count)]
        return torch.cat([observations for observations, _ in parts]), torch.cat([actions for _, actions in parts])


CriticSampler = Sampler | MixedSampler


def _expect_some(lengths: Tensor) -> None:
    if not len(lengths):
        raise ValueError("cannot sample from an empty buffer")


def find_bootstrap_rows(buffer: TrajectoryStore, rows: Tensor) -> Tensor:
    """Find the rows of the observations after the n-step rewards that start at `rows` of the buffer's matrix (M2)."""
    return rows + buffer.take(rows, buffer.column.bootstrap_steps).long()


def gather_contexts(buffer: TrajectoryStore, rows: Tensor, context_length: int) -> ContextBatch:
    """Gather the last `context_length` steps up to each of `rows`, which may be an episode's final observation.

    Rows are (B,), or (B, W): then the last of W ascending rows of an episode, at most K apart, ends the context of all.

    Nothing was recorded after a final observation. Its return-to-go is 0 after a real end, and the last step's after a
    time limit, where the task goes on.
    """
    column, asked = buffer.column, rows
    rows = asked if asked.dim() == 1 else asked[:, -1].contiguous()
    starts, _ = buffer.index()
    timesteps = rows - starts[torch.searchsorted(starts, rows, right=True) - 1]
    present = timesteps.clamp(max=context_length - 1)
    positions = torch.arange(context_length, device=rows.device)
    window = buffer.take((rows - present)[:, None] + torch.minimum(positions, present[:, None]))
    before = buffer.take((rows - 1).clamp(min=0))  # of a first step there is none, and none is needed
    cut = (buffer.take(rows, column.steps_left) == 0) & (before[:, column.bootstrap_discount] > 0)
    returns, last = window[..., column.return_to_go], before[:, column.return_to_go]
    return ContextBatch(
        observations=window[..., column.observation],
        actions=window[..., column.action],
        returns_to_go=torch.where(cut[:, None] & (positions == present[:, None]), last[:, None], returns),
        timesteps=(timesteps - present)[:, None] + positions,
        present=present if asked.dim() == 1 else present[:, None] - (rows[:, None] - asked),
    )
