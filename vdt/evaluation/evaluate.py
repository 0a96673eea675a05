"""Scores of finished policies: same seeds for every policy and look-ahead setting."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vdt.agent.agent import ActorCritic, Agent, PlannerSettings
from vdt.checkpoint.store import load_state
from vdt.config.schema import Config
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.environments import Environment, make_environment
from vdt.environments.rollout import collect_trajectories
from vdt.environments.scores import compute_normalized_score, compute_wilson_interval, format_return, format_success
from vdt.evaluation.held_out import evaluate_held_out
from vdt.system.machine import choose_device
from vdt.tracking import Tracker

TRACE_EVERY = 5  # steps


@dataclass(frozen=True)
class EvaluationReport:
    """Deterministic episodes of one policy with one look-ahead setting.

    Attributes:
        label: what was evaluated.
        candidate_returns: first returns-to-go, environment units.
        planning_horizon: E.
        env_model: source of imagined steps.
        episode_returns: one per episode, environment units.
        episode_lengths: steps of each episode.
        normalized_scores: one per episode, 0-100 between the reference returns (`task.reference`).
        normalized_score_mean: over episodes.
        normalized_score_standard_error: over episodes (of this one trained policy, not over seeds).
        environment_steps: real steps taken, those of a simulator look-ahead included.
        seconds: wall time.
        chosen_candidates: share of steps at which each candidate won.
        successes: of each episode, where the environment says so; else none.
        success_rate: share of the episodes; none where the environment does not say.
        success_interval: Wilson's, of 95 %: lowest and highest rate.
        trace: where the environment is a maze, its layout, and each episode's positions at every fifth step; else none.
    """

    label: str
    candidate_returns: list[float]
    planning_horizon: int
    env_model: str
    episode_returns: list[float]
    episode_lengths: list[int]
    normalized_scores: list[float]
    normalized_score_mean: float
    normalized_score_standard_error: float
    environment_steps: int
    seconds: float
    chosen_candidates: list[float]
    successes: list[bool] | None = None
    success_rate: float | None = None
    success_interval: list[float] | None = None
    trace: dict[str, Any] | None = None


def evaluate(actor_critic: ActorCritic, settings: PlannerSettings, config: Config, label: str) -> EvaluationReport:
    """Run `evaluation.episodes` deterministic episodes side by side."""
    task, started = config.task, time.monotonic()
    count = config.evaluation.episodes
    environments = [make_environment(task) for _ in range(count)]
    agent = Agent(actor_critic, settings)
    seeds = [config.evaluation.seed + i for i in range(count)]
    limit = config.evaluation.max_episode_steps or None
    trajectories = collect_trajectories(agent, environments, seeds, max_steps=limit, label=f"evaluate {label}")
    trace = _trace(environments[0], trajectories)
    for environment in environments:
        environment.close()
    returns = [t.episode_return for t in trajectories]
    scores = [compute_normalized_score(r, task.reference_return_min, task.reference_return_max) for r in returns]
    steps = sum(len(t) for t in trajectories)
    report = EvaluationReport(
        label=label,
        candidate_returns=list(settings.candidate_returns),
        planning_horizon=settings.planning_horizon,
        env_model=settings.env_model,
        episode_returns=returns,
        episode_lengths=[len(t) for t in trajectories],
        normalized_scores=scores,
        normalized_score_mean=float(np.mean(scores)),
        normalized_score_standard_error=float(np.std(scores, ddof=1) / np.sqrt(count)) if count > 1 else 0.0,
        environment_steps=steps + agent.imagined_environment_steps,
        seconds=time.monotonic() - started,
        chosen_candidates=(agent.chosen / max(1, agent.chosen.sum())).tolist(),
        trace=trace,
        **_count_successes(trajectories),  # nothing where the environment does not say
    )
    error = report.normalized_score_standard_error
    print(
        f"evaluate {label}: normalized_score {report.normalized_score_mean:.1f} ± {error:.1f} (standard error, {count} "
        f"episodes)  return {format_return(float(np.mean(returns)))}  "
        f"{f'success {format_success(report.successes)}  ' if report.successes else ''}{report.seconds:.0f} s",
        flush=True,
    )
    return report


def _trace(environment: Environment, trajectories: Sequence[Trajectory]) -> dict[str, Any] | None:
    """Walls, goal and positions, for a picture; none where the environment has no maze."""
    if not environment.has_wrapper_attr("layout"):
        return None
    layout = environment.get_wrapper_attr("layout")
    walls, goal = layout.walls.tolist(), layout.goal.tolist()
    paths = [t.observations[[*range(0, len(t), TRACE_EVERY), -1], :2].round(2).tolist() for t in trajectories]
    return {"maze": {"walls": walls, "size": layout.size, "goal": goal, "radius": layout.radius}, "paths": paths}


def _count_successes(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """What `EvaluationReport` says of successes; empty where the environment says nothing."""
    successes = [trajectory.success for trajectory in trajectories if trajectory.success is not None]
    if not successes:
        return {}
    interval = compute_wilson_interval(sum(successes), len(successes))
    return {
        "successes": successes,
        "success_rate": sum(successes) / len(successes),
        "success_interval": list(interval),
    }


def make_evaluation_settings(config: Config) -> dict[str, PlannerSettings]:
    """The look-ahead settings that are compared: one return, all candidates by Q, and imagined steps."""
    acting = PlannerSettings.from_config(config)
    settings = {"single": acting.follow(acting.candidate_returns[0])}
    if len(acting.candidate_returns) > 1:
        settings["candidates"] = replace(acting, planning_horizon=1, env_model="none")
        horizon = acting.planning_horizon if acting.planning_horizon > 1 else config.evaluation.lookahead_horizon
        if horizon > 1:
            model = acting.env_model if acting.env_model != "none" else "learned"
            settings["lookahead"] = replace(acting, planning_horizon=horizon, env_model=model)
    return settings


def evaluate_agents(
    config: Config, agents: Mapping[str, Path], tracker: Tracker, held_out: TrajectoryDataset | None = None
) -> dict[str, Any]:
    """Evaluate each agent checkpoint under each look-ahead setting, and on held-out episodes if there are any.

    Args:
        config: task and evaluation settings.
        agents: name ("offline", "online") -> checkpoint of `train_actor` or `tune_online`.
        tracker: takes `eval/<name>_<setting>_normalized_score` and links it to the checkpoint.
        held_out: episodes that were not trained on; without an environment they are all there is to evaluate on.

    Returns:
        {"policies": {name: {setting: EvaluationReport as a dict}}, "held_out": {name: HeldOutReport as a dict}}.
    """
    policies: dict[str, dict[str, Any]] = {}
    measured: dict[str, dict[str, Any]] = {}
    if not config.has_environment:
        print(f"evaluate: {config.env} has no environment, so there are no returns, only held-out episodes", flush=True)
    for name, path in agents.items():
        actor_critic = ActorCritic.from_state(load_state(path)["actor_critic"], choose_device(config.runtime.device))
        reports: dict[str, Any] = {}
        for setting, planner in make_evaluation_settings(config).items() if config.has_environment else ():
            reports[setting] = asdict(evaluate(actor_critic, planner, config, f"{name}/{setting}"))
        metrics = {f"eval/{name}_{key}_normalized_score": r["normalized_score_mean"] for key, r in reports.items()}
        rates = ((f"eval/{name}_{key}_success_rate", r["success_rate"]) for key, r in reports.items())
        metrics.update({key: rate for key, rate in rates if rate is not None})
        if held_out is not None:
            measured[name] = asdict(evaluate_held_out(actor_critic, held_out, name))
            numbers = ((key, value) for key, value in measured[name].items() if isinstance(value, float))
            metrics.update({f"eval/{name}_held_out_{key}": value for key, value in numbers})
        tracker.log(actor_critic.gradient_steps, metrics)
        tracker.log_checkpoint(f"evaluated-{name}", path, actor_critic.gradient_steps, metrics)
        if reports:
            policies[name] = reports
    return {"policies": policies, "held_out": measured}
