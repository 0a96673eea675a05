"""Folder of npz files, one episode each, read with full checks.

    observations       (T+1, S), the last one after the last action; or (T, S)
    actions            (T, A)
    rewards            (T,)
    terminated         one flag, or (T,) of which the last alone may be set: the task ended
    final_observation  (S,), only beside (T, S) observations

Episodes come in the order of their files' names. Other arrays are ignored, pickles are refused. Without the final
observation a truncated episode keeps every step and reward, and is flagged, as in D4RL's files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.config.task import TaskConfig
from vdt.data.episode_writer import MAX_BYTES
from vdt.data.errors import DataError
from vdt.data.gathering import gather_trajectories
from vdt.data.residence import MEMORY, Residence
from vdt.data.safe_hdf5 import list_found
from vdt.data.trajectory import FloatArray, Trajectory
from vdt.datasets.ends import find_early_end, find_odd_flag
from vdt.datasets.finite_numbers import FiniteNumbers
from vdt.datasets.loaded_data import LoadedData
from vdt.datasets.summary import DataSummary, are_counts, normalise_actions
from vdt.system.safe_archives import UNREADABLE, list_arrays, read_arrays

REQUIRED = ("observations", "actions", "rewards", "terminated")
SCHEMA = f"npz files with the arrays {', '.join(REQUIRED)} and, if wanted, final_observation"


def list_episodes(folder: Path) -> list[Path]:
    """List the files in their order.

    Raises:
        DataError: if there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".npz")
    if not files:
        raise DataError(f"{folder}: holds no .npz file; accepted is a folder of {SCHEMA}")
    return files


def scan_folder(folder: Path, horizon: int | None = None, files: Sequence[Path] = ()) -> DataSummary:
    """Return sizes, ends and rewards of all episodes.

    Args:
        folder: of npz files.
        horizon: longer episodes count as several.
        files: of the folder, as they were listed; by default all.

    Raises:
        DataError: naming the file, the array, what was found and what is accepted.
    """
    lengths, returns, limits, counts = [], [], [], []
    size: tuple[int, int] | None = None  # of the first episode
    for path in files or list_episodes(folder):
        arrays = _read_episode(path, None)
        for part in _split(arrays["rewards"], horizon):
            lengths.append(len(part))
            returns.append(float(part.sum(dtype=np.float64)))
        counts.append(are_counts(arrays["actions"]))
        limits.append(np.abs(arrays["actions"]).max(axis=0))
        found = arrays["observations"].shape[1], arrays["actions"].shape[1]
        size = size or found
        for name, before, now in zip(("observations", "actions"), size, found, strict=True):
            if before != now:
                raise DataError(
                    f"{path}: {name!r} has shape {arrays[name].shape}; the files before have another size, {before}"
                )
    assert size is not None  # there is a file
    return DataSummary(*size, np.array(lengths, np.int64), np.array(returns), np.max(limits, axis=0), all(counts))


def iterate_folder_actions(files: Sequence[Path]) -> Iterator[FloatArray]:
    """Yield the recorded actions (T, A) of each episode.

    Raises:
        DataError: naming the file, the array, what was found and what is accepted.
    """
    for path in files:
        yield _read_episode(path, None)["actions"]


def _split(values: FloatArray, horizon: int | None) -> list[FloatArray]:
    """Split rows into pieces of at most `horizon`."""
    return np.split(values, range(horizon, len(values), horizon)) if horizon else [values]


def read_folder(
    folder: Path,
    task: TaskConfig,
    recipe: Mapping[str, Any],
    horizon: int | None = None,
    residence: Residence = MEMORY,
    files: Sequence[Path] = (),
) -> LoadedData:
    """Check and convert all episodes.

    Args:
        folder: of npz files.
        task: sizes that the files must fit.
        recipe: the files' origin.
        horizon: longer episodes are cut into several.
        residence: of the arrays.
        files: of the folder, as they were listed; by default all.

    Raises:
        DataError: naming the file, the array, what was found and what is accepted.
    """
    clipped = longer = 0

    def read() -> Iterator[Trajectory]:
        nonlocal clipped, longer
        for path in files or list_episodes(folder):
            arrays = _read_episode(path, (task.observation_size, task.action_size))
            actions, outside = normalise_actions(arrays["actions"], task)
            clipped += outside
            parts = _cut(_make_trajectory(arrays, actions), horizon)
            longer += len(parts) > 1
            yield from parts

    dataset = gather_trajectories(read(), residence)
    cut = (
        f"{longer} recordings were longer than {horizon} steps and were cut into episodes of that length (task.horizon)"
    )
    return LoadedData(dataset, dict(recipe), clipped, [cut] if longer else [])


