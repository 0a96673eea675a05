"""The offline phase: critic first, then the policy against the frozen critic."""

from __future__ import annotations

from pathlib import Path

import torch

from vdt.acceleration.critic_update import CriticOptimizer
from vdt.agent.agent import ActorCritic
from vdt.checkpoint.random_state import get_random_state, seed_streams, set_random_state
from vdt.checkpoint.store import CheckpointStore, State, load_state
from vdt.config.schema import Config
from vdt.critic.critic import Critic
from vdt.data.normalization import Normalizer, compute_reward_scale
from vdt.data.replay_buffer import TargetSettings, TrajectoryReplayBuffer
from vdt.data.sampling import Sampler
from vdt.data.trajectory import TrajectoryDataset
from vdt.policy.losses import AdvantageWeighting, calibrate_advantage_weighting
from vdt.policy.mlp import make_policy
from vdt.system.machine import choose_device
from vdt.tracking import Tracker
from vdt.training.joint import split_critic_steps, take_critic_step
from vdt.training.loop import run_gradient_steps
from vdt.training.update import (
    Metrics,
    compile_policy,
    compute_learning_rate,
    make_policy_optimizer,
    set_learning_rate,
    update_policy,
)

CALIBRATION_STEPS = 50_000  # steps whose advantages set the weights' temperature
CALIBRATION_CHUNK = 10_000


def make_target_settings(config: Config, reward_scale: float) -> TargetSettings:
    """How rewards become targets, for the offline set and the online buffer alike."""
    task, critic = config.task, config.critic
    return TargetSettings(critic.discount, critic.n_step, reward_scale, task.reward_shift, task.return_scale)


def make_sampler(config: Config, buffer: TrajectoryReplayBuffer, seed_offset: int) -> Sampler:
    """A sampler with its own random stream."""
    generator = torch.Generator(device=buffer.device)
    generator.manual_seed(config.seed * 1009 + seed_offset)
    return Sampler(buffer, config.data.trajectory_weighting, generator)


def make_offline_buffer(
    config: Config, dataset: TrajectoryDataset, normalizer: Normalizer, reward_scale: float
) -> TrajectoryReplayBuffer:
    """What is trained on of the data set, on the training device: all of it, or its best (`data.keep_best_fraction`)."""
    settings = make_target_settings(config, reward_scale)
    device = normalizer.mean.device
    buffer = TrajectoryReplayBuffer(normalizer, settings, action_size=config.task.action_size, device=device)
    buffer.extend(dataset.keep_best(config.data.keep_best_fraction))
    return buffer


def pretrain_critic(config: Config, dataset: TrajectoryDataset, tracker: Tracker, checkpoints: CheckpointStore) -> Path:
    """Train twin Q and V on the data (M1, M2); with `critic.bootstrap` policy that is left to `train_actor`.

    Returns:
        The final checkpoint: {"critic", "optimizer", "normalizer", "reward_scale", "config", "step", "random",
        "metrics", "versions"}.
    """
    device = choose_device(config.runtime.device)
    seed_streams(config.seed)
    critic = Critic(config.task.observation_size, config.task.action_size, config.critic).to(device)
    optimizer = CriticOptimizer(critic, config.critic.learning_rate, compiled=config.runtime.compile)
    normalizer = Normalizer.fit(dataset, config.data.min_observation_std).to(device)
    reward_scale = compute_reward_scale(config.task.reward_scaling, dataset.episode_returns)
    buffer = make_offline_buffer(config, dataset, normalizer, reward_scale)
    sampler = make_sampler(config, buffer, 1)
    state = checkpoints.load_latest()
    if state is not None:
        critic.load_state_dict(state["critic"])
        optimizer.load_state_dict(state["optimizer"])
        set_random_state(state["random"], sampler.generator)

    def get_state(step: int) -> State:
        return {
            "critic": critic.state_dict(),
            "optimizer": optimizer.state_dict(),
            "normalizer": normalizer.state_dict(),
            "reward_scale": reward_scale,
            "config": config.to_yaml(),
            "step": step,
            "random": get_random_state(sampler.generator),
        }

    total = config.critic.gradient_steps if config.critic.bootstrap == "value" else 0
    print(
        f"critic: {total:,} gradient steps on {buffer.target_steps:,} transitions, reward scale {reward_scale:.4g}",
        flush=True,
    )
    return run_gradient_steps(
        "critic",
        total,
        state,
        lambda step: vars(optimizer.update(sampler.sample_transitions(config.critic.batch_size))),
        get_state,
        tracker,
        checkpoints,
    )


