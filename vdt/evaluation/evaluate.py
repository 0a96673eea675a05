"""Evaluation of trained policies: the same seeds for every policy and look-ahead setting."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import Agent, PlannerSettings
from vdt.agent.episodes import run_episodes
from vdt.agent.policy import Policy, read_count
from vdt.config.schema import Config
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.environments import Environment, open_environments
from vdt.environments.scores import (
    compute_standard_error,
    compute_wilson_interval,
    describe_cut,
    describe_score,
    format_return,
    format_success,
    score_episodes,
)
from vdt.evaluation.held_out import evaluate_held_out
from vdt.evaluation.loading import load_actor_critic
from vdt.evaluation.measurements import measure_policy
from vdt.evaluation.records import Evaluation, EvaluationReport, HeldOutReport, Maze, Trace, name_setting
from vdt.serving.model_files import looks_ahead, make_model
from vdt.tracking import SCORE_METRIC, Tracker

logger = logging.getLogger(__name__)

CURVES = {"offline": "actor/score", "online": "online/score"}  # which end with the evaluation of that agent
TRACE_EVERY = 5  # steps


def evaluate_policy(
    policy: Policy,
    *,
    episodes: int | None = None,
    seed: int | None = None,
    target_return: float | Sequence[float] | None = None,
) -> EvaluationReport:
    """Run deterministic episodes of a loaded policy side by side in the environment that its configuration names.

    With the defaults, on the same device, they are those of the run's report to the bit.

    Args:
        policy: of `load_policy`, with or without look-ahead. Its own episodes go on undisturbed.
        episodes: how many; None is the configuration's `evaluation.episodes`. Fewer or more change the last bits of each.
        seed: of the first episode, the next has the next; None is `evaluation.seed`.
        target_return: as of `Policy.reset`.

    Raises:
        ValueError: if the policy's data has no environment, or an argument is out of range.
    """
    if not isinstance(policy, Policy):
        raise ValueError(f"policy must be a Policy, as load_policy returns it, not {policy!r}")
    config = policy.config
    if not config.has_environment:
        raise ValueError(
            f"{config.env} has no environment (task.environment_id is none), so there are no episodes to run; its "
            'measurements are in its run\'s report and in vdt.load_policy(…).metadata["scores"]'
        )
    count = config.evaluation.episodes if episodes is None else read_count(episodes, "episodes")
    first = config.evaluation.seed if seed is None else read_count(seed, "seed", 0)
    changed = replace(config, evaluation=replace(config.evaluation, episodes=count, seed=first))
    return _evaluate(policy.make_agent(target_return), changed, "policy")


def evaluate(actor_critic: ActorCritic, settings: PlannerSettings, config: Config, label: str) -> EvaluationReport:
    """Run `evaluation.episodes` deterministic episodes side by side."""
    return _evaluate(Agent(actor_critic, settings), config, label)


def _evaluate(agent: Agent, config: Config, label: str) -> EvaluationReport:
    task, settings, started = config.task, agent.settings, time.monotonic()
    count = config.evaluation.episodes
    seeds = [config.evaluation.seed + i for i in range(count)]
    with open_environments(task, count) as environments:
        trajectories = run_episodes(agent, config, environments, seeds, f"evaluate {label}")
        trace = _trace(environments[0], trajectories)
    returns, lengths = [t.episode_return for t in trajectories], [len(t) for t in trajectories]
    scores = score_episodes(trajectories, config)
    whole = [score for score in scores if score is not None]
    all_whole = len(whole) == count
    report = EvaluationReport(
        label=label,
        candidate_returns=list(settings.candidate_returns),
        planning_horizon=settings.planning_horizon,
        env_model=settings.env_model,
        episode_returns=returns,
        episode_lengths=lengths,
        normalized_scores=scores,
        normalized_score_mean=float(np.mean(whole)) if all_whole else None,
        normalized_score_standard_error=compute_standard_error(whole) if all_whole else None,
        environment_steps=sum(lengths) + agent.imagined_environment_steps,
        seconds=time.monotonic() - started,
        chosen_candidates=(agent.chosen / max(1, agent.chosen.sum())).tolist(),
        trace=trace,
        cut_at=None if all_whole else config.evaluation.max_episode_steps,
        **_count_successes(trajectories),  # nothing where the environment reports no success
    )
    logger.info(f"evaluate {label}: {_describe(report)}  {report.seconds:.0f} s")
    return report


def _describe(report: EvaluationReport) -> str:
    """Return score, return and successes of a report in one line."""
    count, mean_return = len(report.episode_returns), format_return(float(np.mean(report.episode_returns)))
    if report.normalized_score_mean is None:
        shown = f"return {mean_return}, {describe_cut(report.cut_at)}: no normalized_score ({count} episodes)"
    else:
        score = describe_score(report.normalized_score_mean, report.normalized_score_standard_error, count)
        shown = f"{score}  return {mean_return}"
    return f"{shown}  success {format_success(report.successes)}" if report.successes else shown


def _trace(environment: Environment, trajectories: Sequence[Trajectory]) -> Trace | None:
    """Return the maze and the positions in it, for a picture; none where the environment has no maze."""
    if not environment.has_wrapper_attr("layout"):
        return None
    layout = environment.get_wrapper_attr("layout")
    paths = [t.observations[[*range(0, len(t), TRACE_EVERY), -1], :2].round(2).tolist() for t in trajectories]
    return Trace(Maze(layout.walls.tolist(), layout.size, layout.goal.tolist(), layout.radius), paths)


def _count_successes(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Return the fields of `EvaluationReport` on successes; empty where the environment reports none.

    An environment may speak of success only when it happens: then an episode that says nothing has failed.
    """
    if all(trajectory.success is None for trajectory in trajectories):
        return {}
    successes = [bool(trajectory.success) for trajectory in trajectories]
    interval = compute_wilson_interval(sum(successes), len(successes))
    return {
        "successes": successes,
        "success_rate": sum(successes) / len(successes),
        "success_interval": list(interval),
    }


