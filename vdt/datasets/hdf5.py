"""D4RL's HDF5 schema, read with full checks and turned into episodes.

The schema is flat: `observations` (N, S), `actions` (N, A), `rewards` (N,), `terminals` (N,), and optionally `timeouts`
(N,) and `next_observations` (N, S). Row i is the step taken from observation i. How ends are read:

- An episode ends where `terminals` or `timeouts` is set. Where the file sets no timeout at all, it also ends after
  `horizon` steps. Marks that contradict the rest of the file are refused (`vdt/datasets/ends.py`).
- A step with both flags is a termination, except at the horizon, where it is the time limit. Recorders of that age
  raised the same `done` for both. Bootstrapping there costs nothing, while a false termination biases all values.
- The final observation is that of `next_observations`. Without them it is missing. A truncated episode is then flagged
  (`Trajectory.final_missing`) and keeps every step and reward; only the critic leaves its last step out. After a
  termination nothing is bootstrapped. Both repeat their last observation.
- Rows after the last end are a truncated episode.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vdt.config.schema import TaskConfig
from vdt.data.safe_hdf5 import UNREADABLE, DataError, explain_unreadable, get_node, list_found
from vdt.data.trajectory import FloatArray, TrajectoryDataset
from vdt.datasets.ends import EndSettings, Succession, check_ends, compare_successors, find_ends
from vdt.datasets.loaded_data import LoadedData
from vdt.datasets.repairs import repair
from vdt.datasets.summary import DataSummary, are_counts, normalise_actions

ACCEPTED = "an HDF5 file in D4RL's schema, or a folder of npz files, one an episode"
OTHER_FORMATS = (".npz", ".npy", ".pkl", ".pickle", ".pt", ".csv", ".parquet", ".json", ".zip")  # usual extensions
MAX_BYTES = 4 * 2**30  # of one array in memory; D4RL's largest is 0.25 GiB
FLAGS = ("terminals", "timeouts")
BLOCK_ROWS = 2**16
SAMPLE = 16  # rows whose next observation is searched elsewhere, if it is not the row after
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
) -> LoadedData:
    """Check and convert one file.

    Args:
        path: HDF5 file in D4RL's schema.
        task: sizes and horizon that the file must fit.
        recipe: the file's origin; stored in the card.
        repairs: known faults to correct (`vdt/datasets/repairs.py`).
        settings: how ends are read; if not given, they are checked against the task's horizon.

    Raises:
        DataError: naming the file, the data set, what was found and what is accepted.
    """
    steps = _read_steps(path, task, repairs, settings or EndSettings(horizon=task.horizon))
    executed, clipped = normalise_actions(steps.actions, task)
    episodes, notes = _split(steps, task.horizon)
    notes = steps.notes + notes
    if clipped:
        notes.append(f"{clipped} of {executed.size} action components were outside [-1, 1] and were clipped")
    return LoadedData(_lay_out(steps, executed, episodes), dict(recipe), clipped, notes)


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
        read = {name: _read(path, name, node) for name, node in nodes.items() if node and "observations" not in name}
        size = nodes["observations"].shape[1]  # type: ignore[union-attr]  # it is there: _find
        succession = _read_succession(path, nodes)
    terminals, timeouts = (_read_flags(path, name, read.get(name), length) for name in FLAGS)
    ends = find_ends(terminals, timeouts, settings, succession)
    check_ends(path, ends, timeouts, settings, succession)
    lengths, actions = np.diff(ends, prepend=-1), read["actions"]
    returns = np.add.reduceat(read["rewards"].astype(np.float64), ends - lengths + 1)
    return DataSummary(size, actions.shape[1], lengths, returns, np.abs(actions).max(axis=0), are_counts(actions))


def check_schema(path: Path, task: TaskConfig) -> None:
    """Check a file's data sets without reading them.

    Raises:
        DataError: as `read_recording`.
    """
    with _open(path, task):
        pass


@contextlib.contextmanager
def _open(path: Path, task: TaskConfig | None) -> Iterator[tuple[dict[str, h5py.Dataset | None], int]]:
    """Return the data sets of a file by name, checked, and their length; without a task, of any sizes."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; accepted is {ACCEPTED}")
    if path.suffix.lower() in OTHER_FORMATS:
        raise DataError(f"{path}: one {path.suffix} file; accepted is {ACCEPTED}")
    s, a = (task.observation_size, task.action_size) if task else (None, None)
    shapes = {
        "observations": (s,),
        "actions": (a,),
        "rewards": (),
        "terminals": (),
        "timeouts": (),
        "next_observations": (s,),
    }
    try:
        with h5py.File(path, "r") as file:
            nodes = {name: _find(path, file, name, tail) for name, tail in shapes.items()}
            yield nodes, _check_lengths(path, nodes)
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(explain_unreadable(path, error)) from None


