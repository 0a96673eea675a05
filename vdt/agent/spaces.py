"""Sizes of a task's observations and actions, and the range of actions."""

from __future__ import annotations

from dataclasses import dataclass

from vdt.config.schema import Config


@dataclass(frozen=True)
class Spaces:
    """Sizes of observations and actions, and the range of actions.

    Attributes:
        observation_size: S, numbers in an observation.
        action_size: A, numbers in an action.
        action_low: lowest action, A numbers in the environment's units.
        action_high: highest action, likewise.
    """

    observation_size: int
    action_size: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]

    @classmethod
    def from_config(cls, config: Config) -> Spaces:
        """Read the spaces of a task; a task without a range of actions has -1 to 1."""
        task, ones = config.task, (1.0,) * config.task.action_size
        low, high = task.action_low or tuple(-one for one in ones), task.action_high or ones
        return cls(task.observation_size, task.action_size, low, high)
