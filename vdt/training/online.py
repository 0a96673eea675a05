"""The online phase: roll out, align, store, sample and update."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vdt.acceleration.critic_update import CriticOptimizer
from vdt.agent.agent import ActorCritic, Agent, PlannerSettings
from vdt.checkpoint.random_state import get_random_state, seed_streams, set_random_state
from vdt.checkpoint.store import CheckpointStore, State, load_state
from vdt.config.schema import Config
from vdt.data.replay_buffer import TrajectoryReplayBuffer
from vdt.data.sampling import Sampler
from vdt.data.storage import load_snapshot
from vdt.data.trajectory import Trajectory, TrajectoryDataset
from vdt.environments import Environment, make_environment
from vdt.environments.rollout import collect_trajectories
from vdt.environments.scores import compute_normalized_score, score_episodes
from vdt.system.machine import choose_device
from vdt.system.progress import Progress
from vdt.tracking import Tracker
from vdt.training.joint import split_critic_steps, take_critic_step
from vdt.training.loop import read_metrics, save_checkpoint
from vdt.training.offline import calibrate_weighting, make_sampler, make_target_settings
from vdt.training.update import compile_policy, make_policy_optimizer, update_policy

BUFFER_LEVELS = {"low": 0.1, "middle": 0.5, "high": 0.9}  # quantiles of the buffer's returns that are tracked
BEST_OVER = 10  # episodes whose mean return says which policy was best: two or three are luck
ROLLOUT_SEED = 100_000_000  # online episodes never share seeds with evaluation


class OnlineTuner:
    """State of the online phase and its two halves: collect and update."""

    def __init__(
        self, config: Config, actor_critic: ActorCritic, buffer: TrajectoryReplayBuffer, sampler: Sampler
    ) -> None:
        """Tune `actor_critic` with what `buffer` holds."""
        self.config, self.actor_critic, self.buffer, self.sampler = config, actor_critic, buffer, sampler
        online = config.online
        actor_critic.critic.unfreeze()
        self.critic_optimizer = CriticOptimizer(
            actor_critic.critic, config.critic.learning_rate, compiled=config.runtime.compile
        )
        compile_policy(actor_critic)
        self.policy_optimizer = make_policy_optimizer(
            actor_critic.policy, online.actor_learning_rate, config.actor.weight_decay
        )
        self.environment_steps = 0
        self.episodes = 0
        self.best_return: float | None = None  # highest `recent_return` so far
        self.unlearnt: float | None = None  # mean return of the episodes that no update has followed yet
        self.environments: list[Environment] = []

    def collect(self) -> list[Trajectory]:
        """Roll out the exploring policy for one iteration and store what it did."""
        config, online = self.config, self.config.online
        while len(self.environments) < online.episodes_per_iteration:
            self.environments.append(make_environment(config.task))
        agent = Agent(self.actor_critic, PlannerSettings.from_config(config), explore=True)
        first = ROLLOUT_SEED + config.seed * 1_000_000 + self.episodes
        trajectories = collect_trajectories(
            agent,
            self.environments,
            range(first, first + online.episodes_per_iteration),
            noise=online.exploration_noise,
            max_steps=config.evaluation.max_episode_steps or None,
            label="online rollout",
        )
        self.buffer.extend(trajectories)
        self.episodes += len(trajectories)
        self.environment_steps += sum(len(t) for t in trajectories) + agent.imagined_environment_steps
        self.unlearnt = float(np.mean([t.episode_return for t in trajectories]))
        return trajectories

    @property
    def recent_return(self) -> float | None:
        """Mean return of the last `BEST_OVER` episodes; none before there are so many."""
        if self.episodes < BEST_OVER:
            return None
        return float(np.mean([t.episode_return for t in list(self.buffer.trajectories)[-BEST_OVER:]]))

    def note_best(self) -> bool:
        """Whether the policy as it is, before it learns from its last episodes, is the best so far."""
        recent = self.recent_return
        if recent is None or (self.best_return is not None and recent <= self.best_return):
            return False
        self.best_return = recent
        return True

    def update(self) -> dict[str, Tensor]:
        """The gradient steps of one iteration: critic, then the weights' calibration, then the policy."""
        config, online = self.config, self.config.online
        metrics: dict[str, Tensor] = {}
        joint = self.actor_critic.target_policy is not None
        before, between = split_critic_steps(
            online.critic_steps_per_iteration, online.actor_steps_per_iteration, joint=joint
        )
        for _ in range(before):
            metrics.update(take_critic_step(self.actor_critic, self.critic_optimizer, self.sampler))
        self.actor_critic.weighting = calibrate_weighting(config, self.actor_critic.critic, self.sampler)
        for count in between:
            for _ in range(count):
                metrics.update(take_critic_step(self.actor_critic, self.critic_optimizer, self.sampler))
            sequences = self.sampler.sample_sequences(config.actor.batch_size, config.policy.context_length)
            metrics.update(update_policy(self.actor_critic, self.policy_optimizer, sequences, config.actor))
        self.unlearnt = None
        return metrics

    def state_dict(self) -> State:
        """Everything needed to go on, the buffer included."""
        held = TrajectoryDataset.from_trajectories(self.buffer.trajectories)
        return {
            "actor_critic": self.actor_critic.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "buffer": {name: torch.from_numpy(np.asarray(array)) for name, array in held.get_arrays().items()},
            "environment_steps": self.environment_steps,
            "episodes": self.episodes,
            "best_return": self.best_return,
            "unlearnt": self.unlearnt,
            "step": self.environment_steps,
            "random": get_random_state(self.sampler.generator),
        }

    def load_optimizers_and_counters(self, state: State) -> None:
        """Continue where `state` stopped; networks and buffer were restored by the caller."""
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.environment_steps, self.episodes = state["environment_steps"], state["episodes"]
        self.best_return, self.unlearnt = state["best_return"], state["unlearnt"]
        set_random_state(state["random"], self.sampler.generator)


