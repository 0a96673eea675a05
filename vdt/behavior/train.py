"""Training of the built-in data source's behaviour policies with stable-baselines3 (extra `[behavior]`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vdt.behavior.policy import BehaviorLadder, BehaviorPolicy, stack_ladder, unstack_ladder
from vdt.checkpoint.store import CheckpointStore, State
from vdt.config.errors import ConfigError
from vdt.tracking import Tracker

logger = logging.getLogger(__name__)

REPORT_EVERY_SECONDS = 10.0
REPLAY_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
ALGORITHMS = ("PPO", "SAC")


@dataclass(frozen=True)
class BehaviorTraining:
    """Settings of one training run (a file of `params/behavior/`).

    Attributes:
        environment_id: Gymnasium id.
        algorithm: class of stable-baselines3, one of `ALGORITHMS`.
        arguments: keyword arguments of the algorithm, passed unchanged.
        normalize: scale observations and rewards by their running statistics (usual with PPO).
        seed: seeds environments, network and sampling.
        environment_steps: total steps of the run.
        snapshot_every: environment steps between two snapshots.
        parallel_environments: environments stepped together.
    """

    environment_id: str
    algorithm: str
    arguments: Mapping[str, Any]
    normalize: bool
    seed: int
    environment_steps: int
    snapshot_every: int
    parallel_environments: int

    @property
    def rollout_steps(self) -> int:
        """Return the environment steps of one rollout, 1 an environment where a rollout is an episode."""
        # without an argument, stable-baselines3's defaults
        steps = self.arguments.get("n_steps", 2048) if self.algorithm == "PPO" else self.arguments.get("train_freq", 1)
        return (steps if isinstance(steps, int) else 1) * self.parallel_environments


def _copy_layers(modules: list[Any]) -> list[tuple[Any, Any]]:
    return [(m.weight.detach().numpy().T.copy(), m.bias.detach().numpy().copy()) for m in modules]


def take_snapshot(model: Any, normalizer: Any) -> BehaviorPolicy:
    """Copy the policy network of PPO or SAC, and the observation statistics if there are any, into NumPy."""
    size = model.observation_space.shape[0]
    mean, std = np.zeros(size, np.float32), np.ones(size, np.float32)
    if normalizer is not None:
        mean = normalizer.obs_rms.mean.astype(np.float32)
        std = np.sqrt(normalizer.obs_rms.var + normalizer.epsilon).astype(np.float32)
    if hasattr(model, "actor"):
        layers = _copy_layers([m for m in model.actor.latent_pi if hasattr(m, "weight")])
        heads = _copy_layers([model.actor.mu, model.actor.log_std])
        layers.append((np.concatenate([w for w, _ in heads], 1), np.concatenate([b for _, b in heads])))
        log_std = None
    else:
        hidden = [m for m in model.policy.mlp_extractor.policy_net if hasattr(m, "weight")]
        layers = _copy_layers([*hidden, model.policy.action_net])
        log_std = model.policy.log_std.detach().numpy().copy()
    weights, biases = zip(*layers, strict=True)
    return BehaviorPolicy(tuple(weights), tuple(biases), mean, std, log_std)


class BehaviorRun:
    """Training run that leaves snapshots and can be continued from its last checkpoint.

    A continued run has the networks, optimizers, statistics and replay buffer of the checkpoint, in fresh episodes. An
    undisturbed run is a function of its settings; a continued one is equivalent, and not equal bit for bit.
    """

    def __init__(self, settings: BehaviorTraining, tracker: Tracker, checkpoints: CheckpointStore) -> None:
        """Make environments and networks, or restore those of the last checkpoint.

        Raises:
            ConfigError: if the environment's action range does not fit the snapshots' form.
        """
        import stable_baselines3
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import VecNormalize

        self.settings, self.tracker, self.checkpoints = settings, tracker, checkpoints
        state = checkpoints.load_latest()
        self.start = int(state["step"]) if state else 0
        seed = settings.seed + self.start  # a continued run must not draw the same numbers again
        environments = make_vec_env(settings.environment_id, settings.parallel_environments, seed=seed)
        limits: Any = environments.action_space
        if settings.algorithm == "SAC" and not (np.all(limits.low == -1) and np.all(limits.high == 1)):
            raise ConfigError(f"SAC's snapshots act from -1 to 1; {settings.environment_id} takes {limits}: use PPO")
        self.normalizer = VecNormalize(environments) if settings.normalize else None
        algorithm = getattr(stable_baselines3, settings.algorithm)
        self.model = algorithm(
            "MlpPolicy", self.normalizer or environments, seed=seed, device="cpu", **settings.arguments
        )
        self.taken: list[tuple[int, float, BehaviorPolicy]] = []
        if state:
            self._restore(state)

    def train(self) -> BehaviorLadder:
        """Train to the end.

        Returns:
            All snapshots in training order; the first is the untrained network. `episode_returns` is the mean return of
            the last training episodes at that moment (stochastic policy, true rewards).
        """
        left = self.settings.environment_steps - self.start
        if left > 0:
            self.model.learn(left, callback=self._make_callback(), reset_num_timesteps=self.start == 0)
        self.model.get_env().close()
        return self._make_ladder()

    def _make_callback(self) -> Any:
        from stable_baselines3.common.callbacks import BaseCallback

        run = self

        class Snapshots(BaseCallback):
            """Callback between two rollouts."""

            def __init__(self) -> None:
                super().__init__()
                self.started = self.reported = time.monotonic()

            def _on_rollout_start(self) -> None:
                run.take_snapshot_if_due(self.num_timesteps)
                now = time.monotonic()
                if now - self.reported > REPORT_EVERY_SECONDS:
                    self.reported = now
                    run.report(self.num_timesteps, now - self.started)

            def _on_step(self) -> bool:
                return True

            def _on_training_end(self) -> None:
                self._on_rollout_start()

        return Snapshots()

    def take_snapshot_if_due(self, step: int) -> None:
        """Keep the policy at the first rollout boundary after each multiple of `snapshot_every`."""
        if step >= len(self.taken) * self.settings.snapshot_every:
            self.taken.append((step, self._get_mean_return(), take_snapshot(self.model, self.normalizer)))
            self.tracker.log(step, {"behavior/training_return": self.taken[-1][1]})
            if self.checkpoints.is_due(step):
                self.checkpoints.save(step, self._get_state(step))

    def report(self, step: int, seconds: float) -> None:
        """Log one line of progress."""
        rate = (step - self.start) / seconds
        logger.info(
            f"{self.settings.algorithm} {self.settings.environment_id}: step {step:,}/"
            f"{self.settings.environment_steps:,}  {rate:.0f}/s"
            f"  {(self.settings.environment_steps - step) / rate / 60:.1f} min left  return {self._get_mean_return():.0f}"
        )

    def _get_mean_return(self) -> float:
        episodes = self.model.ep_info_buffer or []
        return float(np.mean([e["r"] for e in episodes])) if episodes else 0.0

    def _make_ladder(self) -> BehaviorLadder:
        steps, returns, policies = zip(*self.taken, strict=True)
        return BehaviorLadder(policies, np.asarray(steps, np.int64), np.asarray(returns, np.float32))

    def _get_state(self, step: int) -> State:
        model, ladder = self.model, stack_ladder(self._make_ladder())
        state: State = {
            "step": step,
            "parameters": model.get_parameters(),
            "ladder": {name: torch.from_numpy(array) for name, array in ladder.items()},
        }
        if self.normalizer is not None:
            state["statistics"] = {
                name: {key: torch.as_tensor(value) for key, value in vars(getattr(self.normalizer, name)).items()}
                for name in ("obs_rms", "ret_rms")
            }
        if hasattr(model, "replay_buffer"):
            buffer = model.replay_buffer
            held = buffer.buffer_size if buffer.full else buffer.pos
            state["replay"] = {name: torch.from_numpy(getattr(buffer, name)[:held]) for name in REPLAY_ARRAYS}
            state["position"] = buffer.pos
            state["log_ent_coef"] = model.log_ent_coef.detach()
        return state

    def _restore(self, state: State) -> None:
        model = self.model
        model.set_parameters(state["parameters"])
        model.num_timesteps = self.start
        ladder = unstack_ladder({name: array.numpy() for name, array in state["ladder"].items()})
        self.taken = list(
            zip(ladder.environment_steps.tolist(), ladder.episode_returns.tolist(), ladder.policies, strict=True)
        )
        if self.normalizer is not None:
            for name, values in state["statistics"].items():
                vars(getattr(self.normalizer, name)).update({key: value.numpy() for key, value in values.items()})
        if "replay" in state:
            buffer = model.replay_buffer
            for name, array in state["replay"].items():
                getattr(buffer, name)[: len(array)] = array.numpy()
            buffer.pos, buffer.full = state["position"], len(state["replay"]["rewards"]) == buffer.buffer_size
            with torch.no_grad():
                model.log_ent_coef.copy_(state["log_ent_coef"])
