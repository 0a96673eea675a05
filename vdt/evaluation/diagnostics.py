"""Diagnostics of a policy's scores: requested and achieved returns, the critic's calibration, the advantage weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vdt.agent.actor_critic import ActorCritic, make_buffer_sampler
from vdt.agent.agent import Agent, PlannerSettings, find_candidate_returns
from vdt.agent.episodes import run_episodes
from vdt.config.schema import Config
from vdt.data.sampling import Sampler
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.environments import open_environments
from vdt.environments.scores import describe_cut, score_episodes
from vdt.evaluation.loading import load_actor_critic
from vdt.evaluation.monte_carlo import compute_monte_carlo_returns, make_monte_carlo_sampler
from vdt.evaluation.records import Calibration, Diagnostics, ParameterCounts, RequestedReturn, WeightHistogram
from vdt.evaluation.statistics import compute_calibration
from vdt.tracking import Tracker

logger = logging.getLogger(__name__)

CHUNK = 4096  # steps whose returns are computed at once
WEIGHTS = 20_000  # steps of the data whose weights are counted
EDGES = [10.0 ** (-2.0 + 0.125 * i) for i in range(33)]  # of the weights' histogram, 0.01 to 100; weights have mean 1


def diagnose(
    config: Config, agents: Mapping[str, Path], dataset: TrajectoryDataset, tracker: Tracker
) -> dict[str, Diagnostics]:
    """Compute the inexpensive diagnostics of each agent.

    Args:
        config: task and evaluation settings; `evaluation.requested_episodes` 0 leaves the rollouts out.
        agents: name -> checkpoint, as for `evaluate_agents`.
        dataset: the training data.
        tracker: takes `eval/<name>_critic_…`.

    Returns:
        One report for each agent; the weights are the offline agent's.
    """
    found: dict[str, Diagnostics] = {}
    for name, path in agents.items():
        actor_critic, state = load_actor_critic(path, config)
        requested = calibration = weights = None
        if config.has_environment and config.evaluation.requested_episodes > 0:
            requested, episodes = measure_requested(actor_critic, config, name)
            if config.has_trained_critic:
                calibration = measure_calibration(actor_critic, episodes)
            if calibration is not None:
                numbers = {"bias": calibration.bias, "correlation": calibration.correlation}
                shown = {f"eval/{name}_critic_{key}": value for key, value in numbers.items() if value is not None}
                tracker.log(actor_critic.gradient_steps, shown)
        if name == "offline" and actor_critic.weighting.inverse_temperature > 0:
            weights = count_weights(actor_critic, dataset)
        parameters = ParameterCounts(
            policy=sum(p.numel() for p in actor_critic.policy.parameters()),
            critic=sum(p.numel() for p in actor_critic.critic.trainable_parameters()),
        )
        steps = int(state.get("environment_steps", 0))
        test = actor_critic.history_correlation, actor_critic.has_second_critic
        found[name] = Diagnostics(parameters, steps, requested, calibration, weights, *test)
    return found


def measure_requested(
    actor_critic: ActorCritic, config: Config, label: str
) -> tuple[list[RequestedReturn], list[Trajectory]]:
    """Evaluate one requested return after the other, without a choice between them.

    A policy without memory ignores returns-to-go, so only the first one is requested.

    Returns:
        One report for each requested return, and the episodes of those that the policy acts on.
    """
    count, settings = config.evaluation.requested_episodes, config.evaluation
    percentiles = actor_critic.return_percentiles
    candidates = find_candidate_returns(config, percentiles)
    returns = candidates if config.policy.kind == "transformer" else candidates[:1]
    acting = PlannerSettings.from_config(config, percentiles).restrict(actor_critic)
    seeds = range(settings.seed, settings.seed + count)
    rows: list[RequestedReturn] = []
    episodes: list[Trajectory] = []
    with open_environments(config.task, count) as environments:
        for wanted in returns:
            agent = Agent(actor_critic, acting.follow(wanted))
            new = run_episodes(agent, config, environments, seeds, f"request {label} {wanted:g}")
            is_cut = None in score_episodes(new, config)
            rows.append(
                RequestedReturn(wanted, [t.episode_return for t in new], settings.max_episode_steps if is_cut else None)
            )
            episodes += new if wanted in acting.candidate_returns else []
    shown = ", ".join(f"{row.requested:g} -> {math.fsum(row.achieved) / count:.0f}" for row in rows)
    cut = next((f" ({describe_cut(row.cut_at)})" for row in rows if row.cut_at), "")
    logger.info(f"evaluate {label}: requested -> achieved return{cut} {shown}")
    return rows, episodes


@torch.no_grad()
def measure_calibration(actor_critic: ActorCritic, episodes: Sequence[Trajectory]) -> Calibration | None:
    """Compare the critic's min_i target Q of the steps taken with the discounted return that followed.

    After a cut the return continues with the value of the final observation; a step without one is left out. Returns none
    if no step has one.
    """
    sampler = make_monte_carlo_sampler(actor_critic, episodes)
    try:
        with_target = sampler.buffer.index_targets()
    except ValueError:
        return None
    column, rows = sampler.buffer.column, sampler.buffer.list_step_rows(with_target)
    taken = sampler.buffer.take(rows)
    chunks = rows.tensor_split(1 + len(rows) // CHUNK)
    followed = torch.cat([compute_monte_carlo_returns(actor_critic, sampler, chunk) for chunk in chunks])
    expected = actor_critic.critic.compute_min_q(taken[:, column.observation], taken[:, column.action])
    predicted, earned = ((values / actor_critic.reward_scale).cpu().double().numpy() for values in (expected, followed))
    return compute_calibration(predicted, earned)


def count_weights(actor_critic: ActorCritic, dataset: TrajectoryDataset) -> WeightHistogram:
    """Compute the histogram of the advantage weights (M3) over a sample of the steps that the policy learnt from."""
    config = actor_critic.config
    buffer = actor_critic.make_store(dataset.keep_best(config.data.keep_best_fraction))
    generator = torch.Generator(device=buffer.device).manual_seed(config.seed)
    advantages = _sample_advantages(actor_critic, make_buffer_sampler(config, buffer, generator))
    weights = actor_critic.weighting.compute_weights(advantages).cpu().double().numpy()
    counts, _ = np.histogram(np.clip(weights, EDGES[0], math.nextafter(EDGES[-1], 0.0)), EDGES)
    return WeightHistogram(EDGES, (counts / len(weights)).tolist(), float(weights.max()))


@torch.no_grad()
def _sample_advantages(actor_critic: ActorCritic, sampler: Sampler) -> Tensor:
    """Compute the advantages of some `WEIGHTS` drawn steps: over V, or over the own action of a policy that is followed."""
    if actor_critic.target_policy is None:
        return actor_critic.critic.compute_advantages(*sampler.sample_steps(WEIGHTS))
    length = actor_critic.config.policy.context_length
    batch = sampler.sample_sequences(max(1, WEIGHTS // length), length)
    own = actor_critic.policy(batch.observations, batch.actions, batch.returns_to_go, batch.timesteps).actions
    real = batch.mask > 0
    return actor_critic.critic.compute_advantages(batch.observations[real], batch.actions[real], own[real])
