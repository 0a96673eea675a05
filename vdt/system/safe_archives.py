"""Safe reading of untrusted zip and npz files, whose declared sizes are checked before unpacking."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Exceptions of zipfile and NumPy on a foreign or corrupted file, found by fuzzing.
UNREADABLE: tuple[type[Exception], ...] = (
    *(ValueError, OSError, EOFError, LookupError, TypeError, RuntimeError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, SyntaxError, tokenize.TokenError),  # NumPy parses headers as Python
)
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def check_unpacked_size(path: Path, limit: float) -> None:
    """Refuse a zip file that would unpack to more than `limit` bytes.

    Raises:
        ValueError: if it would.
        zipfile.BadZipFile: if it is none.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(item.file_size for item in archive.infolist())
    if unpacked > limit:
        raise ValueError(f"it would unpack to {unpacked} bytes")


def is_stored_plainly(path: Path) -> bool:
    """Return whether nothing in a zip file is compressed, so that its members can be read in their place."""
    with zipfile.ZipFile(path) as archive:
        return all(item.compress_type == zipfile.ZIP_STORED for item in archive.infolist())


def list_arrays(path: Path) -> list[str]:
    """Return the names of an npz file's arrays, in its order; raises any of `UNREADABLE`."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_arrays(path: Path, max_bytes: int, names: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of numbers from an npz file; no pickle, and none that is larger than declared.

    Args:
        path: of the file.
        max_bytes: of one array in memory, as float32 or as it is.
        names: of the wanted arrays, where they exist; all if not given.

    Raises:
        ValueError, or another of `UNREADABLE`: naming the array, what was found and what is accepted.
    """
    wanted = [name for name in list_arrays(path) if names is None or name in names]
    with zipfile.ZipFile(path) as archive:
        return {name: _read_array(archive, f"{name}.npy", max_bytes) for name in wanted}


def _read_array(archive: zipfile.ZipFile, member: str, max_bytes: int) -> npt.NDArray[Any]:
    """Read one array, its header compared with its size first."""
    name, size = member.removesuffix(".npy"), archive.getinfo(member).file_size
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"{name!r} has npy version {version}; accepted are {', '.join(map(str, HEADERS))}")
        shape, _, dtype = HEADERS[version](file)
    count = math.prod(shape)
    if dtype.kind not in "fiub" or max(size, count * max(dtype.itemsize, 4)) > max_bytes:
        limit = f"{max_bytes / 2**30:g} GiB" if max_bytes >= 2**30 else f"{max_bytes / 2**20:g} MiB"
        raise ValueError(f"{name!r} is {dtype} of shape {shape}; accepted are real numbers of at most {limit}")
    if count * dtype.itemsize > size:
        raise ValueError(f"{name!r} claims {dtype} of shape {shape} in {size} bytes")
    with archive.open(member) as file:
        values: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return values
