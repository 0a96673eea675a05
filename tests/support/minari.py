"""Data sets made with Minari's own API, from real environments."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

PENDULUM = "InvertedPendulum-v5"  # ends when it falls; actions in [-3, 3]


def stack(items: list[Any]) -> Any:
    """Stack observations in time order into arrays with a row per step, dicts kept."""
    if isinstance(items[0], dict):
        return {key: stack([item[key] for item in items]) for key in items[0]}
    return np.array(items)


def record(environment: gymnasium.Env[Any, Any], seed: int, gain: float = 1.0) -> EpisodeBuffer:
    """Record one episode of random actions, as Minari's collector does."""
    environment.action_space.seed(seed)
    observations, actions, rewards, ends = [environment.reset(seed=seed)[0]], [], [], [(False, False)]
    while not any(ends[-1]):
        actions.append((gain * environment.action_space.sample()).astype(np.float32))
        observation, reward, terminated, truncated, _ = environment.step(actions[-1])
        observations.append(observation)
        rewards.append(float(reward))
        ends.append((bool(terminated), bool(truncated)))
    terminations, truncations = zip(*ends[1:], strict=True)
    return EpisodeBuffer(
        id=None,
        seed=seed,
        observations=stack(observations),
        actions=np.array(actions),
        rewards=rewards,
        terminations=list(terminations),
        truncations=list(truncations),
    )


def make_minari_set(
    dataset_id: str,
    environment_id: str = PENDULUM,
    *,
    episodes: int = 12,
    limit: int = 30,
    gain: float = 0.3,
    with_environment: bool = True,
    arguments: dict[str, Any] | None = None,
    change: Callable[[EpisodeBuffer], None] = lambda buffer: None,
    **settings: Any,
) -> list[EpisodeBuffer]:
    """Write a data set into Minari's folder and return what is in it.

    `arguments` go to the environment, `change` to each episode before it is written, the rest to Minari.
    """
    environment = gymnasium.make(environment_id, max_episode_steps=limit, **(arguments or {}))
    buffers = [record(environment, seed, gain) for seed in range(episodes)]
    for buffer in buffers:
        change(buffer)
    spaces = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari warns of missing author, code and more
        minari.create_dataset_from_buffers(
            dataset_id, buffers, **({"env": environment} if with_environment else spaces), **settings
        )
    environment.close()
    return buffers
