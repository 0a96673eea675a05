"""Policy, critic, normaliser and planner as one thing that acts: raw observation -> environment action."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vdt.config.layers import config_from_yaml
from vdt.config.schema import Config
from vdt.critic.critic import Critic
from vdt.data.batches import Histories
from vdt.data.normalization import Normalizer
from vdt.data.trajectory import FloatArray
from vdt.environments import Environment, make_environment
from vdt.planning.env_model import EnvModel, LearnedModel, SimulatorModel
from vdt.planning.imagination import Memory
from vdt.planning.planner import Plan, plan
from vdt.policy.decision_transformer import PolicyOutput
from vdt.policy.gaussian import SquashedGaussian
from vdt.policy.history import History
from vdt.policy.losses import AdvantageWeighting
from vdt.policy.mlp import make_policy


@dataclass(frozen=True)
class PlannerSettings:
    """How one action is chosen.

    Attributes:
        candidate_returns: first returns-to-go in environment units; one means no choice.
        planning_horizon: E, terms of the look-ahead score.
        env_model: "none", "learned" or "simulator".
        context_length: steps of history to act upon; 0 means the policy's own K.
        forget_steps: how many of them are forgotten at once when another does not fit.
    """

    candidate_returns: tuple[float, ...]
    planning_horizon: int = 1
    env_model: str = "none"
    context_length: int = 0
    forget_steps: int = 1

    @classmethod
    def from_config(cls, config: Config) -> PlannerSettings:
        """The settings that online tuning acts with."""
        planner = config.planner
        returns = config.task.candidate_returns[: planner.candidates]
        return cls(returns, planner.planning_horizon, planner.env_model, planner.context_length, planner.forget_steps)

    def follow(self, wanted: float) -> PlannerSettings:
        """The same history, but one return-to-go and no choice."""
        return replace(self, candidate_returns=(wanted,), planning_horizon=1, env_model="none")


@dataclass
class ActorCritic:
    """What training changes: networks, and the frozen numbers they were trained with.

    Attributes:
        config: resolved configuration they were made from.
        policy: predicts actions.
        critic: twin Q and V.
        normalizer: of raw observations, frozen.
        reward_scale: factor on the critic's rewards, frozen.
        weighting: advantages -> weights of the policy loss.
        gradient_steps: policy updates taken.
        target_policy: follows the policy slowly; only where the critic values it (`critic.bootstrap` policy).
        compiled_policy: the policy's pass while it trains, if that is compiled (`runtime.compile`).
    """

    config: Config
    policy: nn.Module
    critic: Critic
    normalizer: Normalizer
    reward_scale: float
    weighting: AdvantageWeighting
    gradient_steps: int = 0
    target_policy: nn.Module | None = None
    compiled_policy: Callable[..., Any] | None = None

    @property
    def acting_context(self) -> int:
        """Steps of history that the acting policy looks at."""
        policy = self.config.policy
        return 1 if policy.kind == "mlp" else self.config.planner.context_length or policy.context_length

    def add_target_policy(self, state: dict[str, Tensor] | None = None) -> None:
        """Start a copy that follows the policy slowly, or go on with one's `state`, and let the critic learn beside it."""
        self.target_policy = copy.deepcopy(self.policy).requires_grad_(False).eval()
        if state is not None:
            self.target_policy.load_state_dict(state)
        self.critic.unfreeze()

    @torch.no_grad()
    def compute_values(self, histories: Histories) -> Tensor:
        """Value of the observations that histories end with, (B,): V, or min target Q of what the target policy does."""
        observations = histories.take_present(histories.observations)
        if self.target_policy is None:
            values: Tensor = self.critic.value(observations)
            return values
        return self.critic.compute_min_q(observations, self.ask_target_policy(histories)[0])

    @torch.no_grad()
    def ask_target_policy(self, histories: Histories) -> tuple[Tensor, SquashedGaussian | None]:
        """What it does at the present step, (B, A), and the distribution of that if it is stochastic."""
        assert self.target_policy is not None
        inputs = (histories.observations, histories.actions, histories.returns_to_go, histories.timesteps)
        output: PolicyOutput = self.target_policy(*inputs)
        gaussian = output.distribution
        if gaussian is not None:
            means, log_stds = histories.take_present(gaussian.means), histories.take_present(gaussian.log_stds)
            gaussian = SquashedGaussian(means, log_stds, gaussian.temperature)
        return histories.take_present(output.actions), gaussian

    @torch.no_grad()
    def update_target_policy(self) -> None:
        """Move the copy by `critic.target_update_rate` towards the policy, as the target Q moves towards Q."""
        assert self.target_policy is not None
        ours: list[Tensor] = list(self.target_policy.parameters())
        torch._foreach_lerp_(ours, list(self.policy.parameters()), self.config.critic.target_update_rate)

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
            **({"target_policy": self.target_policy.state_dict()} if self.target_policy is not None else {}),
        }

    def load_progress(self, state: dict[str, Any]) -> None:
        """Take over what training changes from a `state_dict`; the critic only if it is trained beside the policy."""
        self.policy.load_state_dict(state["policy"])
        self.weighting = AdvantageWeighting(**state["weighting"])
        self.gradient_steps = state["gradient_steps"]
        if self.target_policy is not None:
            self.critic.load_state_dict(state["critic"])
            self.target_policy.load_state_dict(state["target_policy"])

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> ActorCritic:
        """Rebuild what `state_dict` described, on `device`."""
        config = config_from_yaml(state["config"])
        task = config.task
        policy = make_policy(task.observation_size, task.action_size, task.horizon, config.policy)
        critic = Critic(task.observation_size, task.action_size, config.critic)
        policy.load_state_dict(state["policy"])
        critic.load_state_dict(state["critic"])
        normalizer = Normalizer(**state["normalizer"]).to(device)
        weighting = AdvantageWeighting(**state["weighting"])
        actor_critic = cls(
            config,
            policy.to(device),
            critic.to(device),
            normalizer,
            state["reward_scale"],
            weighting,
            state["gradient_steps"],
        )
        if "target_policy" in state:
            actor_critic.add_target_policy(state["target_policy"])
        return actor_critic


