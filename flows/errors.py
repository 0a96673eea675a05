"""Errors that a user can correct, in one line without a traceback."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator

from metaflow.exception import MetaflowException

from vdt.config.errors import ConfigError
from vdt.system.home import FolderError
from vdt.system.machine import DeviceError
from vdt.tracking import StoreError

logger = logging.getLogger(__name__)

USER_ERRORS = (ConfigError, DeviceError, StoreError, FolderError, FloatingPointError)
# Caused by a folder, not by the program.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NO_MEMORY = ("out of memory", "can't allocate memory")  # PyTorch's message
SAVE_MEMORY = (
    "Run fewer cells at once (--max-workers 1), or smaller ones (--set actor.batch_size, policy.context_length, "
    "data.steps), or give the machine, or the container, more memory; what is finished is kept"
)


class UserError(MetaflowException):
    """Error that the user can correct; shown without a traceback."""

    headline = "error"


@contextlib.contextmanager
def clear_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that the user can correct, and those of the given kinds, into one line without a traceback."""
    try:
        yield
    except Exception as error:
        message = str(error) if isinstance(error, (*USER_ERRORS, *kinds)) else _explain(error)
        if message is None:
            raise
        logger.error(message)
        raise UserError(message) from None


def _explain(error: Exception) -> str | None:
    """Return advice on a machine's lack of disk space or memory; none for any other error."""
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"cannot write {error.filename or 'a file'} ({error.strerror}); make room and resume"
    if isinstance(error, PermissionError):
        return (
            f"may not read or write {error.filename or 'a file'} ({error.strerror}); change its permissions and resume"
        )
    text = str(error)
    lacks_memory = isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM
    if lacks_memory or (isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY)):
        first = (text.splitlines() or [""])[0]
        return f"memory has run out{f' ({first})' if first else ''}. {SAVE_MEMORY}"
    return None