def _read_steps(path: Path, task: TaskConfig, repairs: Sequence[str], settings: EndSettings) -> _Steps:
    with _open(path, task) as (nodes, length):
        succession = None if repairs else _read_succession(path, nodes)
        after = nodes.pop("next_observations")
        read = {name: _read(path, name, node) for name, node in nodes.items() if node is not None}
        terminals, timeouts = (_read_flags(path, name, read.pop(name, None), length) for name in FLAGS)
        kept, notes = repair(read["observations"], read["rewards"], terminals, timeouts, repairs)
        if not kept.all():
            read = {name: values[kept] for name, values in read.items()}
            terminals, timeouts = terminals[kept], timeouts[kept]
        ends = find_ends(terminals, timeouts, settings, succession)
        if not repairs:
            notes += check_ends(path, ends, timeouts, settings, succession)
        if succession is not None and succession.repeats:
            after = None
        after_ends = None if after is None else _read(path, "next_observations", after, np.flatnonzero(kept)[ends])
    return _Steps(**read, terminals=terminals, timeouts=timeouts, ends=ends, after_ends=after_ends, notes=notes)


def _find(path: Path, file: h5py.File, name: str, tail: tuple[int | None, ...]) -> h5py.Dataset | None:
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
    if node.size * max(node.dtype.itemsize, 4) > MAX_BYTES:
        raise DataError(
            f"{path}: {name!r} of shape {node.shape} would need more than {MAX_BYTES} bytes; accepted is less"
        )
    return node


def _check_lengths(path: Path, nodes: Mapping[str, h5py.Dataset | None]) -> int:
    lengths = {name: len(node) for name, node in nodes.items() if node is not None}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{path}: lengths are {found}; accepted is the same length of at least 1 for all")
    return lengths["rewards"]


def _read(path: Path, name: str, node: h5py.Dataset, rows: npt.NDArray[np.int64] | None = None) -> FloatArray:
    """Read a data set as float32, all of it checked block by block; only the rising `rows` of it if they are given."""
    kept = np.arange(len(node)) if rows is None else rows
    values = np.empty((len(kept), *node.shape[1:]), np.float32)
    for start, block in _iterate_blocks(path, name, node):
        low, high = np.searchsorted(kept, (start, start + BLOCK_ROWS))
        values[low:high] = block[kept[low:high] - start]
    return values


def _iterate_blocks(path: Path, name: str, node: h5py.Dataset) -> Iterator[tuple[int, FloatArray]]:
    """Yield first row and rows of each block of a data set, as float32; refuse values that are not finite at the end."""
    bad, first = 0, 0
    for start in range(0, len(node), BLOCK_ROWS):
        with np.errstate(over="ignore"):
            block = np.asarray(node[start : start + BLOCK_ROWS]).astype(np.float32, copy=False)
        wrong = ~np.isfinite(block)
        if not bad and wrong.any():
            first = start + int(np.argmax(wrong.any(axis=tuple(range(1, wrong.ndim)))))
        bad += int(wrong.sum())
        yield start, block
    if bad:
        raise DataError(
            f"{path}: {name!r} has {bad} values that are not finite, the first in row {first}; "
            f"accepted are finite float32"
        )


