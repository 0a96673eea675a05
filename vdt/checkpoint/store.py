"""Checkpoints of one training step: atomic, checked when read, found again after a kill or a resume.

A file is named `<step>.<first 16 digits of its sha256>.pt`. Name and content appear in one rename, so a file is whole
or absent, and damage that comes later is noticed on loading. A state with a number that is not finite is never written.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import pickle
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vdt.checkpoint.names import BEST, DONE, SECONDS, CheckpointError
from vdt.system.files import atomic_write, compute_file_digest, write_text
from vdt.system.home import FolderError
from vdt.system.machine import get_versions
from vdt.system.processes import save_request
from vdt.system.safe_archives import check_unpacked_size, is_stored_plainly

logger = logging.getLogger(__name__)

State = dict[str, Any]
DIGEST_DIGITS = 16
NAME = re.compile(rf"[0-9]{{9,}}\.([0-9a-f]{{{DIGEST_DIGITS}}})\.pt")  # others hold no digest
WRITING_SHARE = 0.02  # largest share of the time spent on checkpoints
ARCHIVE_BYTES_PER_BYTE = 4  # torch stores tensors uncompressed; a file that unpacks to more is not a checkpoint


class DivergenceError(FloatingPointError):
    """Loss, gradient, weight or optimizer state that is not a finite number."""


# Exceptions of torch and zipfile on a foreign or corrupted file, found by fuzzing.
UNREADABLE: tuple[type[Exception], ...] = (
    *(RuntimeError, EOFError, ValueError, OSError, LookupError, TypeError, AttributeError, AssertionError),
    *(ArithmeticError, MemoryError, struct.error, zipfile.BadZipFile, zlib.error),
)


def load_state(path: Path, *, mmap: bool = False) -> State:
    """Read a checkpoint onto the CPU; nothing in the file is executed.

    Args:
        path: of the file.
        mmap: whether tensors stay in the file until they are read: those that nobody reads cost neither time nor memory.
            They hold only as long as the file is not changed.

    Raises:
        CheckpointError: if there is no such file, its content differs from the digest in the name that the store gave, or
            it is no mapping.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    named = NAME.fullmatch(path.name)
    if named and compute_file_digest(path, "sha256")[:DIGEST_DIGITS] != named[1]:
        raise CheckpointError(f"{path} is damaged: its content does not match the sha256 in its name")
    try:
        check_unpacked_size(path, ARCHIVE_BYTES_PER_BYTE * path.stat().st_size)
        mmap = mmap and is_stored_plainly(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than plain tensors, numbers and strings: {error}") from error
    except UNREADABLE as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} must hold a mapping, not {type(state).__name__}")
    if "brain" in state:  # renamed to "actor_critic"
        raise CheckpointError(
            f"{path} was written by version 0.1; act with it by that version, or train again with this"
        )
    if _measure_bytes(state) > path.stat().st_size:
        raise CheckpointError(f"{path} holds tensors that claim more memory than the file has bytes")
    return state


def _measure_bytes(state: Any) -> int:
    """Measure the bytes of the largest tensor or its storage; a view may repeat one number a billion times."""
    if isinstance(state, torch.Tensor):
        return max(state.untyped_storage().nbytes(), state.numel() * state.element_size())
    inside = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return max(map(_measure_bytes, inside), default=0)


def find_not_finite(state: Any, where: str = "") -> str | None:
    """Return the name of the first number or tensor that is NaN or infinite, e.g. "critic.q.0.weight"."""
    if isinstance(state, dict):
        found = (find_not_finite(value, f"{where}.{key}" if where else str(key)) for key, value in state.items())
        return next(filter(None, found), None)
    if isinstance(state, list | tuple):
        return next(filter(None, (find_not_finite(value, f"{where}.{i}") for i, value in enumerate(state))), None)
    if isinstance(state, torch.Tensor):
        return None if not state.is_floating_point() or bool(torch.isfinite(state).all()) else where
    return where if isinstance(state, float) and not math.isfinite(state) else None


@dataclass
class Clock:
    """Wall time of a step: in this process, and before in those that it continues.

    Attributes:
        before: seconds until the checkpoint that is continued.
        began: of this process's part, as `time.monotonic` has it.
    """

    before: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def read(self) -> float:
        """Return the seconds so far."""
        return self.before + time.monotonic() - self.began