def _cut(whole: Trajectory, horizon: int | None) -> list[Trajectory]:
    """Cut an episode into ones of at most `horizon` steps; the observation after a cut is that of the next step."""
    if not horizon or len(whole) <= horizon:
        return [whole]
    cuts = range(horizon, len(whole), horizon)
    *first, last = (
        Trajectory(whole.observations[a : a + len(rewards) + 1], actions, rewards, False)
        for a, actions, rewards in zip(
            (0, *cuts), _split(whole.actions, horizon), _split(whole.rewards, horizon), strict=True
        )
    )
    return [*first, replace(last, terminated=whole.terminated, final_missing=whole.final_missing)]


def _make_trajectory(arrays: Mapping[str, npt.NDArray[Any]], actions: FloatArray) -> Trajectory:
    observations, rewards = arrays["observations"], arrays["rewards"]
    terminated = bool(arrays["terminated"].reshape(-1)[-1])
    if len(observations) == len(rewards) + 1:
        return Trajectory(observations, actions, rewards, terminated)
    whole = "final_observation" in arrays
    final = arrays["final_observation"][None] if whole else observations[-1:]
    missing = not (whole or terminated)
    return Trajectory(np.concatenate([observations, final]), actions, rewards, terminated, final_missing=missing)


def _read_episode(path: Path, sizes: tuple[int, int] | None) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of one file as float32, checked; sizes are (S, A), or the file's."""
    try:
        found, raw = list_arrays(path), read_arrays(path, MAX_BYTES, (*REQUIRED, "final_observation"))
    except UNREADABLE as error:
        raise DataError(f"{path}: not a whole npz file without pickles ({error})") from None
    checks = {name: FiniteNumbers(path, name) for name in raw}
    arrays = {name: checks[name].convert(array) for name, array in raw.items()}
    if missing := [name for name in REQUIRED if name not in arrays]:
        raise DataError(
            f"{path}: {', '.join(missing)} missing, found: {list_found(sorted(found))}; accepted are {SCHEMA}"
        )
    _check_shapes(path, raw, sizes)
    for numbers in checks.values():
        numbers.check()
    _check_flags(path, arrays["terminated"])
    return arrays


def _check_shapes(path: Path, arrays: Mapping[str, npt.NDArray[Any]], sizes: tuple[int, int] | None) -> None:
    """Refuse arrays that do not fit together, or not the sizes (S, A); without these any size is accepted."""
    steps = len(np.atleast_1d(arrays["rewards"]))
    if not steps:
        raise DataError(f"{path}: 'rewards' is empty, so the episode has no step; leave the file out")
    s, a = sizes or ("S", "A")
    rows = (steps,) if "final_observation" in arrays else (steps, steps + 1)
    accepted: dict[str, list[tuple[int | str, ...]]] = {
        "observations": [(count, s) for count in rows],
        "actions": [(steps, a)],
        "rewards": [(steps,)],
        "terminated": [(), (1,), (steps,)],
        "final_observation": [arrays["observations"].shape[1:]],
    }
    for name in accepted:
        if name not in arrays:
            continue
        shape, dtype = arrays[name].shape, arrays[name].dtype
        if any(_fits(shape, wanted) for wanted in accepted[name]) and 0 not in (*shape, steps):
            continue
        wanted = " or ".join(f"({', '.join(map(str, w))}{',' * (len(w) == 1)})" for w in accepted[name])
        if name == "actions" and len(shape) == 1 and dtype.kind in "iub":
            raise DataError(
                f"{path}: {name!r} are one whole number a row: discrete actions are not supported; accepted are "
                f"continuous ones, {wanted}"
            )
        if name == "observations" and len(shape) > 2 and dtype == np.uint8:
            raise DataError(
                f"{path}: {name!r} are images (uint8 of shape {shape}); images are not supported, accepted are vectors, "
                f"{wanted}"
            )
        raise DataError(f"{path}: {name!r} has shape {shape}; accepted beside {steps} rewards is {wanted}")


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    """Return whether a shape is the wanted one, in which a letter stands for any size."""
    return len(shape) == len(wanted) and all(isinstance(b, str) or a == b for a, b in zip(shape, wanted, strict=True))


def _check_flags(path: Path, terminated: FloatArray) -> None:
    """Refuse values other than 0 and 1, and an end before the last row."""
    flags = terminated.reshape(-1)
    if (row := find_odd_flag(flags)) is not None:
        raise DataError(f"{path}: 'terminated' holds {flags[row]:g} in row {row}; accepted are 0 and 1")
    if (row := find_early_end(flags)) is not None:
        raise DataError(
            f"{path}: 'terminated' is set in row {row} of rows 0 to {len(flags) - 1}, but a file is one "
            f"episode; accepted is a real end in the last row alone, or none"
        )