def make_evaluation_settings(config: Config, return_percentiles: Sequence[float] = ()) -> dict[str, PlannerSettings]:
    """Return the compared look-ahead settings: one return, all candidates by Q, and imagined steps.

    Arguments as of `PlannerSettings.from_config`.
    """
    acting = PlannerSettings.from_config(config, return_percentiles)
    settings = {"single": acting.follow(acting.candidate_returns[0])}
    if len(acting.candidate_returns) > 1:
        settings["candidates"] = replace(acting, planning_horizon=1, env_model="none")
        horizon = acting.planning_horizon if acting.planning_horizon > 1 else config.evaluation.lookahead_horizon
        if horizon > 1:
            model = acting.env_model if acting.env_model != "none" else "learned"
            settings["lookahead"] = replace(acting, planning_horizon=horizon, env_model=model)
    return settings


def find_acting_setting(config: Config, return_percentiles: Sequence[float] = ()) -> str:
    """Return the name of the look-ahead setting that the configuration acts with; arguments as of `from_config`."""
    acting = PlannerSettings.from_config(config, return_percentiles)
    return name_setting(len(acting.candidate_returns), acting.planning_horizon)


def summarize(report: EvaluationReport) -> dict[str, float]:
    """Return the headline metrics of a run; none of episodes that were cut short, which are not comparable with whole ones."""
    if report.normalized_score_mean is None:
        return {}
    numbers = {
        "score": report.normalized_score_mean,
        "score_standard_error": report.normalized_score_standard_error,
        "episode_return": float(np.mean(report.episode_returns)),
        "episode_length": float(np.mean(report.episode_lengths)),
        "success_rate": report.success_rate,
    }
    return {key: value for key, value in numbers.items() if value is not None}


def evaluate_settings(
    actor_critic: ActorCritic, settings: Mapping[str, PlannerSettings], config: Config, name: str
) -> dict[str, EvaluationReport]:
    """Run the episodes of each look-ahead setting. A critic that may not guide chooses nothing: then all are those of one."""
    reports: dict[str, EvaluationReport] = {}
    for key, planner in settings.items():
        label = f"{name}/{key}"
        if reports and not actor_critic.is_guided:
            reports[key] = replace(next(iter(reports.values())), label=label)
        else:
            reports[key] = evaluate(actor_critic, planner, config, label)
    return reports


def evaluate_agents(
    config: Config, agents: Mapping[str, Path], tracker: Tracker, held_out: TrajectoryDataset | None = None
) -> Evaluation:
    """Evaluate each agent checkpoint under each look-ahead setting, and on held-out episodes if there are any.

    Args:
        config: task and evaluation settings.
        agents: name ("offline", "online") -> checkpoint of `train_actor` or `tune_online`.
        tracker: takes `eval/<name>_<setting>_normalized_score` and links it to the checkpoint.
        held_out: episodes that were not trained on; without an environment the only ones to evaluate on.

    Returns:
        Reports of the policies, empty without an environment, and of the held-out episodes, empty without any.
    """
    policies: dict[str, dict[str, EvaluationReport]] = {}
    measured: dict[str, HeldOutReport] = {}
    if not config.has_environment:
        logger.info(f"evaluate: {config.env} has no environment, so there are no returns, only held-out episodes")
    for name, path in agents.items():
        actor_critic, state = load_actor_critic(path, config)
        percentiles = actor_critic.return_percentiles
        settings = make_evaluation_settings(config, percentiles) if config.has_environment else {}
        reports = evaluate_settings(actor_critic, settings, config, name)
        if held_out is not None:
            measured[name] = evaluate_held_out(actor_critic, held_out, name)
        scores = measure_policy(reports, measured.get(name))
        metrics = {f"eval/{name}_{setting}_{key}": v for setting, values in scores.items() for key, v in values.items()}
        if reports and name == ("online" if "online" in agents else "offline"):
            metrics.update(summarize(reports[find_acting_setting(config, percentiles)]))
        model, acting = make_model(config, name), find_acting_setting(config, percentiles)
        tags = _make_tags(config, name, acting, metrics)
        tracker.log_evaluation(name, path, actor_critic.gradient_steps, metrics, model, tags)
        if reports and config.evaluation.curve_points and name in CURVES:
            ends = summarize(reports["single"])
            tracker.log(int(state["step"]), {CURVES[name]: ends["score"]} if ends else {})
        if reports:
            policies[name] = reports
    return Evaluation(policies, measured)


def _make_tags(config: Config, name: str, acting: str, metrics: Mapping[str, float]) -> dict[str, str]:
    """Return the tags of an agent's model: how it acts, and the metric that is its score where it has one."""
    setting = acting if looks_ahead(config) else "single"
    score = f"eval/{name}_{setting}_normalized_score"
    return {"agent": name, "acts": setting, **({SCORE_METRIC: score} if score in metrics else {})}
