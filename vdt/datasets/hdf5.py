"""D4RL's HDF5 schema, read with full checks and turned into episodes.

The schema is flat: `observations` (N, S), `actions` (N, A), `rewards` (N,), `terminals` (N,), and optionally `timeouts`
(N,) and `next_observations` (N, S). Row i is the step taken from observation i. How ends are read:

- An episode ends where `terminals` or `timeouts` is set. Where the file sets no timeout at all, it also ends after
  `horizon` steps. Marks that contradict the rest of the file are refused (`vdt/datasets/ends.py`).
- A step with both flags is a termination, except at the horizon, where it is the time limit. Recorders of that age
  raised the same `done` for both. Bootstrapping there costs nothing, while a false termination biases all values. Own
  data has a time limit only where `task.horizon` or an environment is given (`vdt/datasets/derived_tasks.py`).
- The final observation is that of `next_observations`. Without them it is missing. A truncated episode is then flagged
  (`Trajectory.final_missing`) and keeps every step and reward; only the critic leaves its last step out. After a
  termination nothing is bootstrapped. Both repeat their last observation.
- Rows after the last end are a truncated episode.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vdt.config.task import TaskConfig
from vdt.data.errors import DataError
from vdt.data.residence import MEMORY, NO_ROOM, Residence
from vdt.data.safe_hdf5 import UNREADABLE, explain_unreadable, get_node, list_found
from vdt.data.trajectory import BLOCK_ROWS, FloatArray, TrajectoryDataset
from vdt.datasets.ends import RUNS_ON, EndSettings, check_ends, describe_doubts, find_ends, runs_into_next
from vdt.datasets.hdf5_arrays import check_finite, iterate_blocks, keep_rows, read_array, read_flags, read_succession
from vdt.datasets.loaded_data import LoadedData
from vdt.datasets.repairs import repair
from vdt.datasets.summary import DataSummary, are_counts, make_no_target_error, normalise_actions

logger = logging.getLogger(__name__)

ACCEPTED = "an HDF5 file in D4RL's schema, or a folder of npz files, one an episode"
OTHER_FORMATS = (".npz", ".npy", ".pkl", ".pickle", ".pt", ".csv", ".parquet", ".json", ".zip")  # usual extensions
MAX_BYTES = 4 * 2**30  # of one array in memory; D4RL's largest is 0.25 GiB
MAX_EXPANSION = 64  # times the file's bytes, of one array that is not in memory as a whole
FLAGS = ("terminals", "timeouts")
OPTIONAL = ("timeouts", "next_observations")


@dataclass(frozen=True)
class _Steps:
    """Flat arrays of a file, checked."""

    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    terminals: npt.NDArray[np.bool_]
    timeouts: npt.NDArray[np.bool_]
    ends: npt.NDArray[np.int64]  # each episode's last row, rising; the last entry is the last row
    after_ends: FloatArray | None  # next observations of these rows
    notes: list[str]  # on repairs


def read_recording(
    path: Path,
    task: TaskConfig,
    recipe: Mapping[str, Any],
    repairs: Sequence[str] = (),
    settings: EndSettings | None = None,
    residence: Residence = MEMORY,
) -> LoadedData:
    """Check and convert one file.

    Args:
        path: HDF5 file in D4RL's schema.
        task: sizes and horizon that the file must fit.
        recipe: the file's origin; stored in the card.
        repairs: known faults to correct (`vdt/datasets/repairs.py`).
        settings: how ends are read; if not given, they are checked against the task's horizon.
        residence: of the arrays.

    Raises:
        DataError: naming the file, the data set, what was found and what is accepted.
    """
    settings = settings or EndSettings(horizon=task.horizon)
    steps = _read_steps(path, task, repairs, settings, residence)
    clipped = _normalise(steps.actions, task)
    episodes, notes = _split(steps, task.horizon, own=settings.own)
    notes = steps.notes + notes
    if clipped:
        notes.append(f"{clipped} of {steps.actions.size} action components were outside [-1, 1] and were clipped")
    laid_out = _lay_out(steps, episodes, residence.settle(steps.observations.nbytes + steps.actions.nbytes))
    return LoadedData(laid_out, dict(recipe), clipped, notes)


def _normalise(actions: FloatArray, task: TaskConfig) -> int:
    """Map actions to [-1, 1] in place; return how many components were clipped."""
    clipped = 0
    for start in range(0, len(actions), BLOCK_ROWS):
        block, outside = normalise_actions(actions[start : start + BLOCK_ROWS], task)
        actions[start : start + BLOCK_ROWS] = block
        clipped += outside
    return clipped


def scan_file(path: Path, settings: EndSettings) -> DataSummary:
    """Return sizes, ends and rewards of a file of any sizes; cached while the file is unchanged.

    Raises:
        DataError: as `read_recording`.
    """
    state = path.stat() if path.exists() else None
    return _scan(path, settings, (state.st_mtime_ns, state.st_size) if state else None)


@functools.lru_cache(maxsize=8)
def _scan(path: Path, settings: EndSettings, _state: tuple[int, int] | None) -> DataSummary:
    with _open(path, None) as (nodes, length):
        size = nodes["observations"].shape[1]  # type: ignore[union-attr]  # it is there: _find
        actions, rewards = (node for node in (nodes["actions"], nodes["rewards"]) if node is not None)
        limits, counts = np.zeros(actions.shape[1], np.float32), True
        for _, block in iterate_blocks(path, "actions", actions):
            limits, counts = np.maximum(limits, np.abs(block).max(axis=0)), counts and are_counts(block)
        earned = read_array(path, "rewards", rewards, MEMORY)
        terminals, timeouts = (read_flags(path, name, nodes[name], length) for name in FLAGS)
        succession = read_succession(path, nodes)
        if succession is None:  # which has read them
            for name in ("observations", "next_observations"):
                check_finite(path, name, nodes[name])
        has_successors = nodes["next_observations"] is not None and not (succession and succession.repeats)
    ends = find_ends(terminals, timeouts, settings, succession)
    check_ends(path, ends, terminals, timeouts, settings, succession)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() == 1 and not has_successors and not terminals[ends].any():
        raise make_no_target_error(path, length)
    returns = np.add.reduceat(earned.astype(np.float64), ends - lengths + 1)
    both = (terminals & timeouts)[ends]
    longest_ended = bool(both[lengths == lengths.max()].any())
    return DataSummary(size, len(limits), lengths, returns, limits, counts, longest_ended)


def iterate_actions(path: Path) -> Iterator[FloatArray]:
    """Yield the recorded actions (N, A) of a file of any sizes, block by block.

    Raises:
        DataError: as `read_recording`.
    """
    with _open(path, None) as (nodes, _):
        assert nodes["actions"] is not None  # _find
        for _, block in iterate_blocks(path, "actions", nodes["actions"]):
            yield block


def check_schema(path: Path, task: TaskConfig) -> None:
    """Check a file's data sets without reading them.

    Raises:
        DataError: as `read_recording`.
    """
    with _open(path, task):
        pass


@contextlib.contextmanager
def _open(
    path: Path, task: TaskConfig | None, *, whole: bool = False
) -> Iterator[tuple[dict[str, h5py.Dataset | None], int]]:
    """Return the data sets of a file by name, checked, and their length.

    Args:
        path: of the file.
        task: with the sizes that are accepted; none accepts any.
        whole: whether arrays are then read into memory as a whole.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; accepted is {ACCEPTED}")
    if path.suffix.lower() in OTHER_FORMATS:
        advice = "; examples/own_dataset.py makes one of a log" if path.suffix.lower() == ".csv" else ""
        raise DataError(f"{path}: one {path.suffix} file; accepted is {ACCEPTED}{advice}")
    s, a = (task.observation_size, task.action_size) if task else (None, None)
    shapes = {
        "observations": (s,),
        "actions": (a,),
        "rewards": (),
        "terminals": (),
        "timeouts": (),
        "next_observations": (s,),
    }
    max_bytes = MAX_BYTES if whole else max(MAX_BYTES, MAX_EXPANSION * path.stat().st_size)
    try:
        with h5py.File(path, "r") as file:
            nodes = {name: _find(path, file, name, tail, max_bytes) for name, tail in shapes.items()}
            yield nodes, _check_lengths(path, nodes)
    except DataError:
        raise
    except UNREADABLE as error:
        if getattr(error, "errno", None) in NO_ROOM:
            raise  # of the files that the arrays are read into
        raise DataError(explain_unreadable(path, error)) from None


