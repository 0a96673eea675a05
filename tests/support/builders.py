"""Small real components, and comparisons, for several test files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.environments import COUNTDOWN
from vdt.acceleration.acting import FrozenDecisionTransformer
from vdt.agent.actor_critic import ActorCritic, make_critic, make_policy
from vdt.checkpoint.store import CheckpointStore
from vdt.config.schema import Config
from vdt.data.normalization import Normalizer
from vdt.data.replay_buffer import TrajectoryReplayBuffer
from vdt.data.sampling import Sampler
from vdt.data.targets import TargetSettings
from vdt.data.trajectory import FloatArray, Trajectory, TrajectoryDataset
from vdt.experiments.resolve import resolve_config
from vdt.policy.losses import AdvantageWeighting
from vdt.tracking import LoadableModel, NullTracker

SETTINGS = TargetSettings(discount=0.9, n_step=3, reward_scale=1.0, reward_shift=0.0, return_scale=1.0)
TINY: dict[str, Any] = {  # all settings that a tiny run depends on, so that presets may change
    "task.environment_id": COUNTDOWN,
    "task.observation_size": 2,
    "task.action_size": 1,
    "task.horizon": 8,
    "task.return_scale": 10.0,
    "task.reward_scaling": "none",
    "task.reward_shift": 0.0,
    "task.candidate_returns": [12, 6, 3],
    "task.reference_return_min": 0.0,
    "task.reference_return_max": 10.0,
    "data.trajectory_weighting": "length",
    "critic.gradient_steps": 30,
    "critic.second_weighting": "none",
    "critic.window_steps": 1,
    "critic.batch_size": 32,
    "critic.hidden_size": 16,
    "critic.hidden_layers": 2,
    "critic.discount": 0.9,
    "critic.n_step": 3,
    "critic.learning_rate": 0.003,
    "critic.expectile": 0.7,
    "policy.context_length": 4,
    "policy.embedding_size": 16,
    "policy.layers": 1,
    "policy.heads": 2,
    "policy.dropout": 0.1,
    "actor.gradient_steps": 30,
    "actor.trajectory_weighting": "same",
    "actor.start_fraction": 0,
    "actor.guidance_scaling": "constant",
    "actor.batch_size": 16,
    "actor.learning_rate": 0.001,
    "actor.warmup_steps": 5,
    "planner.candidates": 3,
    "planner.planning_horizon": 2,
    "planner.env_model": "learned",
    "planner.forget_steps": 1,
    "evaluation.curve_points": 0,
    "online.environment_steps": 60,
    "online.episodes_per_iteration": 2,
    "online.buffer_trajectories": 12,
    "online.critic_steps_per_iteration": 3,
    "online.actor_steps_per_iteration": 2,
    "evaluation.episodes": 4,
    "evaluation.seed": 1000,
    "evaluation.max_episode_steps": 0,
    "evaluation.lookahead_horizon": 3,
    "checkpoint.interval_steps": 1000000,
    "runtime.device": "cpu",
}


def make_config(settings: Mapping[str, Any] | None = None, *, method: str = "vdt", seed: int = 0) -> Config:
    """Make a configuration small enough for seconds; `settings` are dotted keys."""
    merged = {
        **{key: value for key, value in TINY.items() if method == "vdt" or key in _METHOD_FREE},
        **(settings or {}),
    }
    text = " ".join(f"{key}='{value}'" for key, value in merged.items())
    return resolve_config("walker2d-medium-v2", preset="smoke", method=method, seed=seed, overrides=text)


_METHODS_OWN = (
    "planner.",
    "online.",
    "critic.gradient_steps",
    "critic.n_step",
    "critic.expectile",
    "policy.dropout",
    "evaluation.look",
)
_METHOD_FREE = [key for key in TINY if not key.startswith(_METHODS_OWN)]


def make_trajectory(
    steps: int, *, terminated: bool = False, seed: int = 0, observation_size: int = 2, action_size: int = 1
) -> Trajectory:
    """Make an episode of random numbers, of the given shape."""
    rng = np.random.default_rng([seed, steps])
    return Trajectory(
        rng.normal(size=(steps + 1, observation_size)).astype(np.float32) * 3 + 1,
        rng.uniform(-1, 1, (steps, action_size)).astype(np.float32),
        rng.normal(size=steps).astype(np.float32),
        terminated,
    )


def make_dataset(lengths: Sequence[int] = (5, 1, 7, 3, 6, 2), *, action_size: int = 1) -> TrajectoryDataset:
    """Make random episodes; every second one terminates."""
    return TrajectoryDataset.from_trajectories(
        make_trajectory(n, terminated=bool(i % 2), seed=i, action_size=action_size) for i, n in enumerate(lengths)
    )


def make_buffer(
    dataset: TrajectoryDataset, settings: TargetSettings = SETTINGS, capacity: int | None = None
) -> TrajectoryReplayBuffer:
    """Make a buffer with the data set's own normaliser."""
    buffer = TrajectoryReplayBuffer(
        Normalizer.fit(dataset), settings, action_size=dataset.action_size, capacity=capacity
    )
    buffer.extend(dataset)
    return buffer


