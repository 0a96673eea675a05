"""Offline phase: the policy against the frozen critic, or both together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from vdt.acceleration.convert import make_critic_update
from vdt.acceleration.threads import ThreadTuner, make_thread_tuner
from vdt.agent.actor_critic import ActorCritic, make_buffer_sampler, make_critic, make_policy, make_store
from vdt.agent.initial import load_initial
from vdt.checkpoint.random_state import get_random_state, seed_streams, set_random_state
from vdt.checkpoint.store import CheckpointStore, State, load_state
from vdt.config.layers import config_from_yaml
from vdt.config.schema import Config
from vdt.critic.critic import Critic
from vdt.data.normalization import Normalizer, RewardStatistics
from vdt.data.return_quantiles import compute_return_percentiles
from vdt.data.sampling import CriticSampler, MixedSampler, Sampler
from vdt.data.trajectory import TrajectoryDataset
from vdt.data.trajectory_store import TrajectoryStore
from vdt.policy.losses import AdvantageWeighting, calibrate_advantage_weighting
from vdt.policy.return_embedding import fit_return_embedding
from vdt.serving.model_files import make_model
from vdt.system.machine import choose_device
from vdt.tracking import Tracker
from vdt.training.guidance import describe_test, measure_if_tested, scale_guidance
from vdt.training.joint import spread_critic_steps, take_critic_step
from vdt.training.loop import run_gradient_steps
from vdt.training.score_curve import ScoreCurve, Watch
from vdt.training.update import Metrics, PolicyUpdate, choose_losses, compute_learning_rate, set_learning_rate

logger = logging.getLogger(__name__)

CALIBRATION_STEPS = 50_000  # steps whose advantages set the weights' temperature
CALIBRATION_CHUNK = 10_000


def make_sampler(config: Config, buffer: TrajectoryStore, seed_offset: int) -> Sampler:
    """Make a sampler with a random stream of its own."""
    generator = torch.Generator(device=buffer.device)
    generator.manual_seed(config.seed * 1009 + seed_offset)
    return make_buffer_sampler(config, buffer, generator)


def make_offline_buffer(
    config: Config, dataset: TrajectoryDataset, normalizer: Normalizer, reward_scale: float
) -> TrajectoryStore:
    """Make the store of the training data: all of the data set, or its best (`data.keep_best_fraction`)."""
    return make_store(config, normalizer, reward_scale, dataset.keep_best(config.data.keep_best_fraction))


class Trainer(Protocol):
    """What takes gradient steps and can go back to where it was."""

    config: Config

    def update(self, step: int) -> Metrics:
        """Take gradient step `step` (from 1)."""

    def state_dict(self, step: int) -> State:
        """Return the complete state after `step`."""

    def load_state_dict(self, state: State) -> None:
        """Continue where `state` stopped."""


def tune_threads(name: str, trainer: Trainer, device: torch.device, total: int, tried: int = 1) -> ThreadTuner:
    """Make the tuner of a trainer's steps, `total` of them, which tries step `tried`."""
    if total == 0:
        return ThreadTuner([torch.get_num_threads()], name)
    return make_thread_tuner(
        name,
        lambda: trainer.update(tried),
        lambda: trainer.state_dict(0),
        trainer.load_state_dict,
        runtime=trainer.config.runtime,
        device=device,
    )


def sample_advantages(critic: Critic, sampler: CriticSampler, *, with_target: bool = False) -> Tensor:
    """Compute the advantages of `CALIBRATION_STEPS` steps, drawn as the policy's or `with_target` as the critic's."""
    chunks = range(0, CALIBRATION_STEPS, CALIBRATION_CHUNK)
    drawn = (sampler.sample_steps(CALIBRATION_CHUNK, with_target=with_target) for _ in chunks)
    return torch.cat([critic.compute_advantages(*steps) for steps in drawn])


