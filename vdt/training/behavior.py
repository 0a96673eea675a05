"""Trains the behaviour policies of the built-in data source with stable-baselines3 (extra `[behavior]`)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from vdt.data.behavior_policy import BehaviorLadder, BehaviorPolicy

REPORT_EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class BehaviorTraining:
    """Settings of one PPO run (a file of `params/behavior/`).

    Attributes:
        environment_id: Gymnasium id.
        seed: seeds environments, network and sampling.
        environment_steps: total steps of the run.
        snapshot_every: environment steps between two snapshots.
        parallel_environments: environments stepped together.
        rollout_steps: steps per environment between two PPO updates.
        batch_size: PPO minibatch.
        epochs: passes over each rollout.
        learning_rate: Adam's, constant.
        initial_log_std: log of the action noise at the start.
        hidden_sizes: widths of policy and value networks.
    """

    environment_id: str
    seed: int = 0
    environment_steps: int = 2_000_000
    snapshot_every: int = 100_000
    parallel_environments: int = 8
    rollout_steps: int = 256
    batch_size: int = 64
    epochs: int = 10
    learning_rate: float = 2.5e-4
    initial_log_std: float = -1.0
    hidden_sizes: tuple[int, ...] = (64, 64)


def _snapshot(model: Any, normalizer: Any) -> BehaviorPolicy:
    """Copy PPO's policy network and observation statistics into NumPy."""
    layers = [m for m in model.policy.mlp_extractor.policy_net if hasattr(m, "weight")] + [model.policy.action_net]
    arrays = [(m.weight.detach().numpy().T.copy(), m.bias.detach().numpy().copy()) for m in layers]
    statistics = normalizer.obs_rms
    return BehaviorPolicy(
        weights=tuple(weight for weight, _ in arrays),
        biases=tuple(bias for _, bias in arrays),
        log_std=model.policy.log_std.detach().numpy().copy(),
        observation_mean=statistics.mean.astype(np.float32),
        observation_std=np.sqrt(statistics.var + normalizer.epsilon).astype(np.float32),
    )


def train_behavior_ladder(settings: BehaviorTraining) -> BehaviorLadder:
    """Train PPO and keep a snapshot of the policy every `snapshot_every` steps.

    Returns:
        All snapshots in training order; the first is the untrained network. `episode_returns` is the mean return of
        the last 100 training episodes at that moment (stochastic policy, true rewards).
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    environments = make_vec_env(settings.environment_id, settings.parallel_environments, seed=settings.seed)
    normalizer = VecNormalize(environments)
    model = PPO(
        "MlpPolicy",
        normalizer,
        seed=settings.seed,
        n_steps=settings.rollout_steps,
        batch_size=settings.batch_size,
        n_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        device="cpu",
        policy_kwargs={"log_std_init": settings.initial_log_std, "net_arch": list(settings.hidden_sizes)},
    )
    taken: list[tuple[int, float, BehaviorPolicy]] = []

    class Snapshots(BaseCallback):
        """Takes a snapshot at the first rollout boundary after each multiple of `snapshot_every`."""

        def __init__(self) -> None:
            super().__init__()
            self.started = self.reported = time.monotonic()

        def _on_rollout_start(self) -> None:
            episodes: Any = self.model.ep_info_buffer or []
            mean_return = float(np.mean([e["r"] for e in episodes])) if episodes else 0.0
            if self.num_timesteps >= len(taken) * settings.snapshot_every:
                taken.append((self.num_timesteps, mean_return, _snapshot(model, normalizer)))
            now = time.monotonic()
            if now - self.reported > REPORT_EVERY_SECONDS:
                self.reported = now
                rate = self.num_timesteps / (now - self.started)
                left = (settings.environment_steps - self.num_timesteps) / rate
                print(
                    f"ppo {settings.environment_id}: step {self.num_timesteps:,}/{settings.environment_steps:,}"
                    f"  {rate:.0f}/s  {left / 60:.1f} min left  return {mean_return:.0f}",
                    flush=True,
                )

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            self._on_rollout_start()

    model.learn(settings.environment_steps, callback=Snapshots())
    environments.close()
    steps, returns, policies = zip(*taken, strict=True)
    return BehaviorLadder(policies, np.asarray(steps, dtype=np.int64), np.asarray(returns, dtype=np.float32))
