"""Rollouts: several episodes in lockstep, one batched decision for all that still run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from vdt.data.numbers import LARGEST_FLOAT
from vdt.data.trajectory import FloatArray, Trajectory
from vdt.environments import Environment, get_action_bounds
from vdt.system.machine import use_threads
from vdt.system.progress import Progress

SUCCESS_KEYS = ("success", "is_success")  # keys of `info`


class RolloutPolicy(Protocol):
    """Policy that decides for N episodes that started together and of which finished ones drop out."""

    def start(self, environments: Sequence[Environment]) -> None:
        """Begin new episodes, one per environment."""

    def act(self, observations: FloatArray) -> FloatArray:
        """Choose actions (N, A) for raw observations (N, S) of the episodes that still run."""

    def observe(self, actions: FloatArray, rewards: FloatArray, active: npt.NDArray[np.bool_]) -> None:
        """Receive the executed actions (N, A), their rewards (N,), and which of the N go on (N,) bool."""


def find_success(info: Mapping[str, Any], before: bool | None) -> bool | None:
    """Return whether an episode has succeeded so far, at any step; none while the environment does not report success."""
    said = [bool(info[key]) for key in SUCCESS_KEYS if key in info]
    return bool(before) or any(said) if said else before


def collect_trajectories(
    policy: RolloutPolicy,
    environments: Sequence[Environment],
    seeds: Sequence[int],
    *,
    noise: float = 0.0,
    max_steps: int | None = None,
    label: str = "",
    threads: int = 1,
) -> list[Trajectory]:
    """Run one episode per environment, to its end.

    Args:
        policy: decides.
        environments: one per episode; reset here.
        seeds: one per episode, for the environment's reset and for the action noise, so that an episode does not depend on
            which others run beside it, unless the policy draws its actions.
        noise: standard deviation of Gaussian action noise, in halves of the action range.
        max_steps: cut episodes (as truncated) after this many steps.
        label: names the rollout in progress lines, which appear every 10 s.
        threads: of PyTorch. Decisions are small: more than one gains little, and loses much beside other programs.

    Returns:
        Trajectories in the order of `seeds`, with actions as executed (clipped to the action range).

    Raises:
        FloatingPointError: if an environment gives a reward, or an observation to act on, that is not finite.
    """
    with use_threads(threads):
        return _roll_out(policy, environments, seeds, noise, max_steps, label)


def _is_usable(reward: float, observation: FloatArray | None) -> bool:
    """Return whether a reward, and the observation that the policy acts on next, are finite in single precision."""
    return abs(reward) <= float(LARGEST_FLOAT) and (observation is None or bool(np.isfinite(observation).all()))


def _refuse(environment: Environment, seed: int, step: int, reward: float) -> NoReturn:
    name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
    raise FloatingPointError(
        f"{name}: step {step} of the episode with seed {seed} gave reward {reward:g} and an observation, of which one is "
        "not finite in single precision; mend the environment, then resume"
    )


def _roll_out(
    policy: RolloutPolicy,
    environments: Sequence[Environment],
    seeds: Sequence[int],
    noise: float,
    max_steps: int | None,
    label: str,
) -> list[Trajectory]:
    low, high = get_action_bounds(environments[0])
    generators = [np.random.default_rng([seed, 7919]) for seed in seeds]
    observations: list[list[FloatArray]] = []
    for environment, seed in zip(environments, seeds, strict=True):
        observations.append([np.asarray(environment.reset(seed=seed)[0], dtype=np.float32)])
    actions: list[list[FloatArray]] = [[] for _ in seeds]
    rewards: list[list[float]] = [[] for _ in seeds]
    terminated = [False] * len(seeds)
    successes: list[bool | None] = [None] * len(seeds)
    running = list(range(len(seeds)))
    policy.start(environments)
    spec = environments[0].spec
    limits = [limit for limit in (max_steps, spec and spec.max_episode_steps) if limit]
    progress = Progress(label or "rollout", 0, min(limits)) if limits else None  # at worst: episodes may end before
    while running:
        decided = policy.act(np.stack([observations[i][-1] for i in running]))
        if noise > 0:
            standard = np.stack([generators[i].standard_normal(len(low), dtype=np.float32) for i in running])
            decided = decided + (noise * (high - low) / 2 * standard).astype(np.float32)
        executed = np.clip(decided, low, high).astype(np.float32)
        active = np.ones(len(running), np.bool_)
        for k, i in enumerate(running):
            observation, reward, ended, cut, info = environments[i].step(executed[k])
            observations[i].append(np.asarray(observation, dtype=np.float32))
            actions[i].append(executed[k])
            rewards[i].append(float(reward))
            terminated[i] = bool(ended)
            successes[i] = find_success(info, successes[i])
            active[k] = not (ended or cut or len(rewards[i]) == max_steps)
            if not _is_usable(float(reward), observations[i][-1] if active[k] else None):
                _refuse(environments[i], seeds[i], len(rewards[i]), float(reward))
        policy.observe(executed, np.array([rewards[i][-1] for i in running], np.float32), active)
        running = [i for k, i in enumerate(running) if active[k]]
        if running and progress:
            progress.report(len(rewards[running[0]]), {f"episodes running of {len(seeds)}:": len(running)})
    return [
        make_trajectory(*parts) for parts in zip(observations, actions, rewards, terminated, successes, strict=True)
    ]


def make_trajectory(
    observations: Sequence[FloatArray],
    actions: Sequence[FloatArray],
    rewards: Sequence[float],
    terminated: bool,
    success: bool | None,
) -> Trajectory:
    """Make the trajectory of an episode (T+1, T, T); a final observation that is not finite counts as not observed."""
    seen = bool(np.isfinite(observations[-1]).all())
    rows = observations if seen else [*observations[:-1], observations[-2]]
    missing = not seen and not terminated
    return Trajectory(
        np.stack(rows), np.stack(actions), np.array(rewards, np.float32), terminated, success, final_missing=missing
    )
