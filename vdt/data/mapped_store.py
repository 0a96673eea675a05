"""Trajectory store in a mapped file: for data sets that are larger than memory, shared by all processes that train on them.

The file holds the rows that `TrajectoryReplayBuffer` holds in memory, written once, trajectory by trajectory. It lies
beside the data set's own file, below `rows/`, under the digest of all that its content is a function of. It may be
deleted whenever nothing trains on it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vdt.data.errors import DataError
from vdt.data.normalization import Normalizer
from vdt.data.residence import map_bytes
from vdt.data.targets import TargetSettings
from vdt.data.trajectory import TrajectoryDataset
from vdt.data.trajectory_store import EVERY, TrajectoryStore
from vdt.system.files import atomic_write, remove_leftovers
from vdt.system.locks import hold_lock
from vdt.system.machine import measure_memory
from vdt.system.progress import Progress

ROWS_VERSION = 1  # increase it when the same inputs give other rows
SPARE_ROWS = 1024  # below the last one: more than the longest window, `policy.context_length` and one
MEMORY_SHARE = 1 / 2  # of the memory: a larger file does not stay in it, and pages are announced before they are read
DIGEST_DIGITS = 16

logger = logging.getLogger(__name__)


class MappedTrajectoryStore(TrajectoryStore):
    """Store of a data set's trajectories whose matrix is a mapped file. Nothing can be added.

    The file is read on the CPU; batches go to the training device, where they are the same as from memory.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        normalizer: Normalizer,
        settings: TargetSettings,
        *,
        device: torch.device | None = None,
    ) -> None:
        """Open the data set's file of rows, or make it. Processes that want the same file wait for the first one.

        Raises:
            ValueError: if the data set's arrays are not mapped, or its sizes differ from the normaliser's.
            DataError: if the file of rows is damaged.
            OSError: if the disk is full.
        """
        super().__init__(normalizer, settings, action_size=dataset.action_size, device=device)
        self.check_sizes(dataset.observation_size, dataset.action_size)
        self.dataset, self.final_missing = dataset, bool(dataset.final_missing.any())
        self._end = int(dataset.offsets[-1])
        path = find_rows_file(dataset, normalizer, settings, self.device)
        with hold_lock(path.with_suffix(".lock"), f"the rows of {path.parent.parent.name}"):
            if not path.is_file():
                self._write(path)
        self.matrix, self._mapping, self._offset = _map_matrix(path, (self._end + SPARE_ROWS, self.column.count))
        self._announces = len(self._mapping) > MEMORY_SHARE * measure_memory()
        if self._announces and hasattr(mmap, "MADV_RANDOM"):
            self._mapping.madvise(mmap.MADV_RANDOM)  # no pages around the one that is read: others would have to go

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self.dataset)

    def _measure(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        return self.dataset.offsets[:-1], self.dataset.lengths, self.dataset.final_missing

    def take(self, rows: Tensor, columns: slice | int = EVERY) -> Tensor:
        """Return a copy of some columns of `rows` (B,), (B, columns) or (B,)."""
        rows = rows.cpu()
        self._announce(rows.flatten(), 1)
        return self.matrix[rows, columns].to(self.device)

    def gather_windows(self, rows: Tensor, length: int) -> Tensor:
        """Gather as `TrajectoryStore.gather_windows`."""
        rows = rows.cpu()
        self._announce(rows, length)
        return super().gather_windows(rows, length).to(self.device)

    def _announce(self, rows: Tensor, length: int) -> int:
        """Begin to read `length` rows from each of `rows` on, all at once; else each page is waited for alone.

        Returns:
            How many places were announced: none where the file stays in memory.
        """
        if not self._announces or not hasattr(mmap, "MADV_WILLNEED"):
            return 0
        size, announce = 4 * self.column.count, self._mapping.madvise
        starts = self._offset + rows.unique() * size
        first = starts // mmap.PAGESIZE * mmap.PAGESIZE
        for start, count in zip(first.tolist(), (starts + length * size - first).tolist(), strict=True):
            announce(mmap.MADV_WILLNEED, start, count)
        return len(first)

    def _extend_below(self, length: int) -> None:
        if length > SPARE_ROWS:
            raise ValueError(f"windows have {length} rows; accepted are at most {SPARE_ROWS} where data is mapped")

    def _write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        shape, progress = (self._end + SPARE_ROWS, self.column.count), Progress("rows", 0, self.dataset.steps)
        logger.info(f"data: mapped; writing {4 * shape[0] * shape[1] / 1e9:.2f} GB of rows to {path}")
        remove_leftovers(path)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with atomic_write(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for trajectory in self.dataset:
                rows = torch.empty(len(trajectory) + 1, self.column.count)
                self.fill_rows(rows, trajectory)
                file.write(rows.numpy().data)
                progress.advance(len(trajectory))
            file.write(bytes(4 * SPARE_ROWS * self.column.count))


def find_rows_file(
    dataset: TrajectoryDataset, normalizer: Normalizer, settings: TargetSettings, device: torch.device
) -> Path:
    """Return the path of a mapped data set's file of rows, named by all that they are a function of.

    Raises:
        ValueError: if the data set's arrays are not mapped.
    """
    if dataset.file is None:
        raise ValueError("the data set is in memory, so there is no file that its rows could lie beside")
    episodes = hashlib.sha256(dataset.starts.tobytes() + dataset.offsets.tobytes()).hexdigest()
    inputs: dict[str, Any] = {
        "version": ROWS_VERSION,
        "file": [dataset.file.size, dataset.file.modified],
        "episodes": episodes,
        "normalizer": [normalizer.mean.tolist(), normalizer.std.tolist(), normalizer.clip],
        "settings": asdict(settings),
        "device": device.type,  # which normalises
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return dataset.file.path.parent / "rows" / f"{digest[:DIGEST_DIGITS]}.npy"


def _map_matrix(path: Path, shape: tuple[int, int]) -> tuple[Tensor, mmap.mmap, int]:
    """Map a file of rows; return them, the mapping, and their first byte in it.

    Raises:
        DataError: if it is damaged.
    """
    try:
        with open(path, "rb") as file:
            if (version := np.lib.format.read_magic(file)) != (1, 0):
                raise ValueError(f"it has npy version {version}")
            found, _, dtype = np.lib.format.read_array_header_1_0(file)
            if (found, dtype) != (shape, np.dtype("<f4")):
                raise ValueError(f"it holds {dtype} of shape {found}, not float32 of shape {shape}")
            offset = file.tell()
            mapping = map_bytes(file.fileno(), offset + 4 * shape[0] * shape[1])
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and run again: it is made anew") from None
    with warnings.catch_warnings():  # of PyTorch, whose tensors could be written to; these never are
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        array = np.frombuffer(mapping, np.float32, shape[0] * shape[1], offset).reshape(shape)
        return torch.from_numpy(array), mapping, offset
