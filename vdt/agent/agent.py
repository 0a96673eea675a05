"""Agent: policy, critic, normaliser and planner map a raw observation to an environment action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vdt.acceleration.acting import freeze
from vdt.agent.actor_critic import ActorCritic
from vdt.config.schema import Config
from vdt.data.return_quantiles import compute_return_quantiles
from vdt.data.trajectory import FloatArray
from vdt.planning.env_model import EnvModel, LearnedModel, SimulatorModel
from vdt.planning.imagination import ContextCache, TransformerPolicy
from vdt.planning.planner import Plan, plan
from vdt.planning.selection import Selection
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
        select: when the followed return may change: "per_step", "per_episode" or "margin" (`Selection`).
        select_steps: observations that decide "per_episode".
    """

    candidate_returns: tuple[float, ...]
    planning_horizon: int = 1
    env_model: str = "none"
    context_length: int = 0
    forget_steps: int = 1
    select: str = "per_step"
    select_steps: int = 20

    @classmethod
    def from_config(cls, config: Config, return_percentiles: Sequence[float] = ()) -> PlannerSettings:
        """Read the settings by which a policy of this configuration acts.

        Args:
            config: with the planner's settings.
            return_percentiles: of the policy's data (`ActorCritic`), which `planner.returns` data reads.

        Raises:
            ValueError: if they are needed and not there.
        """
        planner = config.planner
        return cls(
            find_candidate_returns(config, return_percentiles)[: planner.candidates],
            planner.planning_horizon,
            planner.env_model,
            planner.context_length,
            planner.forget_steps,
            planner.select,
            planner.select_steps,
        )

    def follow(self, wanted: float) -> PlannerSettings:
        """Return settings with the same history that follow one return-to-go without a choice."""
        return replace(self, candidate_returns=(wanted,), planning_horizon=1, env_model="none")

    def restrict(self, actor_critic: ActorCritic) -> PlannerSettings:
        """Return the settings by which these networks act: without a choice where their critic may not guide."""
        return self if actor_critic.is_guided else self.follow(self.candidate_returns[0])


def find_candidate_returns(config: Config, return_percentiles: Sequence[float]) -> tuple[float, ...]:
    """Return all returns that a policy may be asked for, whatever `planner.candidates` says; raises as `from_config`."""
    if config.planner.returns == "task":
        return config.task.candidate_returns
    if not return_percentiles:
        raise ValueError(
            "planner.returns is data, but the policy comes without the returns of its data, as those of release 0.2.0 do; "
            "accepted is task, or a policy that is trained anew"
        )
    return compute_return_quantiles(return_percentiles, config.planner.return_quantiles)


