"""Facts of a data set that a task needs and no file of `params/tasks/` describes, read cheaply from the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.config.task import SMALLEST_SCALE, TaskConfig
from vdt.data.errors import DataError
from vdt.data.return_quantiles import compute_return_quantiles
from vdt.data.trajectory import FloatArray

OWN_REFERENCE = "the data's own worst and best episode return"
NO_REFERENCE = "the data's own return, which all its episodes share, and 1 more: a score on this scale means nothing"
ROUNDING = 1e-9  # share of the largest return: below it returns are equal but for rounding of their rewards
MAX_SHOWN_RANGES = 6  # of action components, in a sentence
WIDE = 1e6  # beyond it a range is mapped in float64; within it in float32, as snapshots on record were
CANDIDATE_QUANTILES = (1.0, 0.9, 0.75, 0.5, 0.25)


@dataclass(frozen=True)
class DataSummary:
    """Sizes, ends and rewards of a data set.

    Attributes:
        observation_size: S.
        action_size: A.
        lengths: steps of each episode, (E,).
        returns: of each episode, (E,).
        action_limits: largest absolute value of each action component, (A,).
        counts: all actions are whole numbers from 0 on, as the numbers of discrete actions are.
        longest_ended: a longest episode is marked as ended and as cut, with both flags.
    """

    observation_size: int
    action_size: int
    lengths: npt.NDArray[np.int64]
    returns: npt.NDArray[np.float64]
    action_limits: FloatArray
    counts: bool = False
    longest_ended: bool = False

    @classmethod
    def join(cls, parts: Sequence[DataSummary]) -> DataSummary:
        """Join the summaries of several data sets, end to end."""
        first = parts[0]
        return cls(
            first.observation_size,
            first.action_size,
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.returns for part in parts]),
            np.max([part.action_limits for part in parts], axis=0),
            all(part.counts for part in parts),
        )

    @property
    def discrete(self) -> bool:
        """Return whether actions look like the numbers of discrete ones: whole, from 0 on, beyond 1 or the only component."""
        largest = float(self.action_limits.max())
        return self.counts and largest >= 1 and (largest > 1 or self.action_size == 1)


def derive_targets(summary: DataSummary) -> dict[str, Any]:
    """Derive candidate returns (best first), their scale and the critic's rewards from the episodes' returns."""
    best = float(np.abs(summary.returns).max())
    values = compute_return_quantiles(summary.returns, CANDIDATE_QUANTILES)
    return {
        "task.candidate_returns": list(dict.fromkeys(values)),
        "task.return_scale": max(10.0 ** math.floor(math.log10(best)), SMALLEST_SCALE) if best > 0 else 1.0,
        "task.reward_scaling": "return_range",
        "task.reward_shift": 0.0,
    }


def derive_own_reference(summary: DataSummary) -> dict[str, Any]:
    """Derive score 0 and 100 from the data itself; one apart, with a word on it, where all episodes returned the same."""
    low, high = float(summary.returns.min()), float(summary.returns.max())
    equal = are_equal(summary.returns)
    return {
        "task.reference_return_min": low,
        "task.reference_return_max": low + 1.0 if equal else high,
        "task.reference": NO_REFERENCE if equal else OWN_REFERENCE,
    }


def are_equal(returns: npt.NDArray[np.float64]) -> bool:
    """Return whether all returns are the same, but for rounding."""
    return bool(np.ptp(returns) <= ROUNDING * np.abs(returns).max())


def derive_task(summary: DataSummary) -> dict[str, Any]:
    """Derive every key of a task that the data decides: dotted key -> value. The caller adds the environment."""
    scaled = bool((summary.action_limits > 1.0).any())
    limits = [float(limit) if limit > 0 else 1.0 for limit in summary.action_limits] if scaled else []
    return {
        "task.environment_id": None,
        "task.observation_size": summary.observation_size,
        "task.action_size": summary.action_size,
        "task.action_low": [-limit for limit in limits],
        "task.action_high": limits,
        "task.horizon": int(summary.lengths.max()),
        "task.d4rl_url": "",
        "task.licence": "that of the data given",
        "task.collected.ladder": None,
        "task.collected.second_ladder": None,
        "task.collected.snapshots": [],
        "task.collected.controller": "none",
        **derive_targets(summary),
        **derive_own_reference(summary),
    }


def check_enough(name: object, summary: DataSummary, advice: str = "") -> None:
    """Refuse one episode without an environment: some episodes are held out, and some must remain.

    Raises:
        DataError: if there is one episode only.
    """
    if len(summary.returns) < 2:
        raise DataError(
            f"{name}: holds one episode; accepted are at least 2, since some are held out to evaluate on{advice}"
        )


def make_no_target_error(name: object, steps: int) -> DataError:
    """Return the refusal of data without any step whose next observation is known."""
    return DataError(
        f"{name}: none of the {steps} steps has an observation after it, so the critic has no target; "
        f"accepted is at least one (next_observations, a longer episode, or a real end)"
    )


def are_counts(actions: FloatArray) -> bool:
    """Return whether all actions are whole numbers from 0 on."""
    return bool((actions >= 0).all() and (actions == np.floor(actions)).all())


def check_continuous(name: object, summary: DataSummary) -> None:
    """Refuse actions that look discrete.

    Raises:
        DataError: with the setting that declares them continuous.
    """
    if summary.discrete:
        low, high = [0.0] * summary.action_size, summary.action_limits.tolist()
        raise DataError(
            f"{name}: all actions are whole numbers from 0 to {max(high):g}, like the numbers of discrete actions, which are "
            f"not supported; accepted are continuous ones. If they are, give their range: "
            f"{format_range(low, high)}"
        )


def describe_action_scale(task: TaskConfig, *, given: bool = False) -> str:
    """Return the range that own actions are scaled from, and the setting for another unless it was given."""
    low, high = task.action_low or (-1.0,) * task.action_size, task.action_high or (1.0,) * task.action_size
    ranges = [f"[{a:g}, {b:g}]" for a, b in zip(low, high, strict=True)]
    few = len(ranges) <= MAX_SHOWN_RANGES
    shown = ", ".join(ranges) if few else f"{', '.join(ranges[:3])} and {len(ranges) - 3} more"
    if len(set(ranges)) == 1:
        shown = ranges[0] + (" each" if len(ranges) > 1 else "")
    said = f"scaled from {shown}, the policy's range"
    if given:
        return said
    return f"{said}; if the actuators differ: {format_range(low, high)}"


def format_range(low: Sequence[float], high: Sequence[float]) -> str:
    """Return the setting of a range of actions; of many components without its numbers."""
    ends = (_format(low), _format(high)) if len(low) <= MAX_SHOWN_RANGES else ("[…]", "[…]")
    return f'--set "task.action_low={ends[0]} task.action_high={ends[1]}"'


def _format(values: Sequence[float]) -> str:
    return "[" + ",".join(f"{value:g}" for value in values) + "]"


def normalise_actions(actions: FloatArray, task: TaskConfig) -> tuple[FloatArray, int]:
    """Map actions from `task.action_low` … `task.action_high` to [-1, 1], and clip those outside.

    Returns:
        the actions, and how many components were clipped.
    """
    if task.action_low:
        wide = max(map(abs, (*task.action_low, *task.action_high))) > WIDE
        kind: type[np.floating[Any]] = np.float64 if wide else np.float32
        low, high = np.asarray(task.action_low, kind), np.asarray(task.action_high, kind)
        unit = (2.0 * (actions - low) / (high - low) - 1.0).astype(np.float32)
        near = np.abs(np.abs(unit) - 1.0) < 1e-5  # rounding at the ends of the range is not clipping
        actions = np.where(near, np.sign(unit), unit)
    executed = np.clip(actions, -1.0, 1.0)
    return executed, int((executed != actions).sum())
