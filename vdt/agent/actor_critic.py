"""Policy and critic during training: networks, the constants they were trained with, and buffers in their units."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vdt.acceleration.convert import accelerate
from vdt.config.guidance import compute_guidance_strength, may_guide
from vdt.config.layers import config_from_yaml
from vdt.config.schema import Config
from vdt.critic.critic import Critic
from vdt.data.batches import ContextBatch
from vdt.data.mapped_store import MappedTrajectoryStore
from vdt.data.normalization import RETURN_SCALE_UNITS, Normalizer, RewardStatistics
from vdt.data.replay_buffer import TrajectoryReplayBuffer
from vdt.data.sampling import Sampler
from vdt.data.targets import TargetSettings
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.data.trajectory_store import TrajectoryStore
from vdt.policy.decision_transformer import PolicyOutput
from vdt.policy.gaussian import Gaussian
from vdt.policy.losses import AdvantageWeighting
from vdt.policy.networks import make_policy_network


def make_critic(config: Config, device: torch.device) -> Critic:
    """Make an untrained critic on `device`, as fast as `runtime` allows."""
    critic = Critic(config.task.observation_size, config.task.action_size, config.critic).to(device)
    return accelerate(critic, config.runtime)


def make_policy(config: Config, device: torch.device) -> nn.Module:
    """Make an untrained policy on `device`, as fast as `runtime` allows."""
    task = config.task
    policy = make_policy_network(task.observation_size, task.action_size, task.horizon, config.policy).to(device)
    return accelerate(policy, config.runtime)


def make_buffer(
    config: Config,
    normalizer: Normalizer,
    reward_scale: float,
    trajectories: Iterable[Trajectory] = (),
    n_step: int | None = None,
    *,
    capacity: int | None = None,
) -> TrajectoryReplayBuffer:
    """Make a buffer in memory, on the normaliser's device.

    Args:
        config: with the task and the critic's targets.
        normalizer: of observations.
        reward_scale: factor on the critic's rewards.
        trajectories: held from the start.
        n_step: longest sum of rewards before the bootstrap (M2); none is `critic.n_step`.
        capacity: in trajectories; none is no limit.
    """
    settings, size = _make_target_settings(config, reward_scale, n_step), config.task.action_size
    device = normalizer.mean.device
    buffer = TrajectoryReplayBuffer(normalizer, settings, action_size=size, capacity=capacity, device=device)
    buffer.extend(trajectories)
    return buffer


def make_store(
    config: Config, normalizer: Normalizer, reward_scale: float, dataset: TrajectoryDataset, n_step: int | None = None
) -> TrajectoryStore:
    """Make the store of a data set's trajectories where the data set lies: mapped, or as `make_buffer` in memory."""
    if dataset.file is None:
        return make_buffer(config, normalizer, reward_scale, dataset, n_step)
    settings = _make_target_settings(config, reward_scale, n_step)
    return MappedTrajectoryStore(dataset, normalizer, settings, device=normalizer.mean.device)


def _make_target_settings(config: Config, reward_scale: float, n_step: int | None) -> TargetSettings:
    task, critic = config.task, config.critic
    steps = critic.n_step if n_step is None else n_step
    return TargetSettings(critic.discount, steps, reward_scale, task.reward_shift, task.return_scale)


def make_buffer_sampler(config: Config, buffer: TrajectoryStore, generator: torch.Generator) -> Sampler:
    """Make a sampler that draws from `buffer` as `data` says, and for the policy as `actor` says."""
    data, drawn = config.data, config.actor.trajectory_weighting
    return Sampler(
        buffer,
        data.trajectory_weighting,
        generator,
        policy_draws="" if drawn == "same" else drawn,
        return_temperature=data.return_temperature,
        starts_before=data.window_start == "before",
        start_fraction=config.actor.start_fraction,
    )


