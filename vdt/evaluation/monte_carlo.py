"""Monte-Carlo returns of recorded steps, in units of the critic."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vdt.agent.actor_critic import ActorCritic, make_buffer_sampler
from vdt.data.sampling import Sampler, find_bootstrap_rows, gather_contexts
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.data.trajectory_store import TrajectoryStore
from vdt.evaluation.windows import STEPS_PER_PASS


def make_monte_carlo_sampler(actor_critic: ActorCritic, episodes: Iterable[Trajectory]) -> Sampler:
    """Make a sampler of whole episodes whose n-step sums (M2) reach beyond every end: they are Monte-Carlo returns."""
    if isinstance(episodes, TrajectoryDataset):
        buffer: TrajectoryStore = actor_critic.make_store(episodes, n_step=int(episodes.lengths.max()))
    else:
        held = list(episodes)
        buffer = actor_critic.make_buffer(held, n_step=max(map(len, held)))
    generator = torch.Generator(device=buffer.device)
    return make_buffer_sampler(actor_critic.config, buffer, generator)


@torch.no_grad()
def compute_monte_carlo_returns(actor_critic: ActorCritic, sampler: Sampler, rows: Tensor) -> Tensor:
    """Compute the discounted return that followed each step, (B,), in scaled rewards.

    After a cut the value of the final observation follows, as the critic's targets have it.

    Args:
        actor_critic: gives that value.
        sampler: of `make_monte_carlo_sampler`.
        rows: of the steps in the sampler's matrix, (B,).
    """
    steps = sampler.gather_transitions(rows)
    if actor_critic.target_policy is None:
        values: Tensor = actor_critic.critic.value(steps.bootstrap_observations)
    else:
        context, after = actor_critic.acting_context, find_bootstrap_rows(sampler.buffer, rows)
        chunks = after.split(max(1, STEPS_PER_PASS // context))
        asked = (gather_contexts(sampler.buffer, chunk, context) for chunk in chunks)
        values = torch.cat([actor_critic.compute_target_values(contexts) for contexts in asked])
    return steps.n_step_rewards + steps.bootstrap_discounts * values
