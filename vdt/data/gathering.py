"""Gathering of trajectories, as they come, into one data set: in memory, or in files where they are too many for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import IO

import numpy as np

from vdt.data.residence import Residence, map_descriptor
from vdt.data.trajectory import LARGE, Trajectory, TrajectoryDataset


def gather_trajectories(trajectories: Iterable[Trajectory], residence: Residence) -> TrajectoryDataset:
    """Concatenate trajectories in the order given, without holding more of them in memory than the residence allows.

    Args:
        trajectories: each is used once, and dropped.
        residence: decides by the bytes of all arrays together.

    Raises:
        ValueError: if there is none.
        OSError: if the disk is full.
    """
    held: list[Trajectory] = []
    size = 0
    with contextlib.ExitStack() as stack:
        files: _Files | None = None
        for trajectory in trajectories:
            if files is not None:
                files.add(trajectory)
                continue
            held.append(trajectory)
            size += 4 * (len(trajectory) + 1) * (trajectory.observations.shape[1] + trajectory.actions.shape[1] + 1)
            if residence.maps(size):
                files = _Files({name: stack.enter_context(residence.open_file()) for name in LARGE})
                for item in held:
                    files.add(item)
                held.clear()
        return TrajectoryDataset.from_trajectories(held) if files is None else files.finish()


class _Files:
    """Files of the three large arrays, written end to end; the small ones are in memory."""

    def __init__(self, files: dict[str, IO[bytes]]) -> None:
        self.files = files
        self.widths: dict[str, tuple[int, ...]] = {"rewards": ()}
        self.lengths: list[int] = []
        self.terminated: list[bool] = []
        self.final_missing: list[bool] = []

    def add(self, trajectory: Trajectory) -> None:
        """Append one; action and reward of its final observation are zero."""
        for name, file in self.files.items():
            values = np.ascontiguousarray(getattr(trajectory, name), np.float32)
            if self.widths.setdefault(name, values.shape[1:]) != values.shape[1:]:
                raise ValueError(f"{name} of one trajectory have shape {values.shape}, of another {self.widths[name]}")
            file.write(values.data)
            if name != "observations":
                file.write(bytes(4 * int(np.prod(values.shape[1:]))))
        self.lengths.append(len(trajectory))
        self.terminated.append(trajectory.terminated)
        self.final_missing.append(trajectory.final_missing)

    def finish(self) -> TrajectoryDataset:
        """Return the data set of what was added; the files have no name, and are gone with it."""
        offsets = np.concatenate([[0], np.cumsum(np.array(self.lengths, np.int64) + 1)])
        arrays = {}
        for name, file in self.files.items():
            file.flush()
            arrays[name] = map_descriptor(file.fileno(), (int(offsets[-1]), *self.widths[name]), np.float32)
        flags = (np.array(flag, np.bool_) for flag in (self.terminated, self.final_missing))
        return TrajectoryDataset(arrays["observations"], arrays["actions"], arrays["rewards"], offsets, *flags)
