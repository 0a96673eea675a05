"""Episodes of an agent, run as a configuration says."""

from __future__ import annotations

from collections.abc import Sequence

from vdt.agent.agent import Agent
from vdt.config.schema import Config
from vdt.data.trajectory import Trajectory
from vdt.environments import Environment
from vdt.environments.rollout import collect_trajectories
from vdt.system.machine import count_acting_threads


def run_episodes(
    agent: Agent,
    config: Config,
    environments: Sequence[Environment],
    seeds: Sequence[int],
    label: str,
    noise: float = 0.0,
) -> list[Trajectory]:
    """Run one episode in each environment with an agent that has no other use, and close what it opened.

    Args:
        agent: acts in all of them at once.
        config: `evaluation.max_episode_steps` cuts episodes, `runtime.threads` computes actions.
        environments: one for each seed.
        seeds: of the episodes.
        label: what the log calls them.
        noise: of `collect_trajectories`, which says what is raised.
    """
    limit, threads = config.evaluation.max_episode_steps or None, count_acting_threads(config.runtime.threads)
    try:
        return collect_trajectories(
            agent, environments, seeds, noise=noise, max_steps=limit, label=label, threads=threads
        )
    finally:
        agent.close()
