"""Residence of large arrays: in memory, or in files that are mapped into it page by page (`data.residence`)."""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.system.files import make_folder
from vdt.system.machine import measure_memory

# With "auto", arrays of more than this share of the memory are mapped. Training holds them twice, as data and as rows of
# the buffer, and for a moment three times; and several cells may run at once.
MEMORY_SHARE = 1 / 8
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError where the disk has no room for a file


@dataclass(frozen=True)
class Residence:
    """Choice of where large arrays lie.

    Attributes:
        setting: "memory", "mapped", or "auto", which maps arrays that exceed `MEMORY_SHARE` of the memory.
        folder: where files for new arrays are made; the system's folder for temporary files if not given.
    """

    setting: str = "memory"
    folder: Path | None = None

    @property
    def limit(self) -> float:
        """Return the largest number of bytes that stays in memory."""
        if self.setting == "auto":
            return measure_memory() * MEMORY_SHARE
        return math.inf if self.setting == "memory" else 0.0

    def maps(self, size: int) -> bool:
        """Return whether arrays of `size` bytes together are mapped."""
        return size > self.limit

    def settle(self, size: int) -> Residence:
        """Return the residence of arrays of `size` bytes together: "mapped" or "memory"."""
        return replace(self, setting="mapped" if self.maps(size) else "memory")

    def make_zeros(self, shape: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return an array of zeros, to be filled.

        Raises:
            OSError: if it is mapped and the disk has no room for it.
        """
        size = math.prod(shape) * 4
        if size == 0 or not self.maps(size):
            return np.zeros(shape, np.float32)
        with self.open_file() as file:
            _reserve(file.fileno(), size)
            mapping = mmap.mmap(file.fileno(), size)
        return np.frombuffer(mapping, np.float32).reshape(shape)

    def open_file(self) -> Any:
        """Open a file without a name for reading and writing: it is gone with its last user, however that ends."""
        if self.folder is not None:
            make_folder(self.folder)
        return tempfile.TemporaryFile(dir=self.folder)


MEMORY = Residence()


def _reserve(descriptor: int, size: int) -> None:
    """Make a file longer by zeros. On a full disk this is an error now; writing to a page later would end the process."""
    reserve = getattr(os, "posix_fallocate", None)
    if reserve is None:  # macOS
        os.truncate(descriptor, size)
    else:
        reserve(descriptor, 0, size)


def map_array(path: Path, shape: Sequence[int], dtype: npt.DTypeLike, offset: int = 0) -> npt.NDArray[Any]:
    """Map a part of a file as an array that cannot be written to; processes that map it share its pages.

    Raises:
        ValueError: if the file is shorter: reading beyond its end would end the process.
    """
    with open(path, "rb") as file:
        return map_descriptor(file.fileno(), shape, dtype, offset)


def map_descriptor(descriptor: int, shape: Sequence[int], dtype: npt.DTypeLike, offset: int = 0) -> npt.NDArray[Any]:
    """Map a part of an open file, which may be closed afterwards; otherwise as `map_array`."""
    kind = np.dtype(dtype)
    mapping = map_bytes(descriptor, offset + math.prod(shape) * kind.itemsize)
    return np.frombuffer(mapping, kind, math.prod(shape), offset).reshape(shape)


def map_bytes(descriptor: int, stop: int) -> mmap.mmap:
    """Map the first bytes of an open file, for reading; otherwise as `map_array`."""
    found = os.fstat(descriptor).st_size
    if stop > found:
        raise ValueError(f"it has {found} bytes, but an array of it ends at byte {stop}")
    return mmap.mmap(descriptor, stop, access=mmap.ACCESS_READ)