def make_tuner(config: Config, agent_path: Path, buffer_path: Path, state: State | None) -> OnlineTuner:
    """A tuner at the start of the online phase, or where `state` left it."""
    device = choose_device(config.runtime.device)
    seed_streams(config.seed + 2)
    actor_critic = ActorCritic.from_state((state or load_state(agent_path))["actor_critic"], device)
    if state is None:
        held = load_snapshot(buffer_path)
    else:
        held = TrajectoryDataset(**{name: tensor.numpy() for name, tensor in state["buffer"].items()})
    buffer = TrajectoryReplayBuffer(
        actor_critic.normalizer,
        make_target_settings(config, actor_critic.reward_scale),
        action_size=config.task.action_size,
        capacity=config.online.buffer_trajectories,
        device=device,
    )
    buffer.extend(held)
    sampler = make_sampler(config, buffer, 3)
    tuner = OnlineTuner(config, actor_critic, buffer, sampler)
    if state is not None:
        tuner.load_optimizers_and_counters(state)
    return tuner


def tune_online(
    config: Config, agent_path: Path, buffer_path: Path, tracker: Tracker, checkpoints: CheckpointStore
) -> Path:
    """Improve policy and critic with real interaction until the budget of environment steps is used.

    Args:
        config: resolved configuration; `online.environment_steps` 0 leaves the policy as it is.
        agent_path: final checkpoint of `train_actor`.
        buffer_path: what `seed_buffer` wrote.
        tracker: takes `online/…` on the environment-step axis.
        checkpoints: of this step.

    Returns:
        The final checkpoint; its "actor_critic" is the tuned agent.
    """
    state = checkpoints.load_latest()
    tuner = make_tuner(config, agent_path, buffer_path, state)
    budget, task = config.online.environment_steps, config.task
    progress = Progress("online", tuner.environment_steps, budget, "environment step")
    values: dict[str, float] = state["metrics"] if state else {}
    while tuner.unlearnt is not None or tuner.environment_steps < budget:
        if tuner.unlearnt is None:
            tuner.collect()
            step = tuner.environment_steps
            if tuner.note_best() and step < budget:  # at once: it must be the policy that did it
                state = tuner.state_dict()
                save_checkpoint("online-best", step, state, values, tracker, checkpoints, score=tuner.best_return)
        assert tuner.unlearnt is not None
        mean_return, step = tuner.unlearnt, tuner.environment_steps
        values = read_metrics("online", step, tuner.update(), checkpoints, "environment step")
        values["online/episode_return"] = mean_return
        newest = list(tuner.buffer.trajectories)[-config.online.episodes_per_iteration :]
        if None not in score_episodes(newest, config):  # a mean over episodes that were cut short is no score
            score = compute_normalized_score(mean_return, task.reference_return_min, task.reference_return_max)
            values["online/normalized_score"] = score
        held = [t.episode_return for t in tuner.buffer.trajectories]
        values["online/buffer_return"] = float(np.mean(held))
        for name, level in BUFFER_LEVELS.items():
            values[f"online/buffer_return_{name}"] = float(np.quantile(held, level))
        tracker.log(step, values)
        if checkpoints.due(step) and step < budget:
            save_checkpoint("online", step, tuner.state_dict(), values, tracker, checkpoints)
        shown = {k.split("/")[1]: v for k, v in values.items() if "score" in k or k.endswith("q_loss")}
        progress.report(step, shown)
    step, last = tuner.environment_steps, tuner.recent_return
    return save_checkpoint("online", step, tuner.state_dict(), values, tracker, checkpoints, final=True, score=last)
