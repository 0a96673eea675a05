"""Hold a lock between processes."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

WAIT_REPORT_SECONDS = 10.0


@contextlib.contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `path` among all processes of this machine; it ends with the process at the latest.

    Args:
        path: a file that may stay behind empty, or a folder that is there.
        what: named in a line every 10 s while another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        reported = time.monotonic() - WAIT_REPORT_SECONDS + 1.0
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - reported > WAIT_REPORT_SECONDS:
                    reported = time.monotonic()
                    logger.info(f"another process works on {what} (lock {path}); waiting for it")
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)  # releases the lock
