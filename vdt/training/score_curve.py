"""Inexpensive evaluations while a policy trains: a curve of scores beside that of the losses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch

from vdt.agent.actor_critic import ActorCritic
from vdt.agent.agent import Agent, PlannerSettings
from vdt.agent.episodes import run_episodes
from vdt.checkpoint.random_state import get_random_state, set_random_state
from vdt.config.schema import Config
from vdt.environments import open_environments
from vdt.environments.scores import score_episodes
from vdt.tracking import Tracker

EPISODES = 2  # episodes of each point: they dominate its cost
Watch = Callable[[int, float], None]  # called with gradient step and score


class TrainingStopped(Exception):
    """End of a training whose scores promise too little, raised by its watcher.

    Attributes:
        step: gradient step at which it was stopped.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at gradient step {step:,}")
        self.step = step


class ScoreCurve:
    """Evaluations of a policy at fixed points of its training, without any change of that training."""

    def __init__(
        self,
        name: str,
        config: Config,
        actor_critic: ActorCritic,
        generator: torch.Generator,
        tracker: Tracker,
        *,
        start: int,
        total: int,
        watch: Watch | None = None,
    ) -> None:
        """Spread `evaluation.curve_points` evenly between the first and the last step, without them.

        Args:
            name: of the phase ("actor", "online"); the metric is `<name>/score`.
            config: of the cell.
            actor_critic: whose policy acts.
            generator: of the training's sampler; its state stays.
            tracker: takes the scores.
            start: steps that were taken before.
            total: steps of the whole phase.
            watch: called with each point.
        """
        self.watch = watch
        self.name, self.config, self.actor_critic = name, config, actor_critic
        self.generator, self.tracker = generator, tracker
        count = config.evaluation.curve_points if config.has_environment else 0
        points = [total * (i + 1) // (count + 1) for i in range(count)]
        self.left = [point for point in points if point > start]

    def measure(self, step: int) -> None:
        """Evaluate the policy if a point has been reached since the last call.

        Raises:
            TrainingStopped: if the watcher ends the training.
        """
        if not self.left or step < self.left[0]:
            return
        self.left = [point for point in self.left if point > step]
        with _keep_random_streams(self.generator):
            scores = [score for score in _score(self.config, self.actor_critic) if score is not None]
        if len(scores) == EPISODES:  # a mean over episodes that were cut short is no score
            score = float(np.mean(scores))
            self.tracker.log(step, {f"{self.name}/score": score})
            if self.watch:
                self.watch(step, score)


def _score(config: Config, actor_critic: ActorCritic) -> list[float | None]:
    """Return the scores of the first episodes that the evaluation will see, acting by one return-to-go."""
    acting = PlannerSettings.from_config(config, actor_critic.return_percentiles)
    agent = Agent(actor_critic, acting.follow(acting.candidate_returns[0]))
    seeds = range(config.evaluation.seed, config.evaluation.seed + EPISODES)
    with open_environments(config.task, EPISODES) as environments:
        return score_episodes(run_episodes(agent, config, environments, seeds, ""), config)


@contextlib.contextmanager
def _keep_random_streams(generator: torch.Generator) -> Iterator[None]:
    state = get_random_state(generator)
    try:
        yield
    finally:
        set_random_state(state, generator)