def calibrate_weighting(
    config: Config, critic: Critic, sampler: Sampler, mixed: MixedSampler | None = None
) -> AdvantageWeighting:
    """Fit the advantage weights to the spread of the advantages (M3), unless they are fixed.

    Floor and mean are those of the buffer that the policy is trained on. So is the unit, the advantages' standard
    deviation, unless the critic is trained on more.

    Args:
        config: of the actor.
        critic: gives the advantages.
        sampler: of the policy's buffer.
        mixed: of the critic's batches, if these are not from that buffer alone; then they give the unit.
    """
    actor = config.actor
    if actor.inverse_temperature == 0 or actor.advantage_unit == "reward":
        return AdvantageWeighting(actor.inverse_temperature, actor.max_advantage_weight, 1.0)
    return calibrate_advantage_weighting(
        sample_advantages(critic, sampler),
        actor.inverse_temperature,
        actor.max_advantage_weight,
        actor.min_effective_sample_fraction,
        reference=None if mixed is None else sample_advantages(critic, mixed, with_target=True),
        scale=actor.advantage_scale,
    )


class ActorTrainer:
    """Trainer of the actor: networks, updates and draws."""

    def __init__(self, config: Config, actor_critic: ActorCritic, sampler: Sampler) -> None:
        """Train `actor_critic`'s policy, and its critic too if both train together."""
        config = scale_guidance(config, actor_critic, online=False)
        self.config, self.actor_critic, self.sampler = config, actor_critic, sampler
        actor, critic = config.actor, config.critic
        self.policy_update = PolicyUpdate(actor_critic, actor, actor.learning_rate)
        joint = config.trains_together
        make = make_critic_update
        self.critic_update = make(actor_critic.critic, critic.learning_rate, config.runtime) if joint else None
        self.critic_steps_before = spread_critic_steps(critic.gradient_steps if joint else 0, actor.gradient_steps)

    @property
    def fullest_step(self) -> int:
        """Return a gradient step after the warm start with the largest share of the critic's: none does more."""
        begin, most = self.config.actor.warm_start_steps, max(self.critic_steps_before, default=0)
        return next(
            (k + 1 for k in range(begin, len(self.critic_steps_before)) if self.critic_steps_before[k] == most), 1
        )

    def update(self, step: int) -> Metrics:
        """Take gradient step `step` (from 1) of the actor, after its share of the critic's."""
        actor, metrics = choose_losses(self.config.actor, step), {}
        for _ in range(self.critic_steps_before[step - 1]):
            assert self.critic_update is not None
            metrics = dict(take_critic_step(self.actor_critic, self.critic_update, self.sampler))
        self.policy_update.config = actor
        schedule = (actor.gradient_steps, actor.warmup_steps, actor.learning_rate, actor.learning_rate_schedule)
        set_learning_rate(self.policy_update.optimizer, compute_learning_rate(step, *schedule))
        batch = self.sampler.sample_sequences(actor.batch_size, self.config.policy.context_length)
        return {**metrics, **self.policy_update(batch)}

    def state_dict(self, step: int) -> State:
        """Return the complete state after `step`."""
        critic = {"critic_optimizer": self.critic_update.state_dict()} if self.critic_update else {}
        return {
            "actor_critic": self.actor_critic.state_dict(),
            "optimizer": self.policy_update.state_dict(),
            **critic,
            "step": step,
            "random": get_random_state(self.sampler.generator),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue where `state` stopped."""
        self.actor_critic.load_progress(state["actor_critic"])
        self.policy_update.load_state_dict(state["optimizer"])
        if self.critic_update:
            self.critic_update.load_state_dict(state["critic_optimizer"])
        set_random_state(state["random"], self.sampler.generator)


def make_actor_trainer(
    config: Config, dataset: TrajectoryDataset, critic_path: Path, initial: Path | None, device: torch.device
) -> ActorTrainer:
    """Make the trainer of the actor at its first step; arguments as of `train_actor`."""
    source = load_state(critic_path)
    critic = make_critic(config, device)
    critic.load_state_dict(source["critic"])
    critic.requires_grad_(False)
    normalizer = Normalizer(**source["normalizer"], clip=config.data.observation_clip).to(device)
    buffer = make_offline_buffer(config, dataset, normalizer, source["reward_scale"])
    sampler = make_sampler(config, buffer, 2)
    policy = make_policy(config, device)
    fit_return_embedding(policy, buffer.find_return_range)
    uniform = AdvantageWeighting(0.0, config.actor.max_advantage_weight, 1.0)
    actor_critic = ActorCritic(config, policy, critic, normalizer, source["reward_scale"], uniform)
    draws = config_from_yaml(source["config"]).data.trajectory_weighting
    actor_critic.critic_draws = draws
    actor_critic.history_correlation = measure_if_tested(config, critic, dataset, source, draws)
    actor_critic.weighting = calibrate_weighting(scale_guidance(config, actor_critic, online=False), critic, sampler)
    actor_critic.reward_statistics = RewardStatistics.fit(dataset, config.task.return_scale)
    actor_critic.return_percentiles = compute_return_percentiles(dataset.episode_returns)
    begun = load_initial(config, initial, device)
    if begun is not None:
        policy.load_state_dict(begun.policy.state_dict())
        actor_critic.gradient_steps = begun.gradient_steps
        actor_critic.reward_statistics = begun.reward_statistics
    if config.critic.bootstrap == "policy":
        target = None if begun is None else begun.target_policy
        actor_critic.add_target_policy(None if target is None else target.state_dict())
    if config.trains_together:
        critic.unfreeze()
    return ActorTrainer(config, actor_critic, sampler)


def train_actor(
    config: Config,
    dataset: TrajectoryDataset,
    critic_path: Path,
    tracker: Tracker,
    checkpoints: CheckpointStore,
    watch: Watch | None = None,
    initial: Path | None = None,
) -> Path:
    """Train the policy against the frozen critic (M3), or both together.

    Args:
        config: resolved configuration.
        dataset: to train on.
        critic_path: final checkpoint of `pretrain_critic`.
        tracker: takes `actor/…`.
        checkpoints: of this step.
        watch: called with each score that is measured on the way.
        initial: file of the policy that `init` names, if it names one; the networks begin as its.

    Returns:
        The final checkpoint: {"actor_critic", "optimizer", "step", "random", "metrics", "versions"}, and
        "critic_optimizer" if the critic was trained too.

    Raises:
        TrainingStopped: if the watcher ends the training.
    """
    device = choose_device(config.runtime.device)
    seed_streams(config.seed + 1)
    trainer = make_actor_trainer(config, dataset, critic_path, initial, device)
    actor_critic, sampler = trainer.actor_critic, trainer.sampler
    state = checkpoints.load_latest()
    if state is not None:
        trainer.load_state_dict(state)
    total, together = config.actor.gradient_steps, sum(trainer.critic_steps_before)
    parameters = sum(p.numel() for p in actor_critic.policy.parameters())
    if described := describe_test(config, actor_critic):
        logger.info(described)
    if actor_critic.history_correlation is not None and state is None:
        tracker.log(0, {"critic/history_correlation": actor_critic.history_correlation})
    logger.info(
        f"actor: {total:,} gradient steps, {parameters:,} parameters, "
        f"inverse temperature {actor_critic.weighting.inverse_temperature:.4g} per unit of advantage"
        + (f", together with {together:,} of the critic" if together else "")
    )
    threads = tune_threads("actor", trainer, device, total, trainer.fullest_step)
    start = state["step"] if state else 0
    curve = ScoreCurve("actor", config, actor_critic, sampler.generator, tracker, start=start, total=total, watch=watch)

    def update(step: int) -> Metrics:
        metrics = threads.run(lambda: trainer.update(step))
        curve.measure(step)
        return metrics

    model = make_model(config, "offline")
    return run_gradient_steps("actor", total, state, update, trainer.state_dict, tracker, checkpoints, model)
