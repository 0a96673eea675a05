"""Histories of episodes, by which a policy acts without a memory of its own: any process may take the next decision."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.agent.agent import Agent
from vdt.agent.input_limits import InputLimits
from vdt.agent.spaces import Spaces
from vdt.data.numbers import LARGEST_FLOAT, expect_finite, read_numbers
from vdt.data.trajectory import FloatArray
from vdt.system.machine import use_threads

Target = float | Sequence[float] | None


@dataclass(frozen=True)
class EpisodeHistory:
    """Course of an episode up to its present step t, in the environment's units.

    Attributes:
        observations: (t + 1, S), the present one last.
        actions: (t, A), those taken.
        rewards: (t,), received for them. A policy without memory needs none.
        target_return: return that the episode was begun with; none is the policy's own choice, as of `Policy.reset`.
        skipped_steps: number of oldest steps left out of `observations` and `actions`, never of `rewards`.
    """

    observations: npt.ArrayLike
    actions: npt.ArrayLike = ()
    rewards: npt.ArrayLike = ()
    target_return: Target = None
    skipped_steps: int = 0


@dataclass(frozen=True)
class CheckedHistory:
    """History as arrays that fit together; for a policy without memory, the last observation as if it were the first.

    Attributes:
        observations: (L, S).
        actions: (L - 1, A) from -1 to 1.
        rewards: (t,).
        returns: (M,) returns to reach, one for each candidate.
    """

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    returns: FloatArray


class Recaller:
    """Actor that takes up episodes at their present step, each from its history. Threads may share it."""

    def __init__(
        self,
        make_agent: Callable[[Target], Agent],
        spaces: Spaces,
        limits: InputLimits,
        *,
        ignores_returns: bool,
        threads: int,
    ) -> None:
        """Act with the agents that `Policy.make_agent` returns.

        Args:
            make_agent: returns an agent for a target return.
            spaces: of the policy.
            limits: of the policy.
            ignores_returns: whether it is a policy without memory.
            threads: that torch computes a decision with.
        """
        self._make_agent, self._ignores_returns, self._threads = make_agent, ignores_returns, threads
        self._spaces, self._limits = spaces, limits
        self._agents: dict[bool, Agent] = {}  # whether it chooses among several returns: an agent with frozen weights
        self._one_at_a_time = threading.Lock()  # an agent holds the episodes of one call

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_one_at_a_time"}  # a lock has no copy

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _one_at_a_time=threading.Lock())

    def act(self, histories: Sequence[EpisodeHistory]) -> FloatArray:
        """Return the networks' actions (N, A), from -1 to 1; see `Policy.act_after`."""
        if not histories:
            raise ValueError("there is no history: at least one episode is needed")
        with self._one_at_a_time, use_threads(self._threads):
            return self._act(histories)

    def _act(self, histories: Sequence[EpisodeHistory]) -> FloatArray:
        checked = [self._check(history, f"of episode {i}") for i, history in enumerate(histories)]
        actions = np.zeros((len(checked), self._spaces.action_size), np.float32)
        for places in _group_alike([(len(episode.rewards), len(episode.returns)) for episode in checked]):
            actions[places] = self._act_together([checked[place] for place in places])
        return actions

    def _check(self, history: EpisodeHistory, place: str) -> CheckedHistory:
        """Return a history as arrays; see `check_history`."""
        if not isinstance(history, EpisodeHistory):
            raise ValueError(f"history {place} must be an EpisodeHistory, not {type(history).__name__}")
        try:
            agent = self._make_agent(history.target_return)
        except ValueError as error:
            raise ValueError(f"{place.removeprefix('of ')}: {error}") from None
        if len(agent.settings.candidate_returns) > 1 and agent.settings.select != "per_step":
            raise ValueError(
                f"{place.removeprefix('of ')}: planner.select is {agent.settings.select}: which return is followed depends on "
                "the choices before, which a history does not hold; accepted is per_step, or one target_return"
            )
        returns = np.array(agent.settings.candidate_returns, np.float32)
        kept = self._agents.get(len(returns) > 1)
        if kept is None:
            agent.begin(1)
            kept = self._agents[len(returns) > 1] = agent
        checked = check_history(
            history, place, self._spaces, self._limits, returns, ignores_returns=self._ignores_returns
        )
        timestep, given = len(checked.rewards), len(checked.observations)
        needed = kept.count_needed(timestep)
        if given < needed:
            raise ValueError(
                f"skipped_steps {place}: at step {timestep} the policy looks at the last {needed} observations, and "
                f"there are {given}"
            )
        last = slice(given - needed, None)
        return replace(checked, observations=checked.observations[last], actions=checked.actions[last])

    def _act_together(self, episodes: Sequence[CheckedHistory]) -> FloatArray:
        """Return the actions (N, A) of episodes with equally many steps and candidates."""
        agent = self._agents[len(episodes[0].returns) > 1]
        columns = ("observations", "actions", "rewards", "returns")
        agent.recall(*(np.stack([getattr(episode, name) for episode in episodes]) for name in columns))
        actions: FloatArray = agent.decide().actions.cpu().numpy()
        agent.forget()
        return actions


