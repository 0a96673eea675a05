"""Trained policy for use outside of training: raw observations in, raw actions out; no environment is needed."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vdt.agent.actor_critic import ActorCritic
from vdt.agent.addresses import find_policy
from vdt.agent.agent import Agent, PlannerSettings
from vdt.agent.histories import EpisodeHistory, Recaller
from vdt.agent.input_limits import InputLimits
from vdt.agent.policy_files import PolicyFile
from vdt.agent.policy_metadata import describe_policy
from vdt.agent.spaces import Spaces
from vdt.checkpoint.names import CheckpointError
from vdt.checkpoint.store import UNREADABLE, State, find_not_finite, load_state
from vdt.config.schema import Config
from vdt.data.action_range import scale_actions
from vdt.data.numbers import expect_finite, read_numbers
from vdt.data.trajectory import FloatArray
from vdt.system.machine import choose_device, count_acting_threads, use_threads

DEVICES = ("cpu", "cuda", "auto")


class Policy:
    """Trained policy that acts in one episode, or in several that start together.

    Attributes:
        config: resolved configuration that the policy was trained with.
        spaces: sizes and the range of actions.
        candidate_returns: returns that the configuration asks for, the first without look-ahead.
        metadata: env, method, seed, preset, gradient_steps, and config as dotted key -> value; of a loaded policy also what
            `vdt.agent.policy_metadata.describe_policy` returns.
    """

    def __init__(
        self, actor_critic: ActorCritic, *, lookahead: bool = False, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Act with `actor_critic`; `load_policy` makes one from a file.

        Args:
            actor_critic: the networks, which must not change while an episode runs.
            lookahead: whether to choose among candidate returns, as the configuration's `planner` does.
            metadata: what else is known of it.
        """
        config = actor_critic.config
        acting = PlannerSettings.from_config(config, actor_critic.return_percentiles)
        self.config = config
        self.spaces = Spaces.from_config(config)
        self.candidate_returns = acting.candidate_returns
        self.metadata: dict[str, Any] = {
            **{"env": config.env, "method": config.method, "seed": config.seed, "preset": config.preset},
            "gradient_steps": actor_critic.gradient_steps,
            "config": config.flatten(),
            **(metadata or {}),
        }
        self._actor_critic, self._lookahead = actor_critic, lookahead
        self._settings = acting if lookahead else acting.follow(acting.candidate_returns[0])
        self._threads = count_acting_threads(config.runtime.threads)
        self._ignores_returns, self._limits = config.policy.kind == "mlp", InputLimits.from_actor_critic(actor_critic)
        self._agent: Agent | None = None
        self._recaller = Recaller(
            self.make_agent, self.spaces, self._limits, ignores_returns=self._ignores_returns, threads=self._threads
        )
        self._running = np.zeros(0, np.bool_)  # (N,)
        self._executed: FloatArray | None = None  # (N, A) from -1 to 1, of the last step

    def __repr__(self) -> str:
        known = self.metadata
        return f"Policy(env={known['env']!r}, method={known['method']!r}, seed={known['seed']}, {self.spaces})"

    def reset(self, target_return: float | Sequence[float] | None = None, episodes: int = 1) -> None:
        """Begin new episodes; drop the old ones.

        Args:
            target_return: return to reach, in the rewards' units. With look-ahead, several to choose among are accepted.
                None is the first of `candidate_returns`, and with look-ahead all of them.
            episodes: N, how many start together.

        Raises:
            ValueError: if a target return is not a finite number or too large (`vdt.agent.input_limits`), or there are
                several without look-ahead.
        """
        agent, count = self.make_agent(target_return), read_count(episodes, "episodes")
        agent.begin(count)
        self._agent, self._running, self._executed = agent, np.ones(count, np.bool_), None

    def make_agent(self, target_return: float | Sequence[float] | None = None) -> Agent:
        """Return an agent for rollouts in environments (`vdt.environments.rollout`); arguments as of `reset`.

        It acts as this policy does, in the networks' units, and apart from the episodes that run here.
        """
        settings = self._settings if target_return is None else self._follow(target_return)
        return Agent(self._actor_critic, settings)

    def _follow(self, target_return: float | Sequence[float]) -> PlannerSettings:
        """Return settings that follow the given return, or choose among several."""
        wanted = np.atleast_1d(read_numbers(target_return, "target_return"))
        if np.asarray(target_return).dtype == np.bool_:
            raise ValueError(f"target_return must be a number, not {target_return!r}")
        if wanted.ndim != 1 or wanted.size == 0 or not np.isfinite(wanted).all():
            raise ValueError(f"target_return must be a finite number, not {target_return!r}")
        expect_finite(wanted.squeeze(), "target_return", limit=self._limits.returns)
        if wanted.size == 1:
            return self._settings.follow(float(wanted[0]))
        if not self._lookahead:
            raise ValueError(
                f"{wanted.size} target returns need look-ahead, which chooses among them: load_policy(…, lookahead=True)"
            )
        return replace(self._settings, candidate_returns=tuple(wanted.tolist()))

    def act(
        self, observation: npt.ArrayLike, reward: npt.ArrayLike | None = None, terminated: Any = None
    ) -> FloatArray:
        """Choose the next action of each episode.

        A `ValueError` leaves the episodes as they were. What interrupts the decision itself, such as Ctrl-C, ends them.

        Args:
            observation: raw, (S,) for one episode or (N, S).
            reward: received for the last action, a number or (N,); none at the first step. The return-to-go shrinks by
                it (M4). A policy without memory ignores returns and does not need it.
            terminated: episodes that have ended, for whatever reason, true or false or (N,). They stay ended.

        Returns:
            Actions (A,) or (N, A) in the environment's range; zeros for ended episodes, whose input is ignored.

        Raises:
            RuntimeError: before `reset`, and after an interruption until the next `reset`.
            ValueError: if a size is wrong, a number is not finite or too large, or the reward is missing.
        """
        if self._agent is None:
            raise RuntimeError("call reset() before act(): no episode has begun, or an interrupted act() ended it")
        active = self._running & ~self._read_ended(terminated)
        observations = self._read_observations(observation, active)
        rewards = self._read_rewards(reward, active)
        actions = np.zeros((len(active), self.spaces.action_size), np.float32)
        agent, self._agent = self._agent, None  # until the step is whole: half of one cannot be taken again
        with use_threads(self._threads):
            if self._executed is not None and self._running.any():
                were = self._running
                agent.observe(self._executed[were], rewards[were], active[were])
            self._running = active
            if active.any():
                self._executed = np.zeros_like(actions)
                self._executed[active] = agent.act(observations[active])
                actions[active] = self._to_range(self._executed[active])
        self._agent = agent
        return actions[0] if np.ndim(observation) == 1 else actions

    def act_after(self, histories: Sequence[EpisodeHistory]) -> FloatArray:
        """Choose the next action of each episode from its history alone; the episodes of `reset` go on undisturbed.

        Threads may share a policy for this: one call is answered at a time.

        An action is the one that `act` returns after that history. It is so to the last bit where the range of
        actions is -1 to 1, and as many episodes of one length are given as acted together.

        Args:
            histories: N episodes, not necessarily of equal length.

        Returns:
            Actions (N, A) in the environment's range.

        Raises:
            ValueError: if there is no history, a size is wrong, or a number is not finite or too large; or if several
                returns are chosen among and `planner.select` is not per_step.
        """
        return self._to_range(self._recaller.act(histories))

    def _to_range(self, actions: FloatArray) -> FloatArray:
        """Map the networks' actions (N, A) to the environment's range."""
        if not self.config.task.action_low:
            return actions
        low, high = np.array(self.spaces.action_low, np.float32), np.array(self.spaces.action_high, np.float32)
        return np.clip(scale_actions(actions, low, high), low, high)

    def _read_ended(self, terminated: Any) -> npt.NDArray[np.bool_]:
        """Return which of the N episodes have ended, (N,)."""
        episodes = len(self._running)
        if terminated is None:
            return np.zeros(episodes, np.bool_)
        ended = np.asarray(terminated)
        if ended.dtype != np.bool_ or not _has_rows(ended, episodes):
            raise ValueError(f"terminated must be {_describe_rows('true or false', episodes)}, not {terminated!r}")
        if self._executed is None and ended.any():
            raise ValueError("terminated: no episode can end before its first action")
        return ended.reshape(episodes)

    def _read_observations(self, observation: npt.ArrayLike, active: npt.NDArray[np.bool_]) -> FloatArray:
        """Return raw observations (N, S); those of active episodes are finite."""
        episodes, size = len(active), self.spaces.observation_size
        rows = read_numbers(observation, "observation")
        if rows.shape != (episodes, size) and not (episodes == 1 and rows.shape == (size,)):
            accepted = f"({size},)" if episodes == 1 else f"({episodes}, {size}), a row for each episode"
            raise ValueError(f"observation must have shape {accepted}, not {rows.shape}")
        rows = rows.reshape(episodes, size)
        expect_finite(rows, "observation", active, self._limits.observations)
        return rows

    def _read_rewards(self, reward: npt.ArrayLike | None, active: npt.NDArray[np.bool_]) -> FloatArray:
        """Return the rewards (N,) of the last actions; zeros at the first step and for ended episodes."""
        episodes = len(active)
        if self._executed is None and reward is not None:
            raise ValueError("reward: no action was taken yet, so the first act() after reset() takes none")
        if reward is None:
            if self._executed is not None and not self._ignores_returns and active.any():
                raise ValueError("reward of the last action is missing: act(observation, reward) after the first step")
            return np.zeros(episodes, np.float32)
        rewards = read_numbers(reward, "reward")
        if not _has_rows(rewards, episodes):
            raise ValueError(f"reward must be {_describe_rows('a number', episodes)}, not of shape {rewards.shape}")
        rewards = rewards.reshape(episodes)
        expect_finite(rewards, "reward", active, self._limits.returns)
        return np.where(active, rewards, np.float32(0.0))