def calibrate_weighting(config: Config, critic: Critic, sampler: Sampler) -> AdvantageWeighting:
    """Fit the advantage weights to the spread of the advantages in the sampler's buffer (M3), unless they are fixed."""
    actor = config.actor
    if actor.inverse_temperature == 0 or actor.advantage_unit == "reward":
        return AdvantageWeighting(actor.inverse_temperature, actor.max_advantage_weight, 1.0)
    chunks = []
    for _ in range(0, CALIBRATION_STEPS, CALIBRATION_CHUNK):
        chunks.append(critic.compute_advantages(*sampler.sample_steps(CALIBRATION_CHUNK)))
    return calibrate_advantage_weighting(
        torch.cat(chunks), actor.inverse_temperature, actor.max_advantage_weight, actor.min_effective_sample_fraction
    )


class ActorTrainer:
    """State of the actor's training: what is trained, with which optimizers, on which draws."""

    def __init__(self, config: Config, actor_critic: ActorCritic, sampler: Sampler) -> None:
        """Train `actor_critic`'s policy, and its critic too if it has a target policy."""
        self.config, self.actor_critic, self.sampler = config, actor_critic, sampler
        actor, critic = config.actor, config.critic
        self.optimizer = make_policy_optimizer(actor_critic.policy, actor.learning_rate, actor.weight_decay)
        joint = actor_critic.target_policy is not None
        self.critic_optimizer = CriticOptimizer(actor_critic.critic, critic.learning_rate) if joint else None
        compile_policy(actor_critic)
        self.critic_steps = split_critic_steps(critic.gradient_steps, actor.gradient_steps, joint=joint)[1]

    def update(self, step: int) -> Metrics:
        """Gradient step `step` (from 1) of the actor, after its share of the critic's."""
        actor, metrics = self.config.actor, {}
        for _ in range(self.critic_steps[step - 1]):
            assert self.critic_optimizer is not None
            metrics = dict(take_critic_step(self.actor_critic, self.critic_optimizer, self.sampler))
        rate = compute_learning_rate(step, actor.gradient_steps, actor.warmup_steps, actor.learning_rate)
        set_learning_rate(self.optimizer, rate)
        batch = self.sampler.sample_sequences(actor.batch_size, self.config.policy.context_length)
        return {**metrics, **update_policy(self.actor_critic, self.optimizer, batch, actor)}

    def state_dict(self, step: int) -> State:
        """Everything needed to go on after `step`."""
        critic = {"critic_optimizer": self.critic_optimizer.state_dict()} if self.critic_optimizer else {}
        return {
            "actor_critic": self.actor_critic.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **critic,
            "step": step,
            "random": get_random_state(self.sampler.generator),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue where `state` stopped."""
        self.actor_critic.load_progress(state["actor_critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.critic_optimizer:
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        set_random_state(state["random"], self.sampler.generator)


def train_actor(
    config: Config, dataset: TrajectoryDataset, critic_path: Path, tracker: Tracker, checkpoints: CheckpointStore
) -> Path:
    """Train the policy against the frozen critic (M3), or both together (`critic.bootstrap` policy).

    Returns:
        The final checkpoint: {"actor_critic", "optimizer", "step", "random", "metrics", "versions"}, and
        "critic_optimizer" if the critic was trained too.
    """
    device = choose_device(config.runtime.device)
    seed_streams(config.seed + 1)
    source = load_state(critic_path)
    task = config.task
    critic = Critic(task.observation_size, task.action_size, config.critic).to(device)
    critic.load_state_dict(source["critic"])
    critic.requires_grad_(False)
    normalizer = Normalizer(**source["normalizer"]).to(device)
    buffer = make_offline_buffer(config, dataset, normalizer, source["reward_scale"])
    sampler = make_sampler(config, buffer, 2)
    policy = make_policy(task.observation_size, task.action_size, task.horizon, config.policy).to(device)
    weighting = calibrate_weighting(config, critic, sampler)
    actor_critic = ActorCritic(config, policy, critic, normalizer, source["reward_scale"], weighting)
    if config.critic.bootstrap == "policy":
        actor_critic.add_target_policy()
    trainer = ActorTrainer(config, actor_critic, sampler)
    state = checkpoints.load_latest()
    if state is not None:
        trainer.load_state_dict(state)
    total, together = config.actor.gradient_steps, sum(trainer.critic_steps)
    parameters = sum(p.numel() for p in policy.parameters())
    print(
        f"actor: {total:,} gradient steps, {parameters:,} parameters, "
        f"inverse temperature {actor_critic.weighting.inverse_temperature:.4g} per unit of advantage"
        + (f", together with {together:,} of the critic" if together else ""),
        flush=True,
    )
    return run_gradient_steps("actor", total, state, trainer.update, trainer.state_dict, tracker, checkpoints)
