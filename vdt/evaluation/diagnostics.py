"""Why a policy scores what it scores: requested and achieved returns, the critic's calibration, the advantage weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vdt.agent.agent import ActorCritic, Agent, PlannerSettings
from vdt.checkpoint.store import load_state
from vdt.config.schema import Config
from vdt.data.replay_buffer import TargetSettings, TrajectoryReplayBuffer
from vdt.data.sampling import Sampler
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.environments import make_environment
from vdt.environments.rollout import collect_trajectories
from vdt.reporting.statistics import compute_correlation
from vdt.system.machine import choose_device
from vdt.tracking import Tracker

BINS = 10  # of predicted values, with equally many steps
WEIGHTS = 20_000  # steps of the data whose weights are counted
EDGES = [10.0 ** (-2.0 + 0.125 * i) for i in range(33)]  # of the weights' histogram, 0.01 to 100; weights have mean 1


def diagnose(
    config: Config, agents: Mapping[str, Path], dataset: TrajectoryDataset, tracker: Tracker
) -> dict[str, Any]:
    """Measure what is cheap to measure of each agent.

    Args:
        config: task and evaluation settings; `evaluation.requested_episodes` 0 leaves the rollouts out.
        agents: name -> checkpoint, as for `evaluate_agents`.
        dataset: what was trained on.
        tracker: takes `eval/<name>_critic_…`.

    Returns:
        By agent: {"requested": `measure_requested`, "calibration": `measure_calibration`, "weights": `count_weights` (the
        offline agent's), "parameters": {"policy", "critic"}, "environment_steps": taken in training}; plain values.
    """
    found: dict[str, Any] = {}
    for name, path in agents.items():
        state = load_state(path)
        actor_critic = ActorCritic.from_state(state["actor_critic"], choose_device(config.runtime.device))
        report: dict[str, Any] = {
            "parameters": {
                "policy": sum(p.numel() for p in actor_critic.policy.parameters()),
                "critic": sum(p.numel() for p in actor_critic.critic.trainable_parameters()),
            },
            "environment_steps": int(state.get("environment_steps", 0)),
        }
        if config.has_environment and config.evaluation.requested_episodes > 0:
            report["requested"], trajectories = measure_requested(actor_critic, config, name)
            if config.critic.gradient_steps > 0:
                report["calibration"] = calibration = measure_calibration(actor_critic, trajectories)
                keys = ("bias", "correlation")
                numbers = {
                    f"eval/{name}_critic_{key}": calibration[key] for key in keys if calibration[key] is not None
                }
                tracker.log(actor_critic.gradient_steps, numbers)
        if name == "offline" and actor_critic.weighting.inverse_temperature > 0:
            report["weights"] = count_weights(actor_critic, dataset)
        found[name] = report
    return found


def measure_requested(
    actor_critic: ActorCritic, config: Config, label: str
) -> tuple[list[dict[str, Any]], list[Trajectory]]:
    """Act for one requested return after the other, without a choice between them.

    A policy without memory ignores returns-to-go; it is asked for the first one only.

    Returns:
        Per requested return {"requested", "achieved": one per episode}, in environment units; and all episodes.
    """
    count, settings = config.evaluation.requested_episodes, config.evaluation
    returns = (
        config.task.candidate_returns if config.policy.kind == "transformer" else config.task.candidate_returns[:1]
    )
    environments = [make_environment(config.task) for _ in range(count)]
    rows: list[dict[str, Any]] = []
    episodes: list[Trajectory] = []
    for wanted in returns:
        agent = Agent(actor_critic, PlannerSettings.from_config(config).follow(wanted))
        seeds = range(settings.seed, settings.seed + count)
        limit = settings.max_episode_steps or None
        new = collect_trajectories(agent, environments, seeds, max_steps=limit, label=f"request {label} {wanted:g}")
        rows.append({"requested": wanted, "achieved": [t.episode_return for t in new]})
        episodes += new
    for environment in environments:
        environment.close()
    shown = ", ".join(f"{row['requested']:g} -> {math.fsum(row['achieved']) / count:.0f}" for row in rows)
    print(f"evaluate {label}: requested -> achieved return {shown}", flush=True)
    return rows, episodes


@torch.no_grad()
def measure_calibration(actor_critic: ActorCritic, episodes: Sequence[Trajectory]) -> dict[str, Any]:
    """The critic's min_i target Q of the steps that were taken, beside the discounted return that followed them.

    After a cut the return goes on with V of the final observation. Both are in environment units of discounted reward.

    Returns:
        {"predicted", "earned": means in bins of rising prediction with equally many steps, "steps", "bias": mean of
        predicted - earned, "correlation": over steps, none where one of the two never changes}.
    """
    config, task = actor_critic.config, actor_critic.config.task
    longest = max(map(len, episodes))
    settings = TargetSettings(
        config.critic.discount, longest, actor_critic.reward_scale, task.reward_shift, task.return_scale
    )
    device = actor_critic.normalizer.mean.device
    buffer = TrajectoryReplayBuffer(actor_critic.normalizer, settings, action_size=task.action_size, device=device)
    buffer.extend(episodes)
    rows = buffer.list_step_rows()
    steps = Sampler(buffer, config.data.trajectory_weighting, torch.Generator(device=device)).gather_transitions(rows)
    followed = steps.n_step_rewards + steps.bootstrap_discounts * actor_critic.critic.value(
        steps.bootstrap_observations
    )
    predicted = (
        (actor_critic.critic.compute_min_q(steps.observations, steps.actions) / actor_critic.reward_scale)
        .cpu()
        .double()
        .numpy()
    )
    earned = (followed / actor_critic.reward_scale).cpu().double().numpy()
    order = np.argsort(predicted, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    return {
        "predicted": [float(predicted[part].mean()) for part in bins],
        "earned": [float(earned[part].mean()) for part in bins],
        "steps": len(rows),
        "bias": float((predicted - earned).mean()),
        "correlation": compute_correlation(predicted, earned),
    }


def count_weights(actor_critic: ActorCritic, dataset: TrajectoryDataset) -> dict[str, Any]:
    """Histogram of the advantage weights (M3) over a sample of the data's steps.

    Returns:
        {"edges": of the bins, "shares": of the steps in each bin, those beyond the edges in the outer bins, "max"}.
    """
    config, task = actor_critic.config, actor_critic.config.task
    settings = TargetSettings(
        config.critic.discount, 1, actor_critic.reward_scale, task.reward_shift, task.return_scale
    )
    device = actor_critic.normalizer.mean.device
    buffer = TrajectoryReplayBuffer(actor_critic.normalizer, settings, action_size=task.action_size, device=device)
    buffer.extend(dataset)
    generator = torch.Generator(device=device).manual_seed(config.seed)
    sample = Sampler(buffer, config.data.trajectory_weighting, generator).sample_steps(WEIGHTS)
    advantages = actor_critic.critic.compute_advantages(*sample)
    weights = actor_critic.weighting.compute_weights(advantages).cpu().double().numpy()
    counts, _ = np.histogram(np.clip(weights, EDGES[0], math.nextafter(EDGES[-1], 0.0)), EDGES)
    return {"edges": EDGES, "shares": (counts / len(weights)).tolist(), "max": float(weights.max())}
