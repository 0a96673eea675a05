"""Few recorded actions that lie far beyond all others: they widen the range that own data gives the policy.

An outlier is more than `FAR` times the largest value that is left without the rarest ones. Zeros do not count as values,
since many actuators rest most of the time. What comes in most episodes is rare, but no fault of the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vdt.config.task import TaskConfig
from vdt.data.trajectory import FloatArray
from vdt.datasets.summary import MAX_SHOWN_RANGES, format_range

FAR = 10.0
MIN_VALUES = 20  # other than 0, of a component; fewer show no usual size
RARE, FEW = 0.001, 3  # share of the values that may be outliers; this many from 100 values each on
MOST_EPISODES = 0.5

Blocks = Callable[[], Iterable[FloatArray]]


@dataclass(frozen=True)
class Outlier:
    """Action component with outliers.

    Attributes:
        component: its number, from 0.
        value: the largest of them, in the actuators' units.
        row: its step in all episodes end to end, from 0.
        count: of the outliers.
        usual: largest absolute value of the others.
    """

    component: int
    value: float
    row: int
    count: int
    usual: float


def find_outliers(read: Blocks, lengths: npt.NDArray[np.int64]) -> list[Outlier]:
    """Find the components with outliers.

    Args:
        read: yields the recorded actions (N, A), all episodes end to end, block by block; called up to twice.
        lengths: steps of each episode, (E,).
    """
    steps = int(lengths.sum())
    usual = _measure_usual(read(), steps)
    wide = np.flatnonzero(np.isfinite(usual))
    if not len(wide):
        return []
    rows: dict[int, list[int]] = {int(k): [] for k in wide}
    values: dict[int, list[float]] = {int(k): [] for k in wide}
    start = 0
    for block in read():
        for k in rows:
            far = np.flatnonzero(np.abs(block[:, k]) > FAR * usual[k])
            rows[k] += (start + far).tolist()
            values[k] += block[far, k].tolist()
        start += len(block)
    ends = np.cumsum(lengths)
    found = []
    for k, places in rows.items():
        episodes = len(np.unique(np.searchsorted(ends, places, side="right")))
        if episodes <= MOST_EPISODES * len(lengths):
            largest = int(np.argmax(np.abs(values[k])))
            found.append(Outlier(k, values[k][largest], places[largest], len(places), float(usual[k])))
    return found


def _measure_usual(blocks: Iterable[FloatArray], steps: int) -> npt.NDArray[np.float64]:
    """Return the largest absolute value without the rarest ones, (A,); infinite where none lies far beyond it."""
    kept: FloatArray | None = None  # the largest absolute values of each component
    moving = np.zeros(0, np.int64)
    for block in blocks:
        sizes = np.abs(block)
        if kept is None:
            kept, moving = sizes[:0], np.zeros(sizes.shape[1], np.int64)
        moving = moving + (sizes > 0).sum(axis=0)
        joined = np.concatenate([kept, sizes])
        most = _count_rare(steps) + 1
        kept = np.partition(joined, len(joined) - most, axis=0)[-most:] if len(joined) > most else joined
    assert kept is not None  # there is a step
    largest = np.sort(kept, axis=0)[::-1].astype(np.float64)
    usual = np.full(len(moving), np.inf)
    for k, count in enumerate(moving.tolist()):
        if count >= MIN_VALUES:
            others = largest[_count_rare(count), k]
            usual[k] = others if largest[0, k] > FAR * others else np.inf
    return usual


def _count_rare(values: int) -> int:
    """Return how many of so many values may be outliers."""
    return max(1, min(FEW, values // 100), int(values * RARE))


def describe_outliers(outliers: Sequence[Outlier], lengths: npt.NDArray[np.int64], task: TaskConfig) -> str:
    """Return what widens the range of actions, and how to give another, in a few sentences."""
    ends = np.cumsum(lengths)
    parts = []
    for outlier in outliers[:MAX_SHOWN_RANGES]:
        episode = int(np.searchsorted(ends, outlier.row, side="right"))
        step = outlier.row - int(ends[episode] - lengths[episode])
        others = f", the largest of {outlier.count} such values" if outlier.count > 1 else ""
        parts.append(
            f"{outlier.component} reaches {outlier.value:g} in step {step} of episode {episode} (row {outlier.row} of all"
            f"{others}), and at most {outlier.usual:g} elsewhere"
        )
    if more := len(outliers) - len(parts):
        parts.append(f"so do {more} more")
    high = list(task.action_high)
    for outlier in outliers:
        high[outlier.component] = outlier.usual
    return (
        f"a few values widen the range of action components (all counted from 0): {'; '.join(parts)}. The policy may send "
        "such values to the actuators. If they are faults of the recording, leave them out, or give the range, to which "
        f"actions are then clipped: {format_range([-end for end in high], high)}"
    )
