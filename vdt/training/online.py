"""Online phase: roll out, align, store, sample and update."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vdt.acceleration.convert import make_critic_update
from vdt.acceleration.threads import ThreadTuner, make_thread_tuner
from vdt.agent.actor_critic import ActorCritic, make_buffer_sampler
from vdt.agent.agent import Agent, PlannerSettings
from vdt.agent.episodes import run_episodes
from vdt.checkpoint.random_state import get_random_state, seed_streams, set_random_state
from vdt.checkpoint.store import CheckpointStore, State, load_state
from vdt.config.schema import Config
from vdt.data.replay_buffer import TrajectoryReplayBuffer
from vdt.data.sampling import MixedSampler, Sampler
from vdt.data.storage import load_snapshot
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.environments import Environment, make_environment
from vdt.environments.scores import compute_normalized_score, score_episodes
from vdt.serving.model_files import make_model
from vdt.system.machine import choose_device
from vdt.system.progress import Progress
from vdt.tracking import Tracker
from vdt.training.guidance import scale_guidance, with_critic_draws
from vdt.training.joint import spread_critic_steps, take_critic_step
from vdt.training.loop import read_metrics, save_checkpoint
from vdt.training.offline import calibrate_weighting, make_offline_buffer, make_sampler
from vdt.training.score_curve import ScoreCurve
from vdt.training.update import Metrics, PolicyUpdate

BUFFER_LEVELS = {"low": 0.1, "middle": 0.5, "high": 0.9}  # quantiles of the buffer's returns that are tracked
BEST_OVER = 10  # episodes whose mean return decides which policy was best: two or three are too noisy
ROLLOUT_SEED = 100_000_000  # online episodes never share seeds with evaluation


class OnlineTuner:
    """Tuner of the online phase and its two halves: collect and update."""

    def __init__(
        self, config: Config, actor_critic: ActorCritic, sampler: Sampler, mixed: MixedSampler | None = None
    ) -> None:
        """Tune `actor_critic` with the trajectories of the sampler's buffer; `mixed` draws the critic's batches instead."""
        config = scale_guidance(config, actor_critic, online=True)
        self.config, self.actor_critic, self.sampler, self.mixed = config, actor_critic, sampler, mixed
        assert isinstance(sampler.buffer, TrajectoryReplayBuffer)
        self.buffer = sampler.buffer
        online = config.online
        actor_critic.critic.unfreeze()
        self.critic_update = make_critic_update(actor_critic.critic, config.critic.learning_rate, config.runtime)
        self.policy_update = PolicyUpdate(actor_critic, config.actor, online.actor_learning_rate)
        self.environment_steps = 0  # real ones, and those that a simulator imagined (`planner.env_model`)
        self.learnt_steps = 0  # those of them that updates have followed
        self.episodes = 0
        self.best_return: float | None = None  # highest `recent_return` so far
        self.pending_return: float | None = None  # mean return of the episodes that no update has followed yet
        self.environments: list[Environment] = []
        fixed = ThreadTuner([torch.get_num_threads()])
        self.critic_threads, self.policy_threads = fixed, fixed

    def collect(self) -> list[Trajectory]:
        """Roll out the exploring policy for one iteration and store the trajectories."""
        config, online = self.config, self.config.online
        while len(self.environments) < online.episodes_per_iteration:
            self.environments.append(make_environment(config.task))
        agent = Agent(
            self.actor_critic, PlannerSettings.from_config(config, self.actor_critic.return_percentiles), explore=True
        )
        first = ROLLOUT_SEED + config.seed * 1_000_000 + self.episodes
        seeds = range(first, first + online.episodes_per_iteration)
        trajectories = run_episodes(agent, config, self.environments, seeds, "online rollout", online.exploration_noise)
        self.buffer.extend(trajectories)
        self.episodes += len(trajectories)
        self.environment_steps += sum(len(t) for t in trajectories) + agent.imagined_environment_steps
        self.pending_return = float(np.mean([t.episode_return for t in trajectories]))
        return trajectories

    @property
    def recent_return(self) -> float | None:
        """Compute the mean return of the last `BEST_OVER` episodes; none before there are so many, or if so many are not held."""
        if min(self.episodes, len(self.buffer.trajectories)) < BEST_OVER:
            return None
        return float(np.mean([t.episode_return for t in list(self.buffer.trajectories)[-BEST_OVER:]]))

    def note_if_best(self) -> bool:
        """Keep the policy's return, before it learns from its last episodes, if it is the best so far; return whether it is."""
        recent = self.recent_return
        if recent is None or (self.best_return is not None and recent <= self.best_return):
            return False
        self.best_return = recent
        return True

    def update(self) -> dict[str, Tensor]:
        """Take the gradient steps of one iteration in the order of `critic.order`, after a calibration of the weights."""
        config, online = self.config, self.config.online
        metrics: dict[str, Tensor] = {}
        critic_steps, actor_steps = online.critic_steps_per_iteration, online.actor_steps_per_iteration
        first = 0 if config.trains_together and actor_steps > 0 else critic_steps
        for _ in range(first):
            metrics.update(self.critic_threads.run(self.take_critic_step))
        self.actor_critic.weighting = calibrate_weighting(config, self.actor_critic.critic, self.sampler, self.mixed)
        for count in spread_critic_steps(critic_steps - first, actor_steps):
            for _ in range(count):
                metrics.update(self.critic_threads.run(self.take_critic_step))
            metrics.update(self.policy_threads.run(self.take_policy_step))
        self.pending_return, self.learnt_steps = None, self.environment_steps
        return metrics

    def take_critic_step(self) -> Metrics:
        """Take one step of the critic."""
        return take_critic_step(self.actor_critic, self.critic_update, self.mixed or self.sampler)

    def take_policy_step(self) -> Metrics:
        """Take one step of the policy."""
        config = self.config
        return self.policy_update(self.sampler.sample_sequences(config.actor.batch_size, config.policy.context_length))

    def tune_threads(self, device: torch.device) -> None:
        """Tune the threads of critic and policy steps."""
        self.critic_threads, self.policy_threads = (
            make_thread_tuner(
                name, step, self.save_training, self.restore_training, runtime=self.config.runtime, device=device
            )
            for name, step in (("online critic", self.take_critic_step), ("online actor", self.take_policy_step))
        )

    def save_training(self) -> State:
        """Return the state that gradient steps change."""
        return {
            "actor_critic": self.actor_critic.state_dict(),
            "critic_optimizer": self.critic_update.state_dict(),
            "policy_optimizer": self.policy_update.state_dict(),
            "random": get_random_state(self.sampler.generator),
        }

    def restore_training(self, state: State) -> None:
        """Restore the state that `save_training` returned."""
        self.actor_critic.load_progress(state["actor_critic"])
        self.actor_critic.critic.load_state_dict(state["actor_critic"]["critic"])
        self.critic_update.load_state_dict(state["critic_optimizer"])
        self.policy_update.load_state_dict(state["policy_optimizer"])
        set_random_state(state["random"], self.sampler.generator)

    def state_dict(self) -> State:
        """Return the complete state, the buffer included."""
        held = TrajectoryDataset.from_trajectories(self.buffer.trajectories)
        return {
            **self.save_training(),
            "buffer": {name: torch.from_numpy(np.asarray(array)) for name, array in held.get_arrays().items()},
            "environment_steps": self.environment_steps,
            "learnt_steps": self.learnt_steps,
            "episodes": self.episodes,
            "best_return": self.best_return,
            "pending_return": self.pending_return,
            "step": self.environment_steps,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue where `state` stopped; the buffer is the caller's, made of what `state` holds."""
        self.restore_training(state)
        self.environment_steps, self.episodes = state["environment_steps"], state["episodes"]
        # Checkpoints of release 0.2.0 lack the key.
        self.learnt_steps = state.get("learnt_steps", self.environment_steps)
        self.best_return, self.pending_return = state["best_return"], state["pending_return"]


def make_mixed_sampler(
    config: Config, actor_critic: ActorCritic, sampler: Sampler, dataset: TrajectoryDataset
) -> MixedSampler | None:
    """Make the sampler of the critic's batches; none where they all come from `sampler`, or there are no critic steps.

    The buffer's best episodes hold no failures, and a critic that goes on without any forgets them. So a share of each
    batch is drawn from all that the policy was trained on offline (RLPD, Ball et al., 2023).
    """
    online = scale_guidance(config, actor_critic, online=True).online
    if online.offline_share == 0 or online.critic_steps_per_iteration == 0:
        return None
    buffer = make_offline_buffer(config, dataset, actor_critic.normalizer, actor_critic.reward_scale)
    offline = make_buffer_sampler(config, buffer, sampler.generator)
    return MixedSampler(sampler, offline, online.offline_share)


def make_tuner(
    config: Config, agent_path: Path, buffer_path: Path, dataset: TrajectoryDataset, state: State | None
) -> OnlineTuner:
    """Make a tuner at the start of the online phase, or at `state`."""
    device = choose_device(config.runtime.device)
    seed_streams(config.seed + 2)
    actor_critic = ActorCritic.from_state((state or load_state(agent_path))["actor_critic"], device)
    actor_critic.config = config  # the actor may be another cell's, which differs in what comes after its training
    if state is None:
        held = load_snapshot(buffer_path)
    else:
        held = TrajectoryDataset(**{name: tensor.numpy() for name, tensor in state["buffer"].items()})
    buffer = actor_critic.make_buffer(held, capacity=config.online.buffer_trajectories)
    drawn = with_critic_draws(config, actor_critic.critic_draws or config.data.trajectory_weighting)
    sampler = make_sampler(drawn, buffer, 3)
    tuner = OnlineTuner(config, actor_critic, sampler, make_mixed_sampler(drawn, actor_critic, sampler, dataset))
    if state is not None:
        tuner.load_state_dict(state)
    tuner.tune_threads(device)
    return tuner


def describe_episodes(config: Config, buffer: TrajectoryReplayBuffer, mean_return: float) -> dict[str, float]:
    """Return the metrics of an iteration's episodes, the buffer's newest, and of the returns that the buffer holds.

    Args:
        config: of the cell.
        buffer: that the online phase trains on.
        mean_return: of the newest episodes.
    """
    task, values = config.task, {"online/episode_return": mean_return}
    newest = list(buffer.trajectories)[-config.online.episodes_per_iteration :]
    if None not in score_episodes(newest, config):  # a mean over episodes that were cut short is no score
        score = compute_normalized_score(mean_return, task.reference_return_min, task.reference_return_max)
        values["online/normalized_score"] = score
    held = [t.episode_return for t in buffer.trajectories]
    levels = {f"online/buffer_return_{name}": float(np.quantile(held, level)) for name, level in BUFFER_LEVELS.items()}
    return {**values, "online/buffer_return": float(np.mean(held)), **levels}


def tune_online(
    config: Config,
    agent_path: Path,
    buffer_path: Path,
    dataset: TrajectoryDataset,
    tracker: Tracker,
    checkpoints: CheckpointStore,
) -> Path:
    """Improve policy and critic with real interaction until the budget of environment steps is used.

    Args:
        config: resolved configuration; `online.environment_steps` 0 leaves the policy as it is.
        agent_path: final checkpoint of `train_actor`.
        buffer_path: file of `seed_buffer`.
        dataset: the offline data, of which a share of the critic's batches is drawn (`online.offline_share`).
        tracker: takes `online/…` on the environment-step axis.
        checkpoints: of this step.

    Returns:
        The final checkpoint; its "actor_critic" is the tuned agent.
    """
    state = checkpoints.load_latest()
    tuner = make_tuner(config, agent_path, buffer_path, dataset, state)
    budget = config.online.environment_steps
    start, began = tuner.environment_steps, time.monotonic()
    progress = Progress("online", start, budget, "environment step")
    values: dict[str, float] = state["metrics"] if state else {}
    generator = tuner.sampler.generator
    curve = ScoreCurve("online", config, tuner.actor_critic, generator, tracker, start=tuner.learnt_steps, total=budget)

    def save_best() -> None:
        state, step = tuner.state_dict(), tuner.environment_steps
        save_checkpoint("online-best", step, state, values, tracker, checkpoints, score=tuner.best_return)

    recorded = tuner.best_return is None or checkpoints.has_best(tuner.best_return)
    if tuner.pending_return is not None and not recorded:  # the run was killed between the file and its record
        save_best()
    while tuner.pending_return is not None or tuner.environment_steps < budget:
        if tuner.pending_return is None:
            tuner.collect()
            if tuner.note_if_best():  # at once: the policy must be the one of these episodes
                save_best()
        assert tuner.pending_return is not None
        mean_return, step = tuner.pending_return, tuner.environment_steps
        values = read_metrics("online", step, tuner.update(), checkpoints, "environment step")
        values |= describe_episodes(config, tuner.buffer, mean_return)
        tracker.log(step, values)
        curve.measure(step)
        if checkpoints.is_due(step) and step < budget:
            save_checkpoint("online", step, tuner.state_dict(), values, tracker, checkpoints)
        shown = {k.split("/")[1]: v for k, v in values.items() if "score" in k or k.endswith("q_loss")}
        progress.report(step, shown)
    step = tuner.environment_steps
    tracker.log_rate("online", step, step - start, time.monotonic() - began)
    state, model = tuner.state_dict(), make_model(config, "online")
    return save_checkpoint("online", step, state, values, tracker, checkpoints, final=True, model=model)
