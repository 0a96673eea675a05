"""Evaluation of a policy without an environment: on held-out episodes."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from vdt.agent.actor_critic import ActorCritic
from vdt.data.batches import SequenceBatch
from vdt.data.replay_buffer import TrajectoryReplayBuffer
from vdt.data.sampling import Sampler, find_bootstrap_rows, gather_contexts
from vdt.data.trajectory import TrajectoryDataset
from vdt.evaluation.records import HeldOutReport
from vdt.evaluation.statistics import compute_correlation

logger = logging.getLogger(__name__)

CHUNK = 256  # sub-trajectories in one forward


@torch.no_grad()
def evaluate_held_out(actor_critic: ActorCritic, episodes: TrajectoryDataset, label: str) -> HeldOutReport:
    """Compare the policy's actions with the data's, and the critic's values with the data's returns."""
    config, task = actor_critic.config, actor_critic.config.task
    actor_critic.policy.eval()
    # The n-step sums of a horizon beyond every episode are Monte-Carlo returns, bootstrapped where an episode was cut.
    buffer = actor_critic.make_buffer(episodes, n_step=int(episodes.lengths.max()))
    device = buffer.device
    sampler = Sampler(buffer, config.data.trajectory_weighting, torch.Generator(device=device))
    chunks = [_measure(actor_critic, sampler, rows) for rows in _tile(buffer, config.policy.context_length)]
    predicted, taken, policy_value, data_value, earned, known = (
        torch.cat(column).double() for column in zip(*chunks, strict=True)
    )
    half = torch.ones(task.action_size, dtype=torch.float64, device=device)
    if task.action_low:
        half = (half.new_tensor(task.action_high) - half.new_tensor(task.action_low)) / 2.0
    values: tuple[float | None, ...] = (None, None, None, None)
    if config.critic.gradient_steps > 0:
        policy_mean, data_mean = (float(v.mean()) / actor_critic.reward_scale for v in (policy_value, data_value))
        values = (policy_mean, data_mean, None, None)
        followed, expected = earned[known > 0], data_value[known > 0]
        if len(followed):
            correlation = compute_correlation(expected.cpu().numpy(), followed.cpu().numpy())
            values = (policy_mean, data_mean, float(followed.mean()) / actor_critic.reward_scale, correlation)
    report = HeldOutReport(
        len(episodes),
        episodes.steps,
        float(((predicted - taken) * half).square().mean().sqrt()),
        float((taken * half).var(dim=0, correction=0).mean().sqrt()),
        *values,
    )
    shown = "" if report.policy_value is None else f", value {report.policy_value:.4g} (data's {report.data_value:.4g})"
    logger.info(
        f"evaluate {label}: {report.episodes} held-out episodes, {report.steps} steps, action error "
        f"{report.action_rmse:.4g} (a constant's {report.action_std:.4g}){shown}"
    )
    return report


def _tile(buffer: TrajectoryReplayBuffer, context_length: int) -> tuple[Tensor, ...]:
    """Cut every step once into consecutive sub-trajectories: chunks of their first rows."""
    rows = buffer.list_step_rows()
    timesteps = buffer.matrix[rows, buffer.column.timestep].long()
    chunks: tuple[Tensor, ...] = rows[timesteps % context_length == 0].split(CHUNK)
    return chunks


def _measure(
    actor_critic: ActorCritic, sampler: Sampler, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute predicted actions, the data's, values of both, returns that followed and whether these are known.

    All are those of the real steps.
    """
    length = actor_critic.config.policy.context_length
    batch: SequenceBatch = sampler.gather_sequences(rows, length)
    output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    real = batch.mask > 0
    observations, predicted, taken = batch.observations[real], output.actions[real], batch.actions[real]
    every = (rows[:, None] + torch.arange(length, device=rows.device))[real]
    steps = sampler.gather_transitions(every)
    after = gather_contexts(sampler.buffer, find_bootstrap_rows(sampler.buffer, every), actor_critic.acting_context)
    earned = steps.n_step_rewards + steps.bootstrap_discounts * actor_critic.compute_values(after)
    known = sampler.buffer.matrix[every, sampler.buffer.column.bootstrap_steps] > 0
    compute = actor_critic.critic.compute_min_q
    return predicted, taken, compute(observations, predicted), compute(observations, taken), earned, known
