"""Episodes of a Minari data set, checked: HDF5 by this module's reader, Arrow and Parquet by Minari's.

Minari's HDF5 reader follows links out of the file and reads all of `infos`, of any size, so it is not used. Its Arrow
reader imports nothing that a data set names as long as the metadata holds both spaces, which is checked before.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vdt.data.errors import DataError
from vdt.data.safe_hdf5 import UNREADABLE, explain_unreadable, get_node, list_found
from vdt.data.trajectory import FloatArray
from vdt.datasets.ends import find_early_end, find_odd_flag
from vdt.datasets.finite_numbers import FiniteNumbers
from vdt.environments import flatten_observations

FORMATS = ("hdf5", "arrow", "parquet")
FLAGS = ("terminations", "truncations")
MAX_BYTES = 4 * 2**30  # of one episode's array
Episode = tuple[FloatArray, FloatArray, FloatArray, bool]  # observations, actions, rewards, terminated


def measure_space(space: Any) -> int:
    """Return the number of components of an observation: of a shape, or of a mapping of names to spaces."""
    return math.prod(space) if isinstance(space, tuple) else sum(map(measure_space, space.values()))


@dataclass(frozen=True)
class EpisodeFiles:
    """Episode files of a data set's folder, beside metadata.json.

    Attributes:
        folder: of the data set.
        data_format: one of `FORMATS`.
        total: number of episodes.
        observation_space: nested mapping of keys to shapes; a plain shape where observations are Box.
        action_shape: (A,).
    """

    folder: Path
    data_format: str
    total: int
    observation_space: Any
    action_shape: tuple[int, ...]

    @property
    def file(self) -> Path:
        """Return the HDF5 file of all episodes."""
        return self.folder / "main_data.hdf5"

    def iterate(self, *, observations: bool = True) -> Iterator[Episode]:
        """Yield observations (T+1, S) (empty if not wanted), actions (T, A), rewards (T,), terminated, in Minari's order.

        Raises:
            DataError: naming the episode, what was found and what is accepted.
        """
        return self._iterate_hdf5(observations) if self.data_format == "hdf5" else self._iterate_columns(observations)

    def _iterate_hdf5(self, observations: bool) -> Iterator[Episode]:
        try:
            with h5py.File(self.file, "r") as file:
                for number in range(self.total):
                    group = self._get(file, f"episode_{number}", h5py.Group)
                    yield self._make_episode(group, observations)
        except DataError:
            raise
        except UNREADABLE as error:
            raise DataError(explain_unreadable(self.file, error)) from None

    def _make_episode(self, group: h5py.Group, observations: bool) -> Episode:
        read = functools.partial(self._read, group)
        rewards = read("rewards", (None,))
        steps = len(rewards)
        if steps == 0:
            raise DataError(f"{self.file}: {group.name} has no step")
        actions = read("actions", (steps, *self.action_shape))
        terminated = _read_end(f"{self.file}: {group.name}", *(read(name, (steps,)) for name in FLAGS))
        if not observations:
            return np.empty((0, 0), np.float32), actions, rewards, terminated
        tree = self._read_tree(group, "observations", self.observation_space, steps + 1)
        return flatten_observations(tree, (steps + 1,)), actions, rewards, terminated

    def _read_tree(self, group: h5py.Group, name: str, space: Any, rows: int) -> Any:
        if isinstance(space, tuple):
            return self._read(group, name, (rows, *space))
        inner = self._get(group, name, h5py.Group)
        return {key: self._read_tree(inner, key, part, rows) for key, part in space.items()}

    def _get(self, group: h5py.Group, name: str, kind: type) -> Any:
        try:
            return get_node(group, name, kind)
        except ValueError as error:
            raise DataError(f"{self.file}: {group.name}/{name} {error}; found there: {list_found(group)}") from None

    def _read(self, group: h5py.Group, name: str, shape: tuple[int | None, ...]) -> FloatArray:
        node = self._get(group, name, h5py.Dataset)
        _check_shape(self.file, node.name, node, shape)
        return _convert(self.file, node.name, node[()])

    def _iterate_columns(self, observations: bool) -> Iterator[Episode]:
        try:
            from minari.dataset.minari_storage import MinariStorage

            storage = MinariStorage.read(self.folder)  # makes no environment: both spaces are in the metadata
            for number in range(self.total):
                rows = self._count_rows(self.folder / str(number))
                (episode,) = storage.get_episodes([number])
                yield self._check_episode(self.folder / str(number), episode, rows - 1, observations)
        except DataError:
            raise
        except Exception as error:  # Minari and Arrow raise any exception on a damaged file
            raise DataError(
                f"{self.folder}: Minari cannot read its {self.data_format} files ({type(error).__name__}: {error})"
            ) from None

    def _count_rows(self, part: Path) -> int:
        """Count the rows of one episode, before any is read."""
        from pyarrow import dataset

        if not part.is_dir() or any(path.is_symlink() for path in (part, *part.iterdir())):
            raise DataError(f"{part}: is not a folder of an episode's files; accepted is one without links")
        kept = dataset.dataset(str(part), format=self.data_format, ignore_prefixes=["_", ".", "metadata.json"])
        rows = int(kept.count_rows())
        width = measure_space(self.observation_space) + math.prod(self.action_shape)
        if rows < 2 or rows * width * 8 > MAX_BYTES:
            raise DataError(f"{part}: holds {rows} rows of {width} numbers; accepted are 2 to {MAX_BYTES} bytes")
        return rows

    def _check_episode(self, part: Path, episode: Mapping[str, Any], steps: int, observations: bool) -> Episode:
        def read(name: str, values: Any, shape: tuple[int, ...]) -> FloatArray:
            array = np.asarray(values)
            _check_shape(part, name, array, shape)
            return _convert(part, name, array)

        def read_tree(name: str, values: Any, space: Any) -> Any:
            if isinstance(space, tuple):
                return read(name, values, (steps + 1, *space))
            return {key: read_tree(f"{name}/{key}", values[key], inner) for key, inner in space.items()}

        rewards, *flags = (read(name, episode[name], (steps,)) for name in ("rewards", *FLAGS))
        actions = read("actions", episode["actions"], (steps, *self.action_shape))
        terminated = _read_end(f"{part}:", *flags)
        if not observations:
            return np.empty((0, 0), np.float32), actions, rewards, terminated
        tree = read_tree("observations", episode["observations"], self.observation_space)
        return flatten_observations(tree, (steps + 1,)), actions, rewards, terminated


def _read_end(origin: str, terminations: FloatArray, truncations: FloatArray) -> bool:
    """Return whether an episode really ended; refuse flags (T,) other than 0 and 1, and ends before the last step."""
    for name, flags in zip(FLAGS, (terminations, truncations), strict=True):
        if (step := find_odd_flag(flags)) is not None:
            raise DataError(f"{origin} {name} hold {flags[step]:g} at step {step}; accepted are 0 and 1")
        if (step := find_early_end(flags)) is not None:
            raise DataError(
                f"{origin} {name} are set at step {step} of {len(flags)}, and the episode goes on; accepted "
                f"is an end at the last step alone: store what follows as an episode of its own"
            )
    return bool(terminations[-1])


def _check_shape(origin: Path, name: str, values: Any, shape: tuple[int | None, ...]) -> None:
    """Refuse a data set that is no array of real numbers of this shape (None for any length), before it is read."""
    fits = values.shape is not None and len(values.shape) == len(shape)
    if not fits or any(want not in (None, size) for want, size in zip(shape, values.shape, strict=True)):
        wanted = str(shape).replace("None", "T")
        raise DataError(f"{origin}: {name} has shape {values.shape}; accepted is {wanted}")
    if values.dtype.kind not in "fiub" or values.size * max(values.dtype.itemsize, 4) > MAX_BYTES:
        raise DataError(f"{origin}: {name} is {values.dtype} of shape {values.shape}; accepted are real numbers")


def _convert(origin: Path, name: str, values: Any) -> FloatArray:
    """Convert to float32; refuse values that are not finite or too large for it."""
    numbers = FiniteNumbers(origin, name)
    converted = numbers.convert(np.asarray(values))
    numbers.check()
    return converted
