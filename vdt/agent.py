"""Policy, critic, normaliser and planner as one thing that acts: raw observation -> environment action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vdt.config import Config, config_from_yaml
from vdt.critic.critic import Critic
from vdt.data.normalization import Normalizer
from vdt.data.trajectory import FloatArray
from vdt.environments import Environment, make_environment
from vdt.planning.env_model import EnvModel, LearnedModel, SimulatorModel
from vdt.planning.planner import Plan, plan
from vdt.policy.history import History
from vdt.policy.losses import AdvantageWeighting
from vdt.policy.mlp_policy import make_policy


@dataclass(frozen=True)
class PlannerSettings:
    """How one action is chosen.

    Attributes:
        candidate_returns: first returns-to-go in environment units; one means no choice.
        planning_horizon: E, terms of the look-ahead score.
        env_model: "none", "learned" or "simulator".
        context_length: steps of history to act upon; 0 means the policy's own K.
    """

    candidate_returns: tuple[float, ...]
    planning_horizon: int = 1
    env_model: str = "none"
    context_length: int = 0

    @classmethod
    def from_config(cls, config: Config) -> PlannerSettings:
        """The settings that online tuning acts with."""
        planner = config.planner
        returns = config.task.candidate_returns[: planner.candidates]
        return cls(returns, planner.planning_horizon, planner.env_model, planner.context_length)


@dataclass
class Brain:
    """What training changes: networks, and the frozen numbers they were trained with.

    Attributes:
        config: resolved configuration they were made from.
        policy: predicts actions.
        critic: twin Q and V.
        normalizer: of raw observations, frozen.
        reward_scale: factor on the critic's rewards, frozen.
        weighting: advantages -> weights of the policy loss.
        gradient_steps: policy updates taken.
    """

    config: Config
    policy: nn.Module
    critic: Critic
    normalizer: Normalizer
    reward_scale: float
    weighting: AdvantageWeighting
    gradient_steps: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values and tensors."""
        return {
            "config": self.config.to_yaml(),
            "policy": self.policy.state_dict(),
            "critic": self.critic.state_dict(),
            "normalizer": self.normalizer.state_dict(),
            "reward_scale": self.reward_scale,
            "weighting": vars(self.weighting).copy(),
            "gradient_steps": self.gradient_steps,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> Brain:
        """Rebuild what `state_dict` described, on `device`."""
        config = config_from_yaml(state["config"])
        task = config.task
        policy = make_policy(task.observation_size, task.action_size, task.horizon, config.policy)
        critic = Critic(task.observation_size, task.action_size, config.critic)
        policy.load_state_dict(state["policy"])
        critic.load_state_dict(state["critic"])
        normalizer = Normalizer(**state["normalizer"]).to(device)
        weighting = AdvantageWeighting(**state["weighting"])
        return cls(
            config,
            policy.to(device),
            critic.to(device),
            normalizer,
            state["reward_scale"],
            weighting,
            state["gradient_steps"],
        )


class Agent:
    """Acts in several episodes at once; an `Actor` for `collect_trajectories`."""

    def __init__(self, brain: Brain, settings: PlannerSettings) -> None:
        """Act with `brain`, choosing as `settings` say."""
        self.brain = brain
        self.settings = settings
        self.device = brain.normalizer.mean.device
        self.environments: list[Environment] = []
        self.chosen = np.zeros(len(settings.candidate_returns), np.int64)  # how often each candidate won
        self.imagined_environment_steps = 0
        self._history: History | None = None
        self._env_model = self._make_env_model()

    def _make_env_model(self) -> EnvModel | None:
        if self.settings.planning_horizon == 1 or len(self.settings.candidate_returns) == 1:
            return None
        task = self.brain.config.task
        if self.settings.env_model == "simulator":
            scratch = make_environment(task)
            return SimulatorModel(scratch, self.brain.normalizer, task.return_scale)
        return LearnedModel()

    def start(self, environments: Sequence[Environment]) -> None:
        """Forget; new episodes begin."""
        task = self.brain.config.task
        self.brain.policy.eval()
        self.environments = list(environments)
        returns = torch.tensor(self.settings.candidate_returns, device=self.device) / task.return_scale
        context_length = self.settings.context_length or self.brain.config.policy.context_length
        self._history = History(returns.repeat(len(environments), 1), context_length)

    def act(self, observations: FloatArray) -> FloatArray:
        """Raw observations (N, S) -> actions (N, A)."""
        assert self._history is not None
        raw = torch.from_numpy(observations).to(self.device)
        self._history.append_observation(self.brain.normalizer.normalize(raw), self.brain.config.task.action_size)
        choice = self.decide()
        self.chosen += np.bincount(choice.chosen.cpu().numpy(), minlength=len(self.chosen))
        if isinstance(self._env_model, SimulatorModel):
            self.imagined_environment_steps = self._env_model.environment_steps
        actions: FloatArray = choice.actions.cpu().numpy()
        return actions

    def decide(self) -> Plan:
        """Plan for the present step; changes nothing."""
        assert self._history is not None
        return plan(
            self._history,
            self.brain.policy,
            self.brain.critic.compute_min_q,
            discount=self.brain.config.critic.discount,
            planning_horizon=self.settings.planning_horizon,
            env_model=self._env_model,
            environments=self.environments,
        )

    def observe(self, actions: FloatArray, rewards: FloatArray, active: npt.NDArray[np.bool_]) -> None:
        """Remember what was executed, align returns-to-go with what it paid (M4), drop finished episodes."""
        assert self._history is not None
        self._history.set_action(torch.from_numpy(actions).to(self.device))
        scaled = torch.from_numpy(rewards).to(self.device) / self.brain.config.task.return_scale
        self._history.align_returns(scaled)
        self._history.keep(torch.from_numpy(active).to(self.device))
        self.environments = [e for e, kept in zip(self.environments, active, strict=True) if kept]
