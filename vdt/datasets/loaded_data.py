"""Result of every data source, and the label of results on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from vdt.config.task import TaskConfig
from vdt.data.trajectory import FloatArray, TrajectoryDataset

UNVERIFIED = "D4RL (content not verified)"  # a file under D4RL's name whose digest is not recorded
LABELS = {  # label of results on a source
    "collected": "collected (not D4RL)",
    "d4rl": "D4RL",
    "minari": "minari (not comparable with D4RL)",
    "path": "own file (not D4RL)",
}


def make_label(source: str, task: TaskConfig) -> str:
    """Return the label of results on a source; a file's name alone does not make it D4RL's."""
    return UNVERIFIED if source == "d4rl" and not task.d4rl_sha256 else LABELS[source]


@dataclass(frozen=True)
class LoadedData:
    """Data set with its origin.

    Attributes:
        dataset: checked: finite, of the task's sizes, actions in [-1, 1].
        recipe: settings that made it; plain values, the same for the same data.
        clipped_actions: action components that were outside [-1, 1].
        notes: changes made while reading, one sentence each.
    """

    dataset: TrajectoryDataset
    recipe: dict[str, Any]
    clipped_actions: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DataChoice:
    """Choice of a data source, not yet loaded.

    Attributes:
        source: "collected", "d4rl", "minari" or "path".
        key: folder name of the snapshot: the same settings give the same key, other settings another.
        reason: of the choice, one sentence.
        load: makes or reads the data; may take long.
        actions: yields the recorded actions (N, A), block by block, where they decide the policy's range; else none.
    """

    source: str
    key: str
    reason: str
    load: Callable[[], LoadedData]
    actions: Callable[[], Iterable[FloatArray]] | None = None