def _read_steps(
    path: Path, task: TaskConfig, repairs: Sequence[str], settings: EndSettings, residence: Residence
) -> _Steps:
    with _open(path, task, whole=residence.setting == "memory") as (nodes, length):
        residence = residence.settle(4 * length * (task.observation_size + task.action_size + 1))
        succession = None if repairs else read_succession(path, nodes)
        after = nodes.pop("next_observations")
        terminals, timeouts = (read_flags(path, name, nodes.pop(name), length) for name in FLAGS)
        read = {name: read_array(path, name, node, residence) for name, node in nodes.items() if node is not None}
        kept, notes = repair(read["observations"], read["rewards"], terminals, timeouts, repairs)
        if not kept.all():
            read = {name: keep_rows(values, kept, residence) for name, values in read.items()}
            terminals, timeouts = terminals[kept], timeouts[kept]
        ends = find_ends(terminals, timeouts, settings, succession)
        if not repairs:
            notes += check_ends(path, ends, terminals, timeouts, settings, succession)
        if settings.warns:
            for doubt in describe_doubts(ends, terminals, timeouts, settings, succession):
                logger.warning(f"data: {path}: {doubt}")
        if (
            settings.own
            and succession is not None
            and runs_into_next(succession, terminals | timeouts, read["observations"])
        ):
            logger.warning(f"data: {path}: {RUNS_ON}")
            notes.append(RUNS_ON)
        if succession is not None and succession.repeats:
            after = None
        after_ends = (
            None if after is None else read_array(path, "next_observations", after, MEMORY, np.flatnonzero(kept)[ends])
        )
    return _Steps(**read, terminals=terminals, timeouts=timeouts, ends=ends, after_ends=after_ends, notes=notes)