class Agent:
    """Acts in several episodes at once; an `Actor` for `collect_trajectories`."""

    def __init__(self, actor_critic: ActorCritic, settings: PlannerSettings, *, explore: bool = False) -> None:
        """Act with `actor_critic`, choosing as `settings` say; to `explore`, a stochastic policy's actions are drawn."""
        self.actor_critic = actor_critic
        self.explore = explore
        self.settings = settings
        self.device = actor_critic.normalizer.mean.device
        self.environments: list[Environment] = []
        self.chosen = np.zeros(len(settings.candidate_returns), np.int64)  # how often each candidate won
        self.imagined_environment_steps = 0
        self._history: History | None = None
        self._memory = Memory()
        self._env_model = self._make_env_model()

    def _make_env_model(self) -> EnvModel | None:
        if self.settings.planning_horizon == 1 or len(self.settings.candidate_returns) == 1:
            return None
        task = self.actor_critic.config.task
        if self.settings.env_model == "simulator":
            scratch = make_environment(task)
            return SimulatorModel(scratch, self.actor_critic.normalizer, task.return_scale)
        return LearnedModel()

    def start(self, environments: Sequence[Environment]) -> None:
        """Forget; new episodes begin."""
        task = self.actor_critic.config.task
        self.actor_critic.policy.eval()
        self.environments = list(environments)
        returns = torch.tensor(self.settings.candidate_returns, device=self.device) / task.return_scale
        context_length = self.settings.context_length or self.actor_critic.config.policy.context_length
        self._history = History(returns.repeat(len(environments), 1), context_length, self.settings.forget_steps)
        self._memory = Memory(self.settings.planning_horizon - 1)

    def act(self, observations: FloatArray) -> FloatArray:
        """Raw observations (N, S) -> actions (N, A)."""
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
        """Plan for the present step; changes nothing."""
        assert self._history is not None
        return plan(
            self._history,
            self.actor_critic.policy,
            self.actor_critic.critic.compute_min_q,
            discount=self.actor_critic.config.critic.discount,
            planning_horizon=self.settings.planning_horizon,
            env_model=self._env_model,
            environments=self.environments,
            memory=self._memory,
            explore=self.explore,
        )

    def observe(self, actions: FloatArray, rewards: FloatArray, active: npt.NDArray[np.bool_]) -> None:
        """Remember what was executed, align returns-to-go with what it paid (M4), drop finished episodes."""
        assert self._history is not None
        self._history.set_action(torch.from_numpy(actions).to(self.device))
        scaled = torch.from_numpy(rewards).to(self.device) / self.actor_critic.config.task.return_scale
        self._history.align_returns(scaled)
        if not active.all():
            kept = torch.from_numpy(active).to(self.device)
            self._history.keep(kept)
            self._memory.keep(kept, len(self.settings.candidate_returns))
            self.environments = [e for e, kept in zip(self.environments, active, strict=True) if kept]
