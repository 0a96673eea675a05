"""Locks between processes, also of several machines that share a file system.

They are flock's, on files open for writing. Linux's NFS client turns these into byte-range locks of the server (flock(2));
on NFS such a lock fails where the file is open for reading only. Lustre has them where it is mounted with `flock`.
"""

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

FIRST_REPORT_SECONDS = 5.0  # a shorter wait is not worth a line
WAIT_REPORT_SECONDS = 10.0
POLL_SECONDS = 0.05
FOLDER_LOCK = ".vdt.lock"  # file that stands for a locked folder


@contextlib.contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock among all processes that see `path`; it ends with the process at the latest.

    Lock files stay behind empty, with the permissions that the umask gives, so that a group may share them.

    Args:
        path: a file, made if it is not there, or a folder that is there.
        what: named in a line after 5 s, then every 10 s, while another process holds the lock.

    Raises:
        FolderError: if the file cannot be made, or its file system has no locks.
    """
    with _name_refusal(path):
        lock = _make_lock(path)
        _wait_for(lock, what)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock if no other process holds it, and yield whether; it ends with the process at the latest.

    Raises:
        FolderError: as of `hold_lock`.
    """
    from filelock import Timeout

    try:
        with _name_refusal(path):
            lock = _make_lock(path)
            lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _make_lock(path: Path) -> FileLock:
    """Make the lock of a file, or of the file that stands for a folder, without taking it.

    A file system without flock is refused. The library would make a file in place of the lock, which a killed process
    leaves behind.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path / FOLDER_LOCK if path.is_dir() else path, fallback_to_soft=False)


@contextlib.contextmanager
def _name_refusal(path: Path) -> Iterator[None]:
    from filelock import Timeout

    try:
        yield
    except Timeout:  # a kind of OSError
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise FolderError(
            f"cannot lock {path} ({reason}); set VDT_HOME to a folder that you can write to, on a disk with file locks"
        ) from None


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
