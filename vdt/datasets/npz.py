"""Folder of npz files, one episode each, read with full checks.

    observations       (T+1, S), the last one after the last action; or (T, S)
    actions            (T, A)
    rewards            (T,)
    terminated         one flag, or (T,) of which the last counts: the task ended
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
    files = sorted(folder.glob("*.npz"))
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
    for path in files or list_episodes(folder):
        arrays = _read_episode(path, None)
        for part in _split(arrays["rewards"], horizon):
            lengths.append(len(part))
            returns.append(float(part.sum(dtype=np.float64)))
        counts.append(are_counts(arrays["actions"]))
        limits.append(np.abs(arrays["actions"]).max(axis=0))
        if len({limit.shape for limit in limits}) > 1:
            raise DataError(
                f"{path}: 'actions' has shape {arrays['actions'].shape}; the files before have another size"
            )
    sizes = arrays["observations"].shape[1], arrays["actions"].shape[1]
    return DataSummary(*sizes, np.array(lengths, np.int64), np.array(returns), np.max(limits, axis=0), all(counts))


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
    clipped = 0

    def read() -> Iterator[Trajectory]:
        nonlocal clipped
        for path in files or list_episodes(folder):
            arrays = _read_episode(path, (task.observation_size, task.action_size))
            actions, outside = normalise_actions(arrays["actions"], task)
            clipped += outside
            yield from _cut(_make_trajectory(arrays, actions), horizon)

    dataset = gather_trajectories(read(), residence)
    return LoadedData(dataset, dict(recipe), clipped)


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
    with np.errstate(over="ignore"):
        arrays = {name: array.astype(np.float32) for name, array in raw.items()}
    if missing := [name for name in REQUIRED if name not in arrays]:
        raise DataError(
            f"{path}: {', '.join(missing)} missing, found: {list_found(sorted(found))}; accepted are {SCHEMA}"
        )
    steps = len(np.atleast_1d(arrays["rewards"]))
    shape = {name: array.shape for name, array in arrays.items()}
    s: tuple[int, ...] = (sizes[0],) if sizes else shape["observations"][-1:]
    a: tuple[int, ...] = (sizes[1],) if sizes else shape["actions"][-1:]
    rows = (steps, *s) if "final_observation" in arrays else (steps + 1, *s)
    accepted: dict[str, set[tuple[int, ...]]] = {
        "observations": {rows, (steps, *s)},
        "actions": {(steps, *a)},
        "rewards": {(steps,)},
        "terminated": {(), (1,), (steps,)},
        "final_observation": {s},
    }
    for name, size in shape.items():
        if size not in accepted[name] or 0 in (*size, steps):
            wanted = " or ".join(map(str, sorted(accepted[name])))
            raise DataError(f"{path}: {name!r} has shape {size}; accepted beside {steps} rewards is {wanted}")
        if not np.isfinite(arrays[name]).all():
            raise DataError(f"{path}: {name!r} has values that are not finite; accepted are finite float32")
    return arrays
