"""Writing of what happened on one's own robot, or in one's own simulator, as a folder that `--env data:PATH` reads.

The format is that of `vdt/datasets/npz.py`: one npz file an episode. A file appears whole or not at all, and none is ever
changed. Neither Gymnasium nor PyTorch is needed.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vdt.data.numbers import expect_finite, read_numbers
from vdt.data.trajectory import FloatArray
from vdt.system.files import make_folder, make_new_file, sync_folder
from vdt.system.safe_archives import UNREADABLE, read_arrays

logger = logging.getLogger(__name__)

NAME = re.compile(r"episode-(\d{8})\.npz")
MAX_BYTES = 2**30  # of one array, as the reader accepts


class EpisodeWriter:
    """Writer of episodes into a folder, step by step (`begin`, `add`) or whole (`write`).

    Files are `episode-00000000.npz`, `episode-00000001.npz` and so on. A new writer goes on after the last one; several
    may write at once. An error leaves folder and episode as they were, and an episode that is not finished is not there.

    Attributes:
        folder: where the episodes lie.
        observation_size: S; none before it is known from an episode.
        action_size: A; likewise.
    """

    def __init__(self, folder: str | Path) -> None:
        """Write into `folder`, made if it is not there; sizes are those of its last episode.

        Raises:
            ValueError: if the last episode there cannot be read.
        """
        self.folder = Path(folder).expanduser()
        make_folder(self.folder)
        self.observation_size: int | None = None
        self.action_size: int | None = None
        self._observations: list[FloatArray] = []
        self._actions: list[FloatArray] = []
        self._rewards: list[float] = []
        self._read_sizes()

    def __repr__(self) -> str:
        return f"EpisodeWriter({str(self.folder)!r}, {len(self._rewards)} steps of an unfinished episode)"

    def begin(self, observation: npt.ArrayLike) -> None:
        """Begin an episode with its first observation (S,).

        Raises:
            RuntimeError: if the episode before has steps and has not ended.
            ValueError: if the size is wrong, or a number is not finite.
        """
        if self._rewards:
            raise RuntimeError(
                f"the episode before has {len(self._rewards)} steps and no end: give terminated or truncated with its "
                "last step, or call end() to keep it or discard() to drop it"
            )
        self._observations = [self._read_vector(observation, "observation", self.observation_size)]

    def add(
        self,
        action: npt.ArrayLike,
        reward: npt.ArrayLike,
        observation: npt.ArrayLike,
        *,
        terminated: bool = False,
        truncated: bool = False,
    ) -> Path | None:
        """Add one step; write the episode if it ended with it.

        Args:
            action: (A,), executed.
            reward: received for it.
            observation: (S,), after it.
            terminated: whether the task ended: it succeeded, or the robot fell. Nothing of value follows.
            truncated: whether a time limit or an operator cut it: the task would have gone on.

        Returns:
            The file, if the episode ended; else none.

        Raises:
            RuntimeError: before `begin`.
            ValueError: if a size is wrong, a number is not finite, or a flag is neither true nor false.
            OSError: if the episode cannot be written. The step is dropped and the others are kept: the same call writes
                it once there is room.
        """
        if not self._observations:
            raise RuntimeError(
                "call begin(observation) before add(): an episode has an observation before its first step"
            )
        flags = [_read_flag(value, name) for name, value in (("terminated", terminated), ("truncated", truncated))]
        size = len(self._actions[0]) if self._actions else self.action_size
        taken = self._read_vector(action, "action", size)
        received = read_numbers(reward, "reward")
        if received.size != 1:
            raise ValueError(f"reward must be one number, not of shape {received.shape}")
        expect_finite(received.reshape(()), "reward")
        self._observations.append(self._read_vector(observation, "observation", len(self._observations[0])))
        self._actions.append(taken)
        self._rewards.append(float(received.reshape(())))
        if not any(flags):
            return None
        try:
            return self._finish(terminated=flags[0])
        except BaseException:  # the caller gives the step again, or ends without it
            for column in (self._observations, self._actions, self._rewards) if self._rewards else ():
                column.pop()
            raise

    def end(self) -> Path:
        """Write the episode as truncated, where it stands; return its file.

        Raises:
            RuntimeError: if it has no step.
        """
        if not self._rewards:
            raise RuntimeError("there is no step to keep: call begin() and add() before end()")
        return self._finish(terminated=False)

    def discard(self) -> None:
        """Drop the steps of an unfinished episode."""
        self._observations, self._actions, self._rewards = [], [], []

    def write(
        self, observations: npt.ArrayLike, actions: npt.ArrayLike, rewards: npt.ArrayLike, *, terminated: bool
    ) -> Path:
        """Write a whole episode of T steps; return its file.

        Args:
            observations: (T+1, S), the last one after the last action; or (T, S) where it was not recorded.
            actions: (T, A).
            rewards: (T,).
            terminated: whether the task ended (see `add`); false if something cut the episode.

        Raises:
            ValueError: if a shape is wrong, a number is not finite, or `terminated` is neither true nor false.
        """
        path = self._write(observations, actions, rewards, terminated)
        self._sync(path)
        return path

    def _write(
        self, observations: npt.ArrayLike, actions: npt.ArrayLike, rewards: npt.ArrayLike, terminated: object
    ) -> Path:
        ended = _read_flag(terminated, "terminated")
        arrays = {
            "observations": read_numbers(observations, "observations"),
            "actions": read_numbers(actions, "actions"),
            "rewards": read_numbers(rewards, "rewards"),
        }
        self._check_shapes(arrays)
        for name, array in arrays.items():
            expect_finite(array, name)
        path = self._write_new({**arrays, "terminated": np.array(ended), "truncated": np.array(not ended)})
        self.observation_size, self.action_size = arrays["observations"].shape[1], arrays["actions"].shape[1]
        return path

    def _finish(self, *, terminated: bool) -> Path:
        path = self._write(np.stack(self._observations), np.stack(self._actions), self._rewards, terminated)
        self.discard()  # at once: after a Ctrl-C in what follows, they would be written twice
        self._sync(path)
        return path

    def _read_vector(self, value: npt.ArrayLike, what: str, size: int | None) -> FloatArray:
        """Return a vector of finite numbers, a copy; `size` is none where any is accepted."""
        vector = read_numbers(value, what)
        if vector.ndim != 1 or not vector.size or vector.size != (size or vector.size):
            accepted = f"{size} numbers, as before" if size else "a vector of numbers"
            raise ValueError(f"{what} must be {accepted}, not of shape {vector.shape}")
        expect_finite(vector, what)
        return vector

    def _check_shapes(self, arrays: dict[str, FloatArray]) -> None:
        """Refuse arrays that do not fit together, or not the episodes before."""
        observations, actions, rewards = arrays.values()
        steps = len(rewards) if rewards.ndim == 1 else 0
        if steps == 0:
            raise ValueError(f"rewards must be (T,) with at least one step, not of shape {rewards.shape}")
        wanted = (
            ("observations", observations, (steps + 1, steps), self.observation_size),
            ("actions", actions, (steps,), self.action_size),
        )
        for name, array, rows, size in wanted:
            fits = array.ndim == 2 and len(array) in rows and 0 < array.shape[1] == (size or array.shape[1])
            if not fits:
                accepted = " or ".join(f"({count}, {size or name[0].upper()})" for count in rows)
                raise ValueError(f"{name} must have shape {accepted} beside {steps} rewards, not {array.shape}")
            if array.nbytes > MAX_BYTES:
                raise ValueError(f"{name} has {array.nbytes} bytes; accepted are at most {MAX_BYTES} an episode")

    def _list_numbers(self) -> list[int]:
        """Return the numbers of the episodes in the folder, rising."""
        return sorted(int(match[1]) for path in self.folder.iterdir() if (match := NAME.fullmatch(path.name)))

    def _read_sizes(self) -> None:
        """Take the sizes of the last episode in the folder, if there is one."""
        numbers = self._list_numbers()
        if not numbers:
            return
        path = self.folder / f"episode-{numbers[-1]:08d}.npz"
        try:
            arrays = read_arrays(path, MAX_BYTES, ("observations", "actions"))
            self.observation_size, self.action_size = (arrays[name].shape[1] for name in ("observations", "actions"))
        except UNREADABLE as error:
            raise ValueError(f"{path} is no episode that can be read ({error}); write into another folder") from None

    def _write_new(self, arrays: dict[str, Any]) -> Path:
        """Write a file under the next free number: whole, and never over another."""
        path, descriptor = self._take_number()
        temporary = _get_temporary(path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return path

    def _sync(self, path: Path) -> None:
        """Make a new file's name last through a power loss, where the folder can be synced."""
        try:
            sync_folder(self.folder)
        except OSError as error:  # the episode is there: written again, it would be there twice
            logger.warning(f"{path} is written, but a power loss may undo it: its folder cannot be synced ({error})")

    def _take_number(self) -> tuple[Path, int]:
        """Return the next free file, and the descriptor of the temporary one, which keeps others from that number."""
        number = (self._list_numbers() or [-1])[-1]
        while True:
            number += 1
            path = self.folder / f"episode-{number:08d}.npz"
            try:
                descriptor = make_new_file(_get_temporary(path))
            except FileExistsError:  # another writer has it, or a kill left it
                continue
            if not path.exists():
                return path, descriptor
            os.close(descriptor)  # another writer has finished it meanwhile
            os.unlink(_get_temporary(path))


def _get_temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _read_flag(value: Any, what: str) -> bool:
    """Return a flag; a number, or an array of flags, is an error in the caller's program."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{what} must be true or false, not {value!r}")
    return bool(value)