@dataclass
class ActorCritic:
    """Networks that training changes, and the frozen constants they were trained with.

    Attributes:
        config: resolved configuration of the networks.
        policy: predicts actions.
        critic: twin Q and V.
        normalizer: of raw observations, frozen.
        reward_scale: factor on the critic's rewards, frozen.
        weighting: advantages -> weights of the policy loss.
        gradient_steps: policy updates taken.
        reward_statistics: units of the policy's reward head, frozen.
        critic_steps: updates of Q for the policy taken, of which every `critic.target_every`-th moves the targets.
        return_percentiles: 0th to 100th of the data's episode returns; empty in checkpoints of release 0.2.0.
        history_correlation: of the critic's errors before and after a step (`vdt/critic/history_correlation.py`); none where
            it was not measured.
        critic_draws: by which the critic drew trajectories; empty: by `data.trajectory_weighting`.
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
    reward_statistics: RewardStatistics = RETURN_SCALE_UNITS
    critic_steps: int = 0
    return_percentiles: tuple[float, ...] = ()
    history_correlation: float | None = None
    critic_draws: str = ""
    target_policy: nn.Module | None = None
    compiled_policy: Callable[..., Any] | None = None

    @property
    def acting_context(self) -> int:
        """Return the number of steps of history that the acting policy reads."""
        return self.config.acting_context

    @property
    def is_guided(self) -> bool:
        """Return whether the critic guides the policy, in its loss and in the choice of a return."""
        return may_guide(self.history_correlation, self.config.actor.max_history_correlation)

    @property
    def has_second_critic(self) -> bool:
        """Return whether the critic follows one that failed its test (`critic.second_weighting`)."""
        return self.critic_draws not in ("", self.config.data.trajectory_weighting)

    @property
    def guidance_strength(self) -> float:
        """Return by what lambda and eta are multiplied, from 0 to 1."""
        actor = self.config.actor
        return compute_guidance_strength(
            self.history_correlation, actor.max_history_correlation, actor.guidance_scaling
        )

    def add_target_policy(self, state: dict[str, Tensor] | None = None) -> None:
        """Start a copy that follows the policy slowly, or continue one's `state`, and unfreeze the critic."""
        self.target_policy = copy.deepcopy(self.policy).requires_grad_(False).eval()
        if state is not None:
            self.target_policy.load_state_dict(state)
        self.critic.unfreeze()

    def make_buffer(
        self, trajectories: Iterable[Trajectory], n_step: int | None = None, *, capacity: int | None = None
    ) -> TrajectoryReplayBuffer:
        """Make a buffer in these networks' units; arguments as of the function `make_buffer`."""
        return make_buffer(self.config, self.normalizer, self.reward_scale, trajectories, n_step, capacity=capacity)

    def make_store(self, dataset: TrajectoryDataset, n_step: int | None = None) -> TrajectoryStore:
        """Make the store of a data set in these networks' units; arguments as of the function `make_store`."""
        return make_store(self.config, self.normalizer, self.reward_scale, dataset, n_step)

    @torch.no_grad()
    def compute_target_values(self, contexts: ContextBatch) -> Tensor:
        """Compute min target Q of the target policy's action at the present observations, (B,)."""
        observations = contexts.at_present(contexts.observations)
        return self.critic.compute_min_q(observations, self.ask_target_policy(contexts)[0])

    def autocast(self) -> torch.autocast:
        """Return the context of passes in the precision of training: bfloat16 where `runtime.precision` says so."""
        enabled = self.config.runtime.precision == "bfloat16"
        return torch.autocast(self.normalizer.mean.device.type, torch.bfloat16, enabled)

    @torch.no_grad()
    def ask_target_policy(self, contexts: ContextBatch) -> tuple[Tensor, Gaussian | None]:
        """Return the target policy's present action, (B, A), and its distribution if it is stochastic."""
        assert self.target_policy is not None
        inputs = (contexts.observations, contexts.actions, contexts.returns_to_go, contexts.timesteps)
        with self.autocast():
            output: PolicyOutput = self.target_policy(*inputs).to_float32()
        gaussian = output.distribution
        if gaussian is not None:
            means, log_stds = contexts.at_present(gaussian.means), contexts.at_present(gaussian.log_stds)
            gaussian = replace(gaussian, means=means, log_stds=log_stds)
        return contexts.at_present(output.actions), gaussian

    @torch.no_grad()
    def update_target_policy(self) -> None:
        """Move the copy by `critic.target_update_rate` towards the policy, as the target Q moves towards Q."""
        assert self.target_policy is not None
        for target, source in zip(self.target_policy.parameters(), self.policy.parameters(), strict=True):
            target.lerp_(source, self.config.critic.target_update_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values and tensors."""
        return {
            "config": self.config.to_yaml(),
            "policy": self.policy.state_dict(),
            "critic": self.critic.state_dict(),
            "normalizer": self.normalizer.state_dict(),
            "reward_scale": self.reward_scale,
            "weighting": vars(self.weighting).copy(),
            "gradient_steps": self.gradient_steps,
            "reward_statistics": vars(self.reward_statistics).copy(),
            "return_percentiles": list(self.return_percentiles),
            "history_correlation": self.history_correlation,
            "critic_weighting": self.critic_draws,
            **self._get_target_policy_state(),
        }

    def _get_target_policy_state(self) -> dict[str, Any]:
        if self.target_policy is None:
            return {}
        return {"target_policy": self.target_policy.state_dict(), "critic_steps": self.critic_steps}

    def load_progress(self, state: dict[str, Any]) -> None:
        """Load the part of a `state_dict` that training changes; the critic only if it is trained beside the policy."""
        self.critic_steps = state.get("critic_steps", 0)  # new since release 0.2
        self.policy.load_state_dict(state["policy"])
        self.weighting = AdvantageWeighting(**state["weighting"])
        self.gradient_steps = state["gradient_steps"]
        self.reward_statistics, self.return_percentiles = _read_statistics(state)
        self.history_correlation = state.get("history_correlation")  # this and the next: new since release 0.2
        self.critic_draws = state.get("critic_weighting", "")
        if self.config.trains_together:
            self.critic.load_state_dict(state["critic"])
        if self.target_policy is not None:
            self.target_policy.load_state_dict(state["target_policy"])

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> ActorCritic:
        """Rebuild networks and constants from a `state_dict`, on `device`."""
        config = config_from_yaml(state["config"])
        policy, critic = make_policy(config, device), make_critic(config, device)
        policy.load_state_dict(state["policy"])
        critic.load_state_dict(state["critic"])
        held = {name: held.clone() for name, held in state["normalizer"].items()}
        normalizer = Normalizer(**held, clip=config.data.observation_clip).to(device)
        reward_statistics, return_percentiles = _read_statistics(state)
        actor_critic = cls(
            *(config, policy, critic, normalizer),
            reward_scale=state["reward_scale"],
            weighting=AdvantageWeighting(**state["weighting"]),
            gradient_steps=state["gradient_steps"],
            reward_statistics=reward_statistics,
            critic_steps=state.get("critic_steps", 0),
            return_percentiles=return_percentiles,
            history_correlation=state.get("history_correlation"),
            critic_draws=state.get("critic_weighting", ""),
        )
        if "target_policy" in state:
            actor_critic.add_target_policy(state["target_policy"])
        return actor_critic


def _read_statistics(state: dict[str, Any]) -> tuple[RewardStatistics, tuple[float, ...]]:
    """Return the reward head's units and the data's returns; release 0.2.0 has none, and means the return scale's units."""
    return RewardStatistics(**state.get("reward_statistics", {})), tuple(state.get("return_percentiles", ()))
