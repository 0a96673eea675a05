"""First phase: twin Q and V alone, and a second pair where the first fails its test."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from vdt.acceleration.convert import make_critic_update
from vdt.agent.actor_critic import make_critic
from vdt.agent.initial import DIGEST_DIGITS, load_initial
from vdt.checkpoint.random_state import get_random_state, seed_streams, set_random_state
from vdt.checkpoint.store import CheckpointStore, State, load_state
from vdt.config.schema import Config
from vdt.critic.critic import Critic
from vdt.data.normalization import Normalizer
from vdt.data.reward_scale import compute_reward_scale
from vdt.data.sampling import Sampler
from vdt.data.trajectory import TrajectoryDataset
from vdt.system.machine import choose_device
from vdt.tracking import Tracker
from vdt.training.guidance import choose_critic_draws, passes_test, with_critic_draws
from vdt.training.loop import run_gradient_steps
from vdt.training.offline import make_offline_buffer, make_sampler, tune_threads
from vdt.training.update import Metrics

logger = logging.getLogger(__name__)


class CriticTrainer:
    """Trainer of the critic: network, update and draws."""

    def __init__(self, config: Config, critic: Critic, sampler: Sampler) -> None:
        """Train `critic` on batches of `sampler`."""
        self.config, self.critic, self.sampler = config, critic, sampler
        self.critic_update = make_critic_update(critic, config.critic.learning_rate, config.runtime)

    def update(self, step: int) -> Metrics:
        """Take gradient step `step` (from 1)."""
        return vars(self.critic_update.update(self.sampler.sample_transitions(self.config.critic.batch_size)))

    def state_dict(self, step: int) -> State:
        """Return the complete state after `step`."""
        return {
            "critic": self.critic.state_dict(),
            "optimizer": self.critic_update.state_dict(),
            "step": step,
            "random": get_random_state(self.sampler.generator),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue where `state` stopped."""
        self.critic.load_state_dict(state["critic"])
        self.critic_update.load_state_dict(state["optimizer"])
        set_random_state(state["random"], self.sampler.generator)


def pretrain_critic(
    config: Config,
    dataset: TrajectoryDataset,
    tracker: Tracker,
    checkpoints: CheckpointStore,
    initial: Path | None = None,
) -> Path:
    """Train twin Q and V on the data (M1, M2); if both train together, this is left to `train_actor`.

    Where the critic fails its test, another is trained with other draws (`critic.second_weighting`). Its steps are counted on.

    Args:
        config: resolved configuration.
        dataset: to train on.
        tracker: takes `critic/…`.
        checkpoints: of this step.
        initial: file of the policy that `init` names, if it names one. Critic, normaliser and reward scale are its.

    Returns:
        The final checkpoint: {"critic", "optimizer", "normalizer", "reward_scale", "config", "step", "random",
        "metrics", "versions", "weighting_place"}.
    """
    device = choose_device(config.runtime.device)
    seed_streams(config.seed)
    untrained = make_critic(config, device)
    begun = load_initial(config, initial, device)
    if begun is None:
        normalizer = Normalizer.fit(dataset, config.data.min_observation_std, config.data.observation_clip).to(device)
        reward_scale = compute_reward_scale(config.task.reward_scaling, dataset.episode_returns)
    else:
        logger.info(f"critic: begins from {config.init.policy} (sha256 {config.init.sha256[:DIGEST_DIGITS]})")
        untrained.load_state_dict(begun.critic.state_dict())
        normalizer, reward_scale = begun.normalizer, begun.reward_scale
        if config.critic.gradient_steps == 0 and begun.critic_draws:  # tested on the draws that made it
            config = with_critic_draws(config, begun.critic_draws)
    buffer = make_offline_buffer(config, dataset, normalizer, reward_scale)
    state = checkpoints.load_latest()
    attempt = state.get("weighting_place", 0) if state else 0  # 0, or 1 where the first critic failed its test
    while True:
        drawn, another = choose_critic_draws(config, attempt)
        trainer = CriticTrainer(drawn, copy.deepcopy(untrained), make_sampler(drawn, buffer, 1))
        if state is not None and state.get("weighting_place", 0) == attempt:
            trainer.load_state_dict(state)
        constants = {"normalizer": normalizer.state_dict(), "reward_scale": reward_scale, "config": drawn.to_yaml()}
        path, done = train_critic(
            trainer, dataset, state, {**constants, "weighting_place": attempt}, another, tracker, checkpoints
        )
        if done:
            return path
        state, attempt = load_state(path), attempt + 1


def train_critic(
    trainer: CriticTrainer,
    dataset: TrajectoryDataset,
    state: State | None,
    constants: State,
    another: bool,
    tracker: Tracker,
    checkpoints: CheckpointStore,
) -> tuple[Path, bool]:
    """Train one critic, whose steps follow those of `state`.

    Args:
        trainer: of the critic, at its step.
        dataset: to train on, and to test the critic on.
        state: the checkpoint that is continued, of this critic or of the one before it; or none.
        constants: constants of the critic, kept in its checkpoints.
        another: whether another critic follows if this one fails its test.
        tracker: takes `critic/…`.
        checkpoints: of this step.

    Returns:
        The last checkpoint, and whether it is the step's final one.
    """
    config, buffer, attempt = trainer.config, trainer.sampler.buffer, constants["weighting_place"]
    steps = 0 if config.trains_together else config.critic.gradient_steps
    reason = f", episodes drawn by {config.data.trajectory_weighting}: the critic before failed its test"
    logger.info(
        f"critic: {steps:,} gradient steps on {buffer.target_steps:,} transitions, reward scale "
        f"{constants['reward_scale']:.4g}{reason if attempt else ''}"
    )
    threads, done = tune_threads("critic", trainer, buffer.device, steps), False

    def decide() -> bool:
        nonlocal done
        done = not another or passes_test(config, trainer.critic, dataset, constants)
        return done

    path = run_gradient_steps(
        "critic",
        steps * (attempt + 1),
        state,
        lambda step: threads.run(lambda: trainer.update(step)),
        lambda step: {**trainer.state_dict(step), **constants},
        tracker,
        checkpoints,
        is_done=decide,
    )
    return path, done