def read_count(value: Any, what: str, least: int = 1) -> int:
    """Return a whole number; `what` names it in the error.

    Raises:
        ValueError: if it is another kind of value, or smaller than `least`.
    """
    if not isinstance(value, bool) and hasattr(value, "__index__") and operator.index(value) >= least:
        return operator.index(value)
    raise ValueError(f"{what} must be a whole number of at least {least}, not {value!r}")


def _has_rows(array: npt.NDArray[Any], episodes: int) -> bool:
    """Return whether there is one value for each episode; a single episode's may stand alone."""
    return array.shape == (episodes,) or (episodes == 1 and array.shape == ())


def _describe_rows(what: str, episodes: int) -> str:
    return what if episodes == 1 else f"{what} for each of the {episodes} episodes"


def load_policy(
    where: str | Path,
    *,
    lookahead: bool = False,
    device: str = "cpu",
    name: str | None = None,
    cell: str | None = None,
    config: Config | None = None,
) -> Policy:
    """Load a trained policy; nothing in its file is executed.

    Args:
        where: a checkpoint file (`.pt`) or its folder, the id of an MLflow or Metaflow run, or another of
            `vdt.agent.addresses.ACCEPTED`.
        lookahead: whether to choose among the candidate returns at each step, with the `planner` settings of the
            configuration (M5). Else one return is followed.
        device: "cpu", "cuda", or "auto" for a GPU if there is one. Bits differ between them.
        name: which of a run's policies: "online", "offline" or "online_best". None takes the first of these.
        cell: which of a Metaflow run's cells, by its key; a run of one cell needs none.
        config: of the policy's cell, which may choose otherwise than the file's while acting. None is what is known.

    Raises:
        CheckpointError: if there is no policy, or there are several, or it is not of this version.
        ValueError: if the device is unknown or absent, or look-ahead needs the simulator.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    with find_policy(where, name=name, cell=cell) as found, use_threads(1):  # more would wait for each other
        state = load_state(found.path, mmap=True)
        found = found if config is None else replace(found, config=config)
        actor_critic = _rebuild(found, state, choose_device(device))
        metadata = describe_policy(found, state)
    if lookahead and actor_critic.config.planner.env_model == "simulator":
        raise ValueError("planner.env_model is simulator, and a loaded policy has none: load it with lookahead=False")
    return Policy(actor_critic, lookahead=lookahead, metadata=metadata)


def _rebuild(found: PolicyFile, state: State, device: torch.device) -> ActorCritic:
    """Rebuild the networks of a checkpoint, with the configuration of the cell that it was found by.

    Raises:
        CheckpointError: if it holds no policy that this version can use.
    """
    path, held = found.path, state.get("actor_critic")
    if held is None:
        raise CheckpointError(f"{path} holds no policy: it is not a checkpoint of train_actor or tune_online")
    try:
        config = {} if found.config is None else {"config": found.config.to_yaml()}
        actor_critic = ActorCritic.from_state({**held, **config}, device)
        _check_numbers(held, actor_critic.config)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path} holds no policy that this version can use: {' '.join(str(error).split())}"
        ) from error
    return actor_critic


def _check_numbers(state: State, config: Config) -> None:
    """Refuse numbers that training never writes.

    Raises:
        ValueError: naming the first.
    """
    if bad := find_not_finite(state):
        raise ValueError(f"{bad} is not finite")
    size = config.task.observation_size
    for name, held in state["normalizer"].items():
        if tuple(held.shape) != (size,) or held.dtype != torch.float32:
            raise ValueError(
                f"normalizer.{name} must be {size} numbers of float32, not {held.dtype} of shape {tuple(held.shape)}"
            )
    if not bool((state["normalizer"]["std"] > 0).all()):
        raise ValueError("normalizer.std must be positive")
    if state.get("reward_statistics", {}).get("std", 1.0) <= 0:
        raise ValueError("reward_statistics.std must be positive")
    if not config.task.candidate_returns:
        raise ValueError("task.candidate_returns is empty")