class Agent:
    """Policy that acts in several episodes at once, a `RolloutPolicy`."""

    def __init__(self, actor_critic: ActorCritic, settings: PlannerSettings, *, explore: bool = False) -> None:
        """Act with `actor_critic` and `settings`; with `explore`, a stochastic policy's actions are drawn.

        A critic that may not guide chooses no return: the first one is followed.
        """
        self.actor_critic = actor_critic
        self.explore = explore
        self.settings = settings = settings.restrict(actor_critic)
        self.context_length = actor_critic.config.policy.get_acting_context(settings.context_length)
        self.device = actor_critic.normalizer.mean.device
        self.environments: list[Environment] = []
        self.chosen = np.zeros(len(settings.candidate_returns), np.int64)  # how often each candidate won
        self.imagined_environment_steps = 0
        self._history: History | None = None
        self._policy: ActingPolicy = actor_critic.policy
        self._cache = ContextCache()
        self._selection = Selection(settings.select, settings.select_steps)
        self._env_model = self._make_env_model()

    def _make_env_model(self) -> EnvModel | None:
        if self.settings.planning_horizon == 1 or len(self.settings.candidate_returns) == 1:
            return None
        task = self.actor_critic.config.task
        if self.settings.env_model == "simulator":
            from vdt.environments import make_environment

            scratch = make_environment(task)
            return SimulatorModel(scratch, self.actor_critic.normalizer, task.return_scale)
        return LearnedModel(self.actor_critic.reward_statistics)

    def start(self, environments: Sequence[Environment]) -> None:
        """Begin new episodes, one per environment."""
        self.begin(len(environments))
        self.environments = list(environments)

    def close(self) -> None:
        """Close the environment of a simulator as environment model; other agents have none."""
        if isinstance(self._env_model, SimulatorModel):
            self._env_model.scratch.close()

    def begin(self, episodes: int) -> None:
        """Begin new episodes with the policy's current weights; drop the old ones.

        Only a simulator as environment model needs `start` instead, which names the environments.
        """
        config = self.actor_critic.config
        task = config.task
        self._policy = freeze(self.actor_critic.policy.eval(), config.runtime)
        self.environments = []
        returns = torch.tensor(self.settings.candidate_returns, device=self.device) / task.return_scale
        self._history, self._cache = self._make_history(returns.repeat(episodes, 1)), self._make_cache()
        self._selection = Selection(self.settings.select, self.settings.select_steps)

    def _make_history(self, returns: Tensor) -> History:
        """Return an empty history that starts from returns-to-go (N, M) divided by the return scale."""
        return History(returns, self.context_length, self.settings.forget_steps)

    def _make_cache(self) -> ContextCache:
        return ContextCache(self.settings.planning_horizon - 1)

    def act(self, observations: FloatArray) -> FloatArray:
        """Choose actions (N, A) for raw observations (N, S)."""
        assert self._history is not None
        raw = torch.from_numpy(observations).to(self.device)
        self._history.append_observation(
            self.actor_critic.normalizer.normalize(raw), self.actor_critic.config.task.action_size
        )
        choice = self.decide()
        self._selection.record(choice.scores, choice.chosen)
        self.chosen += np.bincount(choice.chosen.cpu().numpy(), minlength=len(self.chosen))
        if isinstance(self._env_model, SimulatorModel):
            self.imagined_environment_steps = self._env_model.environment_steps
        actions: FloatArray = choice.actions.cpu().numpy()
        return actions

    @torch.inference_mode()
    def recall(self, observations: FloatArray, actions: FloatArray, rewards: FloatArray, returns: FloatArray) -> None:
        """Take up N episodes at their present step as if the agent had acted in them; `decide` is next.

        Tokens pass through the transformer in the same groups as they did then, which keeps the last bits.

        Args:
            observations: (N, L, S) raw, the last ones; at least `count_needed` of them.
            actions: (N, L - 1, A) from -1 to 1, those between them.
            rewards: (N, t), all of the episodes.
            returns: (N, M) first returns-to-go of the candidates, in the rewards' units.
        """
        scale, timestep = self.actor_critic.config.task.return_scale, rewards.shape[1]
        first = torch.from_numpy(returns).to(self.device) / scale
        history, cache = self._make_history(first), self._make_cache()
        kept, together = history.count_kept(timestep)
        seen = self.actor_critic.normalizer.normalize(torch.from_numpy(observations[:, -kept:]).to(self.device))
        taken = torch.from_numpy(actions[:, actions.shape[1] + 1 - kept :]).to(self.device)
        taken = torch.cat([taken, taken.new_zeros(len(taken), 1, taken.shape[2])], 1)
        returns_to_go = _align(first, torch.from_numpy(rewards).to(self.device) / scale)[:, :, -kept:]
        for length in range(together, kept + 1):
            present = taken[:, :length].clone()
            present[:, -1] = 0.0  # still open
            steps = seen[:, :length].contiguous(), present, returns_to_go[:, :, :length].contiguous()
            history.restore(timestep - kept + length, *steps)
            if length < kept and isinstance(self._policy, TransformerPolicy):
                cache.encode(self._policy, history)
        self._history, self._cache = history, cache

    def forget(self) -> None:
        """Remove the episodes that `recall` took up, with their keys and values."""
        self._history, self._cache = None, self._make_cache()

    def count_needed(self, timestep: int) -> int:
        """Return the number of last steps that a decision at a timestep depends on, that step included."""
        return self._make_history(torch.zeros(1, 1)).count_kept(timestep)[0]

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
            selection=self._selection,
            compute_disagreement=self.actor_critic.critic.compute_disagreement,
        )

    def observe(self, actions: FloatArray, rewards: FloatArray, active: npt.NDArray[np.bool_]) -> None:
        """Append the executed actions, align returns-to-go with the received rewards (M4), drop finished episodes."""
        assert self._history is not None
        self._history.set_action(torch.from_numpy(actions).to(self.device))
        scaled = torch.from_numpy(rewards).to(self.device) / self.actor_critic.config.task.return_scale
        self._history.align_returns(scaled)
        if not active.all():
            kept = torch.from_numpy(active).to(self.device)
            self._history.drop_finished(kept)
            self._cache.drop_finished(kept, len(self.settings.candidate_returns))
            self._selection.drop_finished(kept)
            self.environments = list(compress(self.environments, active))


def _align(first: Tensor, rewards: Tensor) -> Tensor:
    """Return the returns-to-go of every step (M4), rounded as step by step: (N, M), (N, t) -> (N, M, t + 1)."""
    terms = torch.cat([first[:, :, None], rewards[:, None].expand(-1, first.shape[1], -1)], 2)
    return torch.from_numpy(np.subtract.accumulate(terms.cpu().numpy(), axis=2)).to(first.device)
