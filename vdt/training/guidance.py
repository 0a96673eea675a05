"""What follows for a policy's training from its critic's test (`vdt/critic/history_correlation.py`)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import torch

from vdt.agent.actor_critic import ActorCritic
from vdt.checkpoint.store import State
from vdt.config.convergence import UNFINISHED, estimate_convergence
from vdt.config.guidance import may_guide, must_test_critic, tries_second_critic
from vdt.config.schema import Config
from vdt.critic.critic import Critic
from vdt.critic.history_correlation import measure_history_correlation
from vdt.data.normalization import Normalizer
from vdt.data.sampling import compute_return_weights
from vdt.data.trajectory import TrajectoryDataset


def measure_if_tested(
    config: Config, critic: Critic, dataset: TrajectoryDataset, source: State, draws: str
) -> float | None:
    """Compute the history correlation of a critic (`vdt/critic/history_correlation.py`); none where nothing depends on it.

    Args:
        config: of the run.
        critic: to test.
        dataset: it was trained on.
        source: its checkpoint, or the constants in it: {"normalizer", "reward_scale"}.
        draws: by which it drew trajectories.
    """
    if not must_test_critic(config):
        return None
    normalizer = Normalizer(**source["normalizer"], clip=config.data.observation_clip)
    normalizer = normalizer.to(next(critic.parameters()).device)
    kept = dataset.keep_best(config.data.keep_best_fraction)
    weights = compute_step_weights(draws, config.data.return_temperature, kept)
    return measure_history_correlation(
        critic, kept, normalizer, source["reward_scale"], config.task.reward_shift, weights
    )


def compute_step_weights(draws: str, return_temperature: float, dataset: TrajectoryDataset) -> list[float]:
    """Compute how often a step of each episode is drawn, relative to the others (`data.trajectory_weighting`)."""
    match draws:
        case "uniform":
            return [1 / steps for steps in dataset.lengths.tolist()]
        case "return":
            returns = torch.from_numpy(dataset.episode_returns)
            return [float(weight) for weight in compute_return_weights(returns, return_temperature)]
        case _:
            return [1.0] * len(dataset)


def passes_test(config: Config, critic: Critic, dataset: TrajectoryDataset, source: State) -> bool:
    """Return whether a critic that drew as `config` says may guide; arguments as of `measure_if_tested`."""
    correlation = measure_if_tested(config, critic, dataset, source, config.data.trajectory_weighting)
    return may_guide(correlation, config.actor.max_history_correlation)


def choose_critic_draws(config: Config, attempt: int) -> tuple[Config, bool]:
    """Return the configuration of the first (0) or the second critic, and whether another may follow the one asked for."""
    if attempt == 0:
        return config, tries_second_critic(config)
    return with_critic_draws(config, config.critic.second_weighting), False


def with_critic_draws(config: Config, draws: str) -> Config:
    """Return the configuration whose critic draws trajectories by `draws`; the policy draws as before."""
    drawn = config.actor.trajectory_weighting
    actor = replace(config.actor, trajectory_weighting=config.data.trajectory_weighting if drawn == "same" else drawn)
    return replace(config, data=replace(config.data, trajectory_weighting=cast(Any, draws)), actor=actor)


def scale_guidance(config: Config, actor_critic: ActorCritic, *, online: bool) -> Config:
    """Return the configuration that a policy is trained by: lambda and eta times `ActorCritic.guidance_strength`.

    Where the critic may not guide, it is left out, as in `dt`. A second critic guides online tuning alone: the data that it
    was trained on has failed the test of the first.
    """
    actor = config.actor
    strength = 0.0 if actor_critic.has_second_critic and not online else actor_critic.guidance_strength
    scaled = replace(
        actor,
        inverse_temperature=strength * actor.inverse_temperature,
        q_coefficient=strength * actor.q_coefficient,
    )
    if actor_critic.is_guided:
        return replace(config, actor=scaled)
    return replace(config, actor=scaled, online=replace(config.online, critic_steps_per_iteration=0))


def describe_test(config: Config, actor_critic: ActorCritic) -> str:
    """Return one line on what the test of the critic found; empty where it was not asked for."""
    limit, found = config.actor.max_history_correlation, actor_critic.history_correlation
    if not must_test_critic(config):
        return ""
    if found is None:
        return "critic guides: too few episodes are long enough to compare its errors before and after a step"
    second = actor_critic.has_second_critic
    drawn = f" (it drew episodes by {actor_critic.critic_draws})" if second else ""
    shown = f"its errors before and after a step correlate by {found:.3f}{drawn}, "
    if actor_critic.is_guided:
        strength = actor_critic.guidance_strength
        part = "" if strength == 1 else f" with {strength:.2f} of lambda and eta (actor.guidance_scaling)"
        where = f" online tuning alone, as a second one does{',' if part else ''}" if second else ""
        return f"critic guides{where}{part}: {shown}at most {limit:g} (actor.max_history_correlation)"
    return (
        f"critic does not guide: {shown}more than {limit:g} (actor.max_history_correlation). Either several "
        f"policies made the data and the state does not tell which, or V is not exact yet{_describe_gap(config)}. The policy "
        "trains and acts without the critic, as dt; --set actor.max_history_correlation=1 lets it guide anyway"
    )


def _describe_gap(config: Config) -> str:
    """Return a clause on a critic whose steps cannot have been enough; empty for any other."""
    found = estimate_convergence(config.flatten())
    if found is None or found.gap <= UNFINISHED:
        return ""
    left = f"; the critic has {found.steps:,} steps and {found.gap:.0%} of its gap left"
    return f"{left}: raise critic.gradient_steps" if math.isfinite(found.enough) else left
