"""Budgets of equal processor time: steps are timed on trial data, then each method's budget is scaled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from vdt.agent.actor_critic import ActorCritic, make_critic, make_policy
from vdt.checkpoint.random_state import seed_streams
from vdt.config.schema import Config
from vdt.data.normalization import Normalizer
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.system.machine import use_threads
from vdt.training.critic_pretraining import CriticTrainer
from vdt.training.offline import ActorTrainer, calibrate_weighting, make_offline_buffer, make_sampler

EPISODES, STEPS = 100, 500  # of the trial data: random numbers, as long as real episodes
ROUNDS = 5  # in which all methods take their turns: other programs slow them alike
ROUND_SECONDS = 0.3  # that each kind of step is timed for in a round, at least
DIGITS = 3  # that budgets are rounded to


@dataclass(frozen=True)
class StepSeconds:
    """Processor time of one step.

    Attributes:
        critic: of a critic that is trained before the actor; 0 without one.
        actor: of the actor, with its share of the critic's steps where both are trained together.
    """

    critic: float
    actor: float


@dataclass(frozen=True)
class Budget:
    """Steps of a method."""

    critic: int
    actor: int
    warm_start: int


def measure_steps(configs: Mapping[str, Config]) -> dict[str, StepSeconds]:
    """Measure the processor time of training steps on one thread: the median of rounds, in which all take turns.

    Args:
        configs: of each method, on tasks of the same sizes.
    """
    with use_threads(1):
        steppers = {name: _make_steppers(config) for name, config in configs.items()}
        found: dict[str, list[list[float]]] = {name: [[], []] for name in configs}
        for _ in range(ROUNDS):
            for name, pair in steppers.items():
                for seconds, take in zip(found[name], pair, strict=True):
                    seconds.append(_time(take) if take else 0.0)
    return {name: StepSeconds(*map(statistics.median, pair)) for name, pair in found.items()}


def scale_budget(config: Config, seconds: StepSeconds, wanted: float) -> Budget:
    """Return a method's steps, scaled so that they take `wanted` seconds: the same factor for critic, actor and warm start."""
    critic, actor = config.critic.gradient_steps, config.actor.gradient_steps
    total = seconds.critic * critic + seconds.actor * actor
    steps = _round(actor * wanted / total)
    ratio = steps / actor
    return Budget(_round(critic * ratio), steps, _round(config.actor.warm_start_steps * ratio))


def _round(number: float) -> int:
    """Return the nearest whole number of `DIGITS` digits; of a positive one 1 at least."""
    return max(1, round(float(f"{number:.{DIGITS}g}"))) if number > 0 else 0


def _make_steppers(config: Config) -> tuple[Callable[[int], object] | None, Callable[[int], object]]:
    """Return functions that take step k of the critic (none where it is not trained alone) and of the actor."""
    device, data = torch.device("cpu"), _make_data(config)
    seed_streams(0)
    normalizer = Normalizer.fit(data)
    buffer = make_offline_buffer(config, data, normalizer, 1.0)
    critic, sampler = make_critic(config, device), make_sampler(config, buffer, 1)
    alone = config.critic.gradient_steps > 0 and not config.trains_together
    critic_trainer = CriticTrainer(config, critic, sampler) if alone else None
    another = make_critic(config, device).requires_grad_(False)
    weighting = calibrate_weighting(config, another, sampler)
    actor_critic = ActorCritic(config, make_policy(config, device), another, normalizer, 1.0, weighting)
    if config.critic.bootstrap == "policy":
        actor_critic.add_target_policy()
    if config.trains_together:
        another.unfreeze()
    actor_trainer = ActorTrainer(config, actor_critic, sampler)
    steps, warm = config.actor.gradient_steps, config.actor.warm_start_steps

    def update_actor(step: int) -> object:
        return actor_trainer.update(steps - step % (steps - warm))  # steps after the warm start

    return critic_trainer.update if critic_trainer else None, update_actor


def _make_data(config: Config) -> TrajectoryDataset:
    """Make random episodes of the task's sizes."""
    task, random = config.task, np.random.default_rng(0)
    steps = min(STEPS, task.horizon)
    return TrajectoryDataset.from_trajectories(
        Trajectory(
            random.normal(size=(steps + 1, task.observation_size)).astype(np.float32),
            random.uniform(-1, 1, (steps, task.action_size)).astype(np.float32),
            random.normal(size=steps).astype(np.float32),
            terminated=True,
        )
        for _ in range(EPISODES)
    )


def _time(take: Callable[[int], object]) -> float:
    """Return the seconds of a step, after two that are not timed."""
    take(1), take(2)
    count, began = 0, time.process_time()
    while (spent := time.process_time() - began) < ROUND_SECONDS:
        count += 1
        take(count)
    return spent / count
