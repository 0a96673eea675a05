"""Reading of an HDF5 file's arrays block by block, so that none need be in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from vdt.data.errors import DataError
from vdt.data.residence import Residence
from vdt.data.trajectory import BLOCK_ROWS, FloatArray
from vdt.datasets.ends import Succession, compare_successors
from vdt.datasets.finite_numbers import FiniteNumbers

SAMPLE = 16  # rows whose next observation is searched elsewhere, if it is not the row after


def read_array(
    path: Path, name: str, node: h5py.Dataset, residence: Residence, rows: npt.NDArray[np.int64] | None = None
) -> FloatArray:
    """Read a data set as float32, all of it checked block by block; only the rising `rows` of it if they are given."""
    count = len(node) if rows is None else len(rows)
    values: FloatArray = residence.make_zeros((count, *node.shape[1:]))
    for start, block in iterate_blocks(path, name, node):
        if rows is None:
            values[start : start + len(block)] = block
            continue
        low, high = np.searchsorted(rows, (start, start + BLOCK_ROWS))
        values[low:high] = block[rows[low:high] - start]
    return values


def keep_rows(values: FloatArray, kept: npt.NDArray[np.bool_], residence: Residence) -> FloatArray:
    """Copy the rows that are kept."""
    copy: FloatArray = residence.make_zeros((int(kept.sum()), *values.shape[1:]))
    end = 0
    for start in range(0, len(values), BLOCK_ROWS):
        block = values[start : start + BLOCK_ROWS][kept[start : start + BLOCK_ROWS]]
        copy[end : end + len(block)] = block
        end += len(block)
    return copy


def iterate_blocks(path: Path, name: str, node: h5py.Dataset) -> Iterator[tuple[int, FloatArray]]:
    """Yield first row and rows of each block of a data set, as float32; refuse values that are not finite at the end."""
    numbers = FiniteNumbers(path, name)
    for start in range(0, len(node), BLOCK_ROWS):
        yield start, numbers.convert(np.asarray(node[start : start + BLOCK_ROWS]), start)
    numbers.check()


def check_finite(path: Path, name: str, node: h5py.Dataset | None) -> None:
    """Refuse a data set with values that are not finite; raise DataError then."""
    for _ in () if node is None else iterate_blocks(path, name, node):
        pass


def read_succession(path: Path, nodes: Mapping[str, h5py.Dataset | None]) -> Succession | None:
    """Compare each row's next observation with the observation of the row after; none without next observations."""
    now, after = nodes["observations"], nodes["next_observations"]
    if now is None or after is None or len(now) < 2:
        return None
    breaks, sample = np.zeros(len(now), np.bool_), np.empty((0, now.shape[1]), np.float32)
    before = np.empty((0, now.shape[1]), np.float32)  # next observation of the row above a block
    moves = False
    for (start, here), (_, following) in zip(
        iterate_blocks(path, "observations", now), iterate_blocks(path, "next_observations", after), strict=True
    ):
        known = np.concatenate([before, following[:-1]])
        wrong = compare_successors(here[len(here) - len(known) :], known)
        first = start - len(before)
        breaks[first : first + len(wrong)] = wrong
        sample = np.concatenate([sample, known[wrong][: SAMPLE - len(sample)]])
        before = following[-1:]
        moves = moves or bool(compare_successors(here[1:], here[:-1]).any())
    found = np.full(len(sample), -1, np.int64)
    if 2 * breaks.sum() > len(breaks):
        for start, here in iterate_blocks(path, "observations", now):
            for k in np.flatnonzero(found < 0):
                same = (here == sample[k]).all(axis=1)
                found[k] = start + int(np.argmax(same)) if same.any() else -1
    return Succession(breaks, found, moves)


def read_flags(path: Path, name: str, node: h5py.Dataset | None, length: int) -> npt.NDArray[np.bool_]:
    """Read a data set of 0 and 1, (length,); none set where the file has none."""
    flags, odd = np.zeros(length, np.bool_), np.empty(0, np.float32)
    for start, block in () if node is None else iterate_blocks(path, name, node):
        flags[start : start + len(block)] = block != 0.0
        odd = odd if len(odd) else block[(block != 0.0) & (block != 1.0)]
    if len(odd):
        raise DataError(f"{path}: {name!r} holds {float(odd[0])}; accepted are 0 and 1")
    return flags
