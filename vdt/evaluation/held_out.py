"""Evaluation of a policy without an environment: on held-out episodes."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor

from vdt.agent.actor_critic import ActorCritic
from vdt.data.batches import SequenceBatch
from vdt.data.sampling import Sampler
from vdt.data.trajectory import TrajectoryDataset
from vdt.evaluation.monte_carlo import compute_monte_carlo_returns, make_monte_carlo_sampler
from vdt.evaluation.records import Calibration, HeldOutReport
from vdt.evaluation.statistics import compute_calibration
from vdt.evaluation.windows import Windows, iterate_windows
from vdt.policy.losses import calibrate_advantage_weighting

logger = logging.getLogger(__name__)

TEMPERATURE, LARGEST = (
    1.0,
    100.0,
)  # of the weighted error, per standard deviation of the advantage: equal for all settings


class _Steps(NamedTuple):
    """Measurements of N real steps: the policy's actions, the data's, and the critic's opinion of both.

    Attributes:
        predicted: (N, A).
        taken: (N, A).
        policy_value: min target Q of the predicted actions, (N,).
        data_value: min target Q of the taken ones, (N,).
        usual_value: V, or where V is not trained that of the predicted actions, (N,).
        log_density: of the taken actions, (N,); not a number where the policy is deterministic.
        earned: discounted return that followed, (N,).
        known: positive where that return is known, (N,).
    """

    predicted: Tensor
    taken: Tensor
    policy_value: Tensor
    data_value: Tensor
    usual_value: Tensor
    log_density: Tensor
    earned: Tensor
    known: Tensor


class _Values(NamedTuple):
    """Means of the critic's values and of what followed, in environment units; none where they are not known."""

    policy: float | None = None
    data: float | None = None
    followed: float | None = None
    calibration: Calibration | None = None


@torch.no_grad()
def evaluate_held_out(actor_critic: ActorCritic, episodes: TrajectoryDataset, label: str) -> HeldOutReport:
    """Compare the policy's actions with the data's, and the critic's values with the data's returns."""
    config, task = actor_critic.config, actor_critic.config.task
    actor_critic.policy.eval()
    sampler = make_monte_carlo_sampler(actor_critic, episodes)
    windows = iterate_windows(sampler.buffer, actor_critic.acting_context, final=False)
    chunks = [_measure(actor_critic, sampler, part) for part in windows]
    steps = _Steps(*(torch.cat(column).double() for column in zip(*chunks, strict=True)))
    half = torch.ones(task.action_size, dtype=torch.float64, device=sampler.buffer.device)
    if task.action_low:
        half = (half.new_tensor(task.action_high) - half.new_tensor(task.action_low)) / 2.0
    errors = ((steps.predicted - steps.taken) * half).square()
    trained = config.has_trained_critic
    values = _summarize_values(steps, actor_critic.reward_scale) if trained else _Values()
    report = HeldOutReport(
        episodes=len(episodes),
        steps=episodes.steps,
        action_rmse=float(errors.mean().sqrt()),
        action_std=float((steps.taken * half).var(dim=0, correction=0).mean().sqrt()),
        policy_value=values.policy,
        data_value=values.data,
        monte_carlo_value=values.followed,
        value_correlation=None if values.calibration is None else values.calibration.correlation,
        weighted_action_rmse=_compute_weighted_error(errors, steps) if trained else None,
        log_likelihood=float(steps.log_density.mean()) if config.policy.head != "deterministic" else None,
        calibration=values.calibration,
    )
    shown = ""
    if report.policy_value is not None:
        shown = f", critic's value of its actions {report.policy_value:.4g}, of the data's {report.data_value:.4g}"
    if report.monte_carlo_value is not None:
        shown += f", which earned {report.monte_carlo_value:.4g}"
    logger.info(
        f"evaluate {label}: {report.episodes} held-out episodes, {report.steps} steps, action error "
        f"{report.action_rmse:.4g} (a constant's {report.action_std:.4g}){shown}"
    )
    return report


def _summarize_values(steps: _Steps, reward_scale: float) -> _Values:
    """Compute the means of both values and of the return that followed, and the calibration, in environment units."""
    policy_mean, data_mean = (float(v.mean()) / reward_scale for v in (steps.policy_value, steps.data_value))
    followed, expected = steps.earned[steps.known > 0], steps.data_value[steps.known > 0]
    if not len(followed):
        return _Values(policy_mean, data_mean)
    calibration = compute_calibration(*((v / reward_scale).cpu().numpy() for v in (expected, followed)))
    return _Values(policy_mean, data_mean, float(followed.mean()) / reward_scale, calibration)


def _compute_weighted_error(errors: Tensor, steps: _Steps) -> float:
    """Compute the root of the mean squared error (N, A) with steps weighted by their advantage (M3)."""
    advantages = steps.data_value - steps.usual_value
    weights = calibrate_advantage_weighting(advantages, TEMPERATURE, LARGEST, 0.0).compute_weights(advantages)
    return float((weights * errors.mean(1)).mean().sqrt())


def _measure(actor_critic: ActorCritic, sampler: Sampler, windows: Windows) -> _Steps:
    """Measure the steps that sub-trajectories answer for."""
    batch: SequenceBatch = sampler.gather_sequences(windows.rows[:, 0], windows.rows.shape[1])
    output = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    real, every = windows.answered, windows.rows[windows.answered]
    observations, predicted, taken = batch.observations[real], output.actions[real], batch.actions[real]
    critic = actor_critic.critic
    of_policy, of_data = critic.compute_min_q(observations, predicted), critic.compute_min_q(observations, taken)
    density = torch.full_like(of_data, torch.nan)
    if output.distribution is not None:
        density = output.distribution.compute_log_density(batch.actions)[real]
    return _Steps(
        predicted,
        taken,
        of_policy,
        of_data,
        critic.value(observations) if actor_critic.target_policy is None else of_policy,
        density,
        compute_monte_carlo_returns(actor_critic, sampler, every),
        sampler.buffer.take(every, sampler.buffer.column.bootstrap_steps),
    )
