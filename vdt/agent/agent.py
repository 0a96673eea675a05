"""Agent: policy, critic, normaliser and planner map a raw observation to an environment action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from vdt.acceleration.acting import freeze
from vdt.agent.actor_critic import ActorCritic
from vdt.config.schema import Config
from vdt.data.trajectory import FloatArray
from vdt.planning.env_model import EnvModel, LearnedModel, SimulatorModel
from vdt.planning.imagination import ContextCache
from vdt.planning.planner import Plan, plan
from vdt.policy.decision_transformer import ActingPolicy
from vdt.policy.history import History

if TYPE_CHECKING:  # a policy acts without Gymnasium
    from vdt.environments import Environment


@dataclass(frozen=True)
class PlannerSettings:
    """Settings of the choice of one action.

    Attributes:
        candidate_returns: first returns-to-go in environment units; one means no choice.
        planning_horizon: E, terms of the look-ahead score.
        env_model: "none", "learned" or "simulator".
        context_length: steps of history to act upon; 0 means the policy's K.
        forget_steps: number of oldest steps dropped at once when another does not fit.
    """

    candidate_returns: tuple[float, ...]
    planning_horizon: int = 1
    env_model: str = "none"
    context_length: int = 0
    forget_steps: int = 1

    @classmethod
    def from_config(cls, config: Config) -> PlannerSettings:
        """Read the settings of acting during online tuning."""
        planner = config.planner
        returns = config.task.candidate_returns[: planner.candidates]
        return cls(returns, planner.planning_horizon, planner.env_model, planner.context_length, planner.forget_steps)

    def follow(self, wanted: float) -> PlannerSettings:
        """Return settings with the same history that follow one return-to-go without a choice."""
        return replace(self, candidate_returns=(wanted,), planning_horizon=1, env_model="none")


class Agent:
    """Policy that acts in several episodes at once, a `RolloutPolicy`."""

    def __init__(self, actor_critic: ActorCritic, settings: PlannerSettings, *, explore: bool = False) -> None:
        """Act with `actor_critic` and `settings`; with `explore`, a stochastic policy's actions are drawn."""
        self.actor_critic = actor_critic
        self.explore = explore
        self.settings = settings
        self.device = actor_critic.normalizer.mean.device
        self.environments: list[Environment] = []
        self.chosen = np.zeros(len(settings.candidate_returns), np.int64)  # how often each candidate won
        self.imagined_environment_steps = 0
        self._history: History | None = None
        self._policy: ActingPolicy = actor_critic.policy
        self._cache = ContextCache()
        self._env_model = self._make_env_model()

    def _make_env_model(self) -> EnvModel | None:
        if self.settings.planning_horizon == 1 or len(self.settings.candidate_returns) == 1:
            return None
        task = self.actor_critic.config.task
        if self.settings.env_model == "simulator":
            from vdt.environments import make_environment

            scratch = make_environment(task)
            return SimulatorModel(scratch, self.actor_critic.normalizer, task.return_scale)
        return LearnedModel()

    def start(self, environments: Sequence[Environment]) -> None:
        """Begin new episodes, one per environment."""
        self.begin(len(environments))
        self.environments = list(environments)

    def begin(self, episodes: int) -> None:
        """Begin new episodes with the policy's current weights; drop the old ones.

        Only a simulator as environment model needs `start` instead, which names the environments.
        """
        config = self.actor_critic.config
        task = config.task
        self._policy = freeze(self.actor_critic.policy.eval(), config.runtime)
        self.environments = []
        returns = torch.tensor(self.settings.candidate_returns, device=self.device) / task.return_scale
        context_length = self.settings.context_length or config.policy.context_length
        self._history = History(returns.repeat(episodes, 1), context_length, self.settings.forget_steps)
        self._cache = ContextCache(self.settings.planning_horizon - 1)

    def act(self, observations: FloatArray) -> FloatArray:
        """Choose actions (N, A) for raw observations (N, S)."""
        assert self._history is not None
        raw = torch.from_numpy(observations).to(self.device)
        self._history.append_observation(
            self.actor_critic.normalizer.normalize(raw), self.actor_critic.config.task.action_size
        )
        choice = self.decide()
        self.chosen += np.bincount(choice.chosen.cpu().numpy(), minlength=len(self.chosen))
        if isinstance(self._env_model, SimulatorModel):
            self.imagined_environment_steps = self._env_model.environment_steps
        actions: FloatArray = choice.actions.cpu().numpy()
        return actions

    def decide(self) -> Plan:
        """Plan for the present step without changing state."""
        assert self._history is not None
        return plan(
            self._history,
            self._policy,
            self.actor_critic.critic.compute_min_q,
            discount=self.actor_critic.config.critic.discount,
            planning_horizon=self.settings.planning_horizon,
            env_model=self._env_model,
            environments=self.environments,
            cache=self._cache,
            explore=self.explore,
        )

    def observe(self, actions: FloatArray, rewards: FloatArray, active: npt.NDArray[np.bool_]) -> None:
        """Append the executed actions, align returns-to-go with the received rewards (M4), drop finished episodes."""
        assert self._history is not None
        self._history.set_action(torch.from_numpy(actions).to(self.device))
        scaled = torch.from_numpy(rewards).to(self.device) / self.actor_critic.config.task.return_scale
        self._history.align_returns(scaled)
        if not active.all():
            kept = torch.from_numpy(active).to(self.device)
            self._history.keep(kept)
            self._cache.keep(kept, len(self.settings.candidate_returns))
            self.environments = list(compress(self.environments, active))
