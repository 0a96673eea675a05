"""Locks between processes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vdt.system.home import FolderError

if TYPE_CHECKING:
    from filelock import FileLock

logger = logging.getLogger(__name__)

FIRST_REPORT_SECONDS = 1.0  # a shorter wait is not worth a line
WAIT_REPORT_SECONDS = 10.0
POLL_SECONDS = 0.05
FOLDER_LOCK = ".vdt.lock"  # file that stands for a locked folder


@contextlib.contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock among all processes that see `path`; it ends with the process at the latest.

    Lock files stay behind empty, with the permissions that the umask gives, so that a group may share them.

    Args:
        path: a file, made if it is not there, or a folder that is there.
        what: named in a line every 10 s while another process holds the lock.

    Raises:
        FolderError: if the file cannot be made, or its file system has no locks.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / FOLDER_LOCK if path.is_dir() else path)
    try:
        _wait_for(lock, what)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FolderError(
            f"cannot lock {lock.lock_file} ({reason}); set VDT_HOME to a folder that you can write to, on a disk with file locks"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock if no other process holds it, and yield whether; it ends with the process at the latest."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _wait_for(lock: FileLock, what: str) -> None:
    from filelock import Timeout

    seconds = FIRST_REPORT_SECONDS
    while True:
        try:
            lock.acquire(timeout=seconds, poll_interval=POLL_SECONDS)
        except Timeout:  # a kind of OSError
            logger.info(f"another process works on {what} (lock {lock.lock_file}); waiting for it")
            seconds = WAIT_REPORT_SECONDS
        else:
            return