class CheckpointStore:
    """Checkpoints of one step: written to its own folder, read from there, then from the folders of continued runs.

    Args:
        folder: this run's folder for one step of one cell.
        ancestors: the same step's folders of earlier runs, nearest first. They are never changed.
        interval_seconds: `due` is true this long after the last save (on a slow disk longer, so
            that writing takes at most 2% of the time),
        interval_steps: or this many steps.
        keep: newest checkpoints kept, beside the best.
        continue_finished: continue from an ancestor's checkpoint even when that ancestor is marked as done. The flow
            sets it, because it names as ancestors only runs in which the step was not completed.
        facts: plain values that every checkpoint holds beside its state, e.g. what data it was trained on.
        clock: of the step; by default one that begins now.
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
        facts: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.folder = folder
        self.clock = clock or Clock()
        self.ancestors = tuple(ancestors)
        self.interval_seconds = interval_seconds
        self.interval_steps = interval_steps
        self.keep = keep
        self.continue_finished = continue_finished
        self.facts = dict(facts or {})
        self.last: Path | None = None  # saved or loaded
        self._last_step = 0
        self._last_time = time.monotonic()
        self._seconds_per_save = 0.0
        for path in folder.glob(".*.part"):  # left by a kill
            path.unlink()

    def move_to(self, folder: Path) -> CheckpointStore:
        """Return a store with the same settings, facts and clock for another folder, without ancestors."""
        return CheckpointStore(
            folder,
            interval_seconds=self.interval_seconds,
            interval_steps=self.interval_steps,
            keep=self.keep,
            facts=self.facts,
            clock=self.clock,
        )

    def load_latest(self) -> State | None:
        """Return the newest intact checkpoint, or none.

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
                    logger.warning(f"{error}; trying the checkpoint before it")
                    continue
                self.last, self._last_step, self._last_time = path, _step_of(path), time.monotonic()
                self.clock.before = _read_seconds(folder)
                logger.info(f"continuing from step {self._last_step:,} ({path})")
                _warn_of_versions(state)
                return state
        return None

    def describe_last(self) -> str:
        """Name the checkpoint that a run can go back to."""
        return f"the last good checkpoint is {self.last or 'none: this step saved nothing yet'}"

    def is_due(self, step: int) -> bool:
        """Return whether enough steps or enough time have passed since the last save, or another process asked for one.

        Such a request is answered once.
        """
        pause = max(self.interval_seconds, self._seconds_per_save / WRITING_SHARE)
        asked = save_request.take()
        return asked or step - self._last_step >= self.interval_steps or time.monotonic() - self._last_time >= pause

    def save(self, step: int, state: State, score: float | None = None) -> Path:
        """Write a checkpoint with facts and versions; keep the newest ones and the one of the highest score.

        Raises:
            DivergenceError: if a number in the state is not finite; nothing is written then.
            FolderError: if the file cannot be written; the checkpoints before it are untouched.
        """
        began = time.monotonic()
        bad = find_not_finite(state)
        if bad:
            raise DivergenceError(f"{bad} is not finite at step {step:,} and is not saved; {self.describe_last()}")
        content = io.BytesIO()
        torch.save({**state, **self.facts, "versions": get_versions()}, content)
        digest = hashlib.sha256(content.getbuffer()).hexdigest()
        path = self.folder / f"{step:09d}.{digest[:DIGEST_DIGITS]}.pt"
        try:
            with atomic_write(path) as file:
                file.write(content.getbuffer())
            best = self._keep_best(path, score)
            write_text(self.folder / SECONDS, f"{self.clock.read():.1f}\n")
        except OSError as error:
            raise FolderError(
                f"cannot write checkpoint {path} ({error.strerror or error}); {self.describe_last()}"
            ) from None
        self.last, self._last_step, self._last_time = path, step, time.monotonic()
        self._seconds_per_save = self._last_time - began
        for old in list(_newest_first(self.folder, first=path))[self.keep :]:
            if old.name != best:
                old.unlink()
        return path

    def finish(self, step: int, state: State, score: float | None = None) -> Path:
        """Write the step's last checkpoint and mark the step as done."""
        path = self.save(step, state, score)
        write_text(self.folder / DONE, f"{path.name}\n")
        return path

    def find_best(self) -> Path | None:
        """Return the checkpoint of the highest score so far, continued runs included; none without scores."""
        known = [(best["score"], folder / str(best["name"])) for folder, best in self._read_best()]
        return max((item for item in known if item[1].is_file()), key=lambda item: item[0], default=(0.0, None))[1]

    def has_best(self, score: float) -> bool:
        """Return whether a checkpoint of this score, or of a higher one, was recorded."""
        return any(best["score"] >= score for _, best in self._read_best())

    def _read_best(self) -> list[tuple[Path, dict[str, Any]]]:
        return [(folder, best) for folder in (self.folder, *self.ancestors) if (best := _read_best(folder))]

    def _keep_best(self, path: Path, score: float | None) -> str | None:
        """Record the checkpoint if no score is higher, ancestors' included; return the best one here.

        An equal score was computed again: the ancestor's file was damaged.
        """
        known = self._read_best()
        if score is not None and all(score >= best["score"] for _, best in known):
            write_text(self.folder / BEST, json.dumps({"name": path.name, "score": score}) + "\n")
            return path.name
        return next((str(best["name"]) for folder, best in known if folder == self.folder), None)


def _read_best(folder: Path) -> dict[str, Any] | None:
    path = folder / BEST
    return dict(json.loads(path.read_text())) if path.is_file() else None


def _read_seconds(folder: Path) -> float:
    """Return what the step had taken at its last checkpoint there; 0 where an older version wrote it."""
    path = folder / SECONDS
    return float(path.read_text()) if path.is_file() else 0.0


def _warn_of_versions(state: State) -> None:
    """Warn of libraries that changed since a checkpoint: the result may then differ in its last bits."""
    then, now = state.get("versions", {}), get_versions()
    changed = [
        f"{name} {then.get(name)} -> {now.get(name)}" for name in {**then, **now} if then.get(name) != now.get(name)
    ]
    if changed:
        logger.warning(
            f"the checkpoint was written with other versions ({', '.join(changed)}); the result may differ "
            "from that of an undisturbed run"
        )


def _step_of(path: Path) -> int:
    return int(path.name.split(".")[0])


def _newest_first(folder: Path, first: Path | None = None) -> Iterator[Path]:
    """Sort checkpoints by step, highest first; `first` comes first in any case (a restart may have gone back)."""
    found = [p for p in folder.glob("*.pt") if p.name.split(".")[0].isdigit()]
    return iter(sorted(found, key=lambda p: (p == first, _step_of(p)), reverse=True))