def _read_succession(path: Path, nodes: Mapping[str, h5py.Dataset | None]) -> Succession | None:
    """Compare each row's next observation with the observation of the row after; none without next observations."""
    now, after = nodes["observations"], nodes["next_observations"]
    if now is None or after is None or len(now) < 2:
        return None
    breaks, sample = np.zeros(len(now), np.bool_), np.empty((0, now.shape[1]), np.float32)
    before = np.empty((0, now.shape[1]), np.float32)  # next observation of the row above a block
    for (start, here), (_, following) in zip(
        _iterate_blocks(path, "observations", now), _iterate_blocks(path, "next_observations", after), strict=True
    ):
        known = np.concatenate([before, following[:-1]])
        wrong = compare_successors(here[len(here) - len(known) :], known)
        first = start - len(before)
        breaks[first : first + len(wrong)] = wrong
        sample = np.concatenate([sample, known[wrong][: SAMPLE - len(sample)]])
        before = following[-1:]
    found = np.full(len(sample), -1, np.int64)
    if 2 * breaks.sum() > len(breaks):
        for start, here in _iterate_blocks(path, "observations", now):
            for k in np.flatnonzero(found < 0):
                same = (here == sample[k]).all(axis=1)
                found[k] = start + int(np.argmax(same)) if same.any() else -1
    return Succession(breaks, found)


def _read_flags(path: Path, name: str, values: FloatArray | None, length: int) -> npt.NDArray[np.bool_]:
    if values is None:
        return np.zeros(length, np.bool_)
    odd = values[(values != 0.0) & (values != 1.0)]
    if len(odd):
        raise DataError(f"{path}: {name!r} holds {float(odd[0])}; accepted are 0 and 1")
    return np.asarray(values, dtype=np.bool_)


@dataclass(frozen=True)
class _Episode:
    """Rows start … stop of the file, and the observation after the last of them."""

    start: int
    stop: int
    final: FloatArray
    terminated: bool
    final_missing: bool


def _split(steps: _Steps, horizon: int) -> tuple[list[_Episode], list[str]]:
    """Return the episodes, and notes on changes."""
    episodes: list[_Episode] = []
    limits = start = 0
    for number, end in enumerate(steps.ends.tolist()):
        stop = end + 1
        at_limit = bool(steps.terminals[end] and steps.timeouts[end]) and stop - start == horizon
        terminated = bool(steps.terminals[end]) and not at_limit
        limits += at_limit
        missing = steps.after_ends is None and not terminated
        final = steps.observations[end] if steps.after_ends is None else steps.after_ends[number]
        episodes.append(_Episode(start, stop, final, terminated, missing))
        start = end + 1
    notes = []
    if limits:
        notes.append(f"{limits} ends with both flags at the horizon were read as time limits")
    if not steps.timeouts.any():
        notes.append(f"the file sets no timeouts: episodes were cut after {horizon} steps")
    return episodes, notes


def _lay_out(steps: _Steps, actions: FloatArray, episodes: Sequence[_Episode]) -> TrajectoryDataset:
    """Concatenate episodes; written in place, since large files must not be in memory several times."""
    offsets = np.concatenate([[0], np.cumsum([e.stop - e.start + 1 for e in episodes])]).astype(np.int64)
    rows = int(offsets[-1])
    observations = np.empty((rows, steps.observations.shape[1]), np.float32)
    laid = np.zeros((rows, actions.shape[1]), np.float32)
    rewards = np.zeros(rows, np.float32)
    for at, last, e in zip(offsets, offsets[1:] - 1, episodes, strict=False):
        observations[at:last], observations[last] = steps.observations[e.start : e.stop], e.final
        laid[at:last], rewards[at:last] = actions[e.start : e.stop], steps.rewards[e.start : e.stop]
    flags = ([e.terminated for e in episodes], [e.final_missing for e in episodes])
    return TrajectoryDataset(observations, laid, rewards, offsets, *(np.array(flag, np.bool_) for flag in flags))
