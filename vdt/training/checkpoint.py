"""Checkpoints of one training step: atomic, checked when read, found again after a kill or a resume.

A file is named `<step>.<first 16 digits of its sha256>.pt`. Name and content appear in one rename, so a file is whole
or absent, and damage that comes later is noticed on loading.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from vdt.files import atomic_write, compute_file_digest, write_text

State = dict[str, Any]
DIGEST_DIGITS = 16
DONE = "DONE"


class CheckpointError(ValueError):
    """A checkpoint file is missing, damaged, or not a checkpoint."""


def load_state(path: Path) -> State:
    """Read a checkpoint onto the CPU; nothing in the file is executed.

    Raises:
        CheckpointError: if there is no such file, its content is not what its name says, or it is no mapping.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    parts = path.name.split(".")
    if (
        len(parts) == 3
        and len(parts[1]) == DIGEST_DIGITS
        and compute_file_digest(path, "sha256")[:DIGEST_DIGITS] != parts[1]
    ):
        raise CheckpointError(f"{path} is damaged: its content does not match the sha256 in its name")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than plain tensors, numbers and strings: {error}") from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} must hold a mapping, not {type(state).__name__}")
    return state


class CheckpointStore:
    """Writes only to its own folder; reads from there, then from the folders of the runs that this one continues.

    Args:
        folder: this run's folder for one step of one cell.
        ancestors: the same step's folders of earlier runs, nearest first. They are never changed.
        interval_seconds: `due` says yes when this much time has passed since the last save,
        interval_steps: or this many steps.
        keep: newest checkpoints kept.
        continue_finished: continue from an ancestor's checkpoint even when that ancestor is marked as done. The flow
            says so, because it knows better: it names as ancestors only runs in which the step did not come to its end.
    """

    def __init__(
        self,
        folder: Path,
        ancestors: Sequence[Path] = (),
        *,
        interval_seconds: float,
        interval_steps: int,
        keep: int,
        continue_finished: bool = False,
    ) -> None:
        self.folder = folder
        self.ancestors = tuple(ancestors)
        self.interval_seconds = interval_seconds
        self.interval_steps = interval_steps
        self.keep = keep
        self.continue_finished = continue_finished
        self.loaded_from: Path | None = None
        self._last_step = 0
        self._last_time = time.monotonic()

    def load_latest(self) -> State | None:
        """The newest sound checkpoint, or none.

        An ancestor marked as done means that its step is run again on purpose: then the start is fresh. A damaged file
        is reported and passed over for the one before it.
        """
        for folder in (self.folder, *self.ancestors):
            if folder != self.folder and (folder / DONE).exists() and not self.continue_finished:
                return None
            for path in _newest_first(folder):
                try:
                    state = load_state(path)
                except CheckpointError as error:
                    print(f"warning: {error}; trying the checkpoint before it", flush=True)
                    continue
                self.loaded_from, self._last_step, self._last_time = path, _step_of(path), time.monotonic()
                print(f"continuing from step {self._last_step:,} ({path})", flush=True)
                return state
        return None

    def due(self, step: int) -> bool:
        """Whether enough steps or enough time have passed since the last save."""
        return (
            step - self._last_step >= self.interval_steps or time.monotonic() - self._last_time >= self.interval_seconds
        )

    def save(self, step: int, state: State) -> Path:
        """Write a checkpoint and drop all but the newest `keep`."""
        content = io.BytesIO()
        torch.save(state, content)
        digest = hashlib.sha256(content.getbuffer()).hexdigest()
        path = self.folder / f"{step:09d}.{digest[:DIGEST_DIGITS]}.pt"
        with atomic_write(path) as file:
            file.write(content.getbuffer())
        self._last_step, self._last_time = step, time.monotonic()
        for old in list(_newest_first(self.folder, first=path))[self.keep :]:
            old.unlink()
        return path

    def finish(self, step: int, state: State) -> Path:
        """Write the step's last checkpoint and mark the step as done."""
        path = self.save(step, state)
        write_text(self.folder / DONE, f"{path.name}\n")
        return path


def _step_of(path: Path) -> int:
    return int(path.name.split(".")[0])


def _newest_first(folder: Path, first: Path | None = None) -> Iterator[Path]:
    """Checkpoints by step, highest first; `first` leads in any case (a restart may have gone back)."""
    found = [p for p in folder.glob("*.pt") if p.name.split(".")[0].isdigit()]
    return iter(sorted(found, key=lambda p: (p == first, _step_of(p)), reverse=True))