def make_tiny_sampler(buffer: TrajectoryReplayBuffer, weighting: str = "length", seed: int = 0) -> Sampler:
    return Sampler(buffer, weighting, torch.Generator().manual_seed(seed))


def make_actor_critic(
    config: Config, dataset: TrajectoryDataset, weighting: AdvantageWeighting | None = None
) -> ActorCritic:
    """Make untrained networks with the configuration's sizes, the critic frozen as in the offline phase."""
    torch.manual_seed(config.seed)
    critic = make_critic(config, torch.device("cpu")).requires_grad_(False)
    for parameter in critic.target_q.parameters():  # targets that differ from Q, as in the middle of training
        parameter.add_(0.1 * torch.randn_like(parameter))
    policy = make_policy(config, torch.device("cpu"))
    chosen = weighting or AdvantageWeighting(1.0, 100.0, 1.0)
    return ActorCritic(config, policy, critic, Normalizer.fit(dataset), 1.0, chosen)


def make_store(
    folder: Path, *ancestors: Path, every: int = 1_000_000, facts: Mapping[str, Any] | None = None
) -> CheckpointStore:
    """Make a store that saves checkpoints every `every` steps, never by time."""
    return CheckpointStore(folder, ancestors, interval_seconds=1e9, interval_steps=every, keep=3, facts=facts)


class Interrupted(Exception):
    """Exception in place of a kill."""


class InterruptingTracker(NullTracker):
    """Tracker that raises at the first metrics at or after a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self.at:
            raise Interrupted


class RecordingTracker(NullTracker):
    """Tracker that keeps its records."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.checkpoints: list[tuple[str, Path, int, dict[str, float]]] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_checkpoint(
        self, name: str, path: Path, step: int, metrics: Mapping[str, float], model: LoadableModel | None = None
    ) -> None:
        self.checkpoints.append((name, path, step, dict(metrics)))

    def log_evaluation(
        self,
        name: str,
        path: Path,
        step: int,
        metrics: Mapping[str, float],
        model: LoadableModel | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.log(step, metrics)
        self.checkpoints.append((name, path, step, dict(metrics)))


class LinearActor:
    """Real actor of one line: a = gain * (last observation), without memory."""

    def __init__(self, gain: float = 0.3) -> None:
        self.gain = gain
        self.batch_sizes: list[int] = []

    def start(self, environments: Sequence[Any]) -> None:
        self.batch_sizes = []

    def act(self, observations: FloatArray) -> FloatArray:
        self.batch_sizes.append(len(observations))
        return (self.gain * observations[:, -1:]).astype(np.float32)

    def observe(self, actions: FloatArray, rewards: FloatArray, active: Any) -> None:
        pass


def record_acting(patch: pytest.MonkeyPatch, name: str) -> list[tuple[torch.Tensor, ...]]:
    """Return a list that receives the inputs of every later call of a layer of the acting policies."""
    calls: list[tuple[torch.Tensor, ...]] = []
    make = FrozenDecisionTransformer.__init__

    def watch(self: FrozenDecisionTransformer, policy: Any) -> None:
        make(self, policy)
        layer = getattr(self, name)
        setattr(self, name, lambda *inputs: [calls.append(tuple(t.clone() for t in inputs)), layer(*inputs)][1])

    patch.setattr(FrozenDecisionTransformer, "__init__", watch)
    return calls


def clone_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_identical(first: Any, second: Any, where: str = "") -> None:
    """Assert bit for bit equality of nested states."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            assert_identical(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_identical(a, b, f"{where}[{i}]")
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def make_lively_actor_critic(settings: dict[str, Any] | None = None) -> ActorCritic:
    """Make networks whose outputs differ clearly, and a normaliser with a visible effect."""
    config = make_config(settings)
    size = config.task.observation_size
    dataset = TrajectoryDataset.from_trajectories(
        [make_trajectory(20, seed=s, observation_size=size) for s in range(3)]
    )
    actor_critic = make_actor_critic(config, dataset)
    for parameter in [*actor_critic.policy.parameters(), *actor_critic.critic.target_q.parameters()]:
        parameter.data += 0.3 * torch.randn_like(parameter)
    return actor_critic