def _find(path: Path, file: h5py.File, name: str, tail: tuple[int | None, ...], max_bytes: int) -> h5py.Dataset | None:
    """Return the data set `name`, checked without reading it."""
    if file.get(name, getlink=True) is None:
        if name in OPTIONAL:
            return None
        raise DataError(f"{path}: data set {name!r} is missing; found: {list_found(file)}")
    try:
        node: h5py.Dataset = get_node(file, name, h5py.Dataset)
    except ValueError as error:
        raise DataError(f"{path}: {name!r} {error}; accepted is a plain array") from None
    wanted = "(N, " + ", ".join(map(str, tail)) + ")" if tail else "(N,)"
    wanted = wanted.replace("None", "S" if "observations" in name else "A")
    if node.dtype.kind not in "fiub" or node.shape is None:
        raise DataError(f"{path}: {name!r} has dtype {node.dtype}; accepted are real numbers of shape {wanted}")
    fits = node.ndim == 1 + len(tail) and all(
        want in (None, size) for want, size in zip(tail, node.shape[1:], strict=True)
    )
    if name == "actions" and node.ndim == 1 and node.dtype.kind in "iub":
        raise DataError(
            f"{path}: {name!r} are one whole number a row: discrete actions are not supported; accepted are "
            f"continuous ones, {wanted}"
        )
    if not fits or 0 in node.shape[1:]:
        raise DataError(f"{path}: {name!r} has shape {node.shape}; this task accepts {wanted}")
    if node.size * max(node.dtype.itemsize, 4) > max_bytes:
        raise DataError(
            f"{path}: {name!r} of shape {node.shape} would need more than {max_bytes} bytes; accepted is less"
        )
    return node


def _check_lengths(path: Path, nodes: Mapping[str, h5py.Dataset | None]) -> int:
    lengths = {name: len(node) for name, node in nodes.items() if node is not None}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{path}: lengths are {found}; accepted is the same length of at least 1 for all")
    return lengths["rewards"]


@dataclass(frozen=True)
class _Episode:
    """Rows start … stop of the file, and the observation after the last of them."""

    start: int
    stop: int
    final: FloatArray
    terminated: bool
    final_missing: bool


def _split(steps: _Steps, horizon: int, *, own: bool) -> tuple[list[_Episode], list[str]]:
    """Return the episodes, and notes on changes."""
    episodes: list[_Episode] = []
    limits = ended = start = 0
    for number, end in enumerate(steps.ends.tolist()):
        stop = end + 1
        both = bool(steps.terminals[end] and steps.timeouts[end])
        at_limit = both and stop - start == horizon
        terminated = bool(steps.terminals[end]) and not at_limit
        limits += at_limit
        ended += own and both and stop - start == horizon - 1
        missing = steps.after_ends is None and not terminated
        final = steps.observations[end] if steps.after_ends is None else steps.after_ends[number]
        episodes.append(_Episode(start, stop, final, terminated, missing))
        start = end + 1
    notes = []
    if limits:
        notes.append(f"{limits} ends with both flags at the horizon were read as time limits")
    if ended:
        notes.append(
            f"{ended} ends of the longest episodes have both flags and were read as real ends; if a time limit set both: "
            f"--set task.horizon={horizon - 1}"
        )
    if not steps.timeouts.any():
        notes += _describe_cuts(steps, episodes, horizon, own=own)
    return episodes, notes


def _describe_cuts(steps: _Steps, episodes: Sequence[_Episode], horizon: int, *, own: bool) -> list[str]:
    """Return how many ends the horizon added to a file without timeouts.

    Of a file of D4RL's the sentence is that of release 0.1, whether or not an episode was cut: its bytes are on record.
    """
    if not own:
        return [f"the file sets no timeouts: episodes were cut after {horizon} steps"]
    added = sum(e.stop - e.start == horizon and not steps.terminals[e.stop - 1] for e in episodes[:-1])
    return [f"the file sets no timeouts: {added} ends were added, after {horizon} steps each"] if added else []


def _lay_out(steps: _Steps, episodes: Sequence[_Episode], residence: Residence) -> TrajectoryDataset:
    """Concatenate episodes; written in place, since large files must not be in memory several times."""
    offsets = np.concatenate([[0], np.cumsum([e.stop - e.start + 1 for e in episodes])]).astype(np.int64)
    rows = int(offsets[-1])
    observations: FloatArray = residence.make_zeros((rows, steps.observations.shape[1]))
    actions: FloatArray = residence.make_zeros((rows, steps.actions.shape[1]))
    rewards: FloatArray = residence.make_zeros((rows,))
    for at, last, e in zip(offsets, offsets[1:] - 1, episodes, strict=False):
        observations[at:last], observations[last] = steps.observations[e.start : e.stop], e.final
        actions[at:last], rewards[at:last] = steps.actions[e.start : e.stop], steps.rewards[e.start : e.stop]
    flags = ([e.terminated for e in episodes], [e.final_missing for e in episodes])
    return TrajectoryDataset(observations, actions, rewards, offsets, *(np.array(flag, np.bool_) for flag in flags))