def check_history(
    history: EpisodeHistory,
    place: str,
    spaces: Spaces,
    limits: InputLimits,
    returns: FloatArray,
    *,
    ignores_returns: bool,
) -> CheckedHistory:
    """Check sizes and numbers of a history.

    Args:
        history: of one episode.
        place: names the episode in errors, such as "of episode 0".
        spaces: of the policy.
        limits: of the policy.
        returns: (M,) returns to reach.
        ignores_returns: whether the last observation alone matters, and rewards may be missing.

    Raises:
        ValueError: if a size is wrong, a number is not finite or too large, or lengths do not fit together.
    """
    observations = _read_rows(
        history.observations, f"observations {place}", spaces.observation_size, limits.observations
    )
    if len(observations) == 0:
        raise ValueError(f"observations {place} are empty: the present one is needed")
    actions = _read_rows(history.actions, f"actions {place}", spaces.action_size, LARGEST_FLOAT)
    if len(actions) != len(observations) - 1:
        raise ValueError(
            f"actions {place}: {len(observations)} observations have {len(observations) - 1} actions between them, "
            f"not {len(actions)}"
        )
    skipped, rewards = history.skipped_steps, _read_rewards(history.rewards, f"rewards {place}", limits.returns)
    if isinstance(skipped, bool) or not isinstance(skipped, int | np.integer) or skipped < 0:
        raise ValueError(f"skipped_steps {place} must be a whole number of at least 0, not {skipped!r}")
    steps = len(actions) + int(skipped)
    if len(rewards) != steps and not (ignores_returns and len(rewards) == 0):
        left_out = f" and {skipped} skipped steps" if skipped else ""
        raise ValueError(f"rewards {place}: {len(actions)} actions{left_out} have {steps} rewards, not {len(rewards)}")
    if ignores_returns:
        return CheckedHistory(observations[-1:], actions[:0], rewards[:0], returns)
    return CheckedHistory(observations, _scale_back(actions, spaces), rewards, returns)


def _read_rows(values: npt.ArrayLike, what: str, size: int, limit: FloatArray) -> FloatArray:
    """Return finite rows of `size` numbers; nothing at all is no rows."""
    rows = read_numbers(values, what)
    if rows.size == 0 and rows.shape[0] == 0:
        return np.zeros((0, size), np.float32)
    if rows.ndim != 2 or rows.shape[1] != size:
        raise ValueError(f"{what} must be rows of {size} numbers, not of shape {rows.shape}")
    expect_finite(rows, what, limit=limit)
    return rows


def _read_rewards(values: npt.ArrayLike, what: str, limit: FloatArray) -> FloatArray:
    rewards = read_numbers(values, what)
    if rewards.ndim != 1:
        raise ValueError(f"{what} must be a list of numbers, not of shape {rewards.shape}")
    expect_finite(rewards, what, limit=limit)
    return rewards


def _scale_back(actions: FloatArray, spaces: Spaces) -> FloatArray:
    """Map actions (L, A) from the environment's range to -1 to 1; what lies beyond is clipped, as environments do."""
    low, high = np.array(spaces.action_low, np.float32), np.array(spaces.action_high, np.float32)
    clipped: FloatArray = np.clip(actions, low, high)
    if (low == -1).all() and (high == 1).all():
        return clipped
    return (2.0 * (clipped - low) / (high - low) - 1.0).astype(np.float32)


def _group_alike(keys: Sequence[Hashable]) -> list[list[int]]:
    """Return the places of equal keys, in the order in which each key occurs first."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())
