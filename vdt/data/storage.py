"""Storage of a data set as one HDF5 file of contiguous arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vdt.data.errors import DataError
from vdt.data.residence import MEMORY, Residence, map_array
from vdt.data.safe_hdf5 import UNREADABLE, get_node
from vdt.data.trajectory import LARGE, MappedFile, TrajectoryDataset
from vdt.system.files import atomic_write

FORMAT = "vdt-trajectories-1"  # every final observation is known
FORMAT_WITH_MISSING = "vdt-trajectories-2"  # holds `final_missing` too

ARRAYS = {  # name: (dimensions, dtype)
    "observations": (2, np.dtype(np.float32)),
    "actions": (2, np.dtype(np.float32)),
    "rewards": (1, np.dtype(np.float32)),
    "offsets": (1, np.dtype(np.int64)),
    "terminated": (1, np.dtype(np.bool_)),
}
MISSING = {"final_missing": (1, np.dtype(np.bool_))}
DAMAGED: tuple[type[Exception], ...] = (*UNREADABLE, TypeError, AttributeError)


def write_trajectories(path: Path, dataset: TrajectoryDataset, card: Mapping[str, Any] | None = None) -> None:
    """Write a data set atomically as one HDF5 file of contiguous arrays; the same data and card give the same bytes."""
    arrays = dataset.get_arrays()
    with atomic_write(path) as target, h5py.File(target, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, track_times=False)
        kind = FORMAT_WITH_MISSING if "final_missing" in arrays else FORMAT
        file.create_dataset("format", data=np.bytes_(kind), track_times=False)
        file.create_dataset("card", data=np.bytes_(json.dumps(card or {}, sort_keys=True)), track_times=False)


def load_snapshot(path: Path, residence: Residence = MEMORY) -> TrajectoryDataset:
    """Read or map the file of `write_trajectories`.

    Args:
        path: of the file.
        residence: whether its large arrays are read into memory, or mapped.

    Raises:
        FileNotFoundError: if there is no such file.
        DataError: if the file is damaged or something else.
    """
    return read_snapshot(path, residence)[0]


def read_snapshot(path: Path, residence: Residence = MEMORY) -> tuple[TrajectoryDataset, dict[str, Any]]:
    """Return the data set and its card; otherwise as `load_snapshot`."""
    if not path.is_file():
        raise FileNotFoundError(f"no snapshot at {path}")
    try:
        with h5py.File(path, "r") as file:
            state = path.stat()
            nodes = [get_node(file, name, h5py.Dataset) for name in file]
            if any(node.nbytes > state.st_size for node in nodes):
                raise DataError(f"{path} claims more bytes than it has")
            found_format = file["format"][()] if "format" in file else b""
            if found_format not in (FORMAT.encode(), FORMAT_WITH_MISSING.encode()):
                raise DataError(f"{path} is not a snapshot of this version ({FORMAT} or {FORMAT_WITH_MISSING})")
            arrays = ARRAYS if found_format == FORMAT.encode() else {**ARRAYS, **MISSING}
            for name, (dimensions, dtype) in arrays.items():
                found = file[name]
                if (found.ndim, found.dtype) != (dimensions, dtype) or found.nbytes > state.st_size:
                    raise DataError(
                        f"{path}: {name} is {found.dtype} of shape {found.shape}, not {dtype} in {dimensions}-d"
                    )
            mapped = residence.maps(sum(file[name].nbytes for name in arrays))
            read = {name: _map(path, file[name]) if mapped and name in LARGE else file[name][()] for name in arrays}
            source = MappedFile(path.resolve(), state.st_size, state.st_mtime_ns) if mapped else None
            return TrajectoryDataset(**read, file=source), json.loads(file["card"][()])
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(f"{path} is not a whole snapshot ({error}); delete it and run again") from error


def _map(path: Path, node: h5py.Dataset) -> npt.NDArray[Any]:
    """Map a data set of an open file.

    Raises:
        ValueError: if it is compressed or in pieces, or reaches beyond the file's end.
    """
    offset = node.id.get_offset()
    if offset is None or offset % node.dtype.itemsize:
        raise ValueError(f"{node.name} does not lie in one piece, as this program writes it, so it cannot be mapped")
    return map_array(path, node.shape, node.dtype, offset)
