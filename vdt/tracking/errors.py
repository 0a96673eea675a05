"""Errors of a store: temporary ones, and permanent ones that need a correction."""

from __future__ import annotations

import re
import sqlite3

USER = re.compile(r"://[^/\s]*@")  # in an address: user name and password
PASSING_CODES = (408, 425, 429)  # HTTP's: too slow, too early, too many; the other 4xx are permanent


class StoreError(ValueError):
    """Tracking store that exists and cannot be used as it is; waiting does not help."""


def get_store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of a store that is unreachable, locked, full or slow, or that refuses a request."""
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    return (MlflowException, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError)


def hide_password(text: str) -> str:
    """Return a text in which addresses have `***` in place of user name and password."""
    return USER.sub("://***@", text)


def get_first_line(error: Exception) -> str:
    """Return an error's first line, without passwords and the pages that a database adds; its name if it has no message."""
    return hide_password((str(error).strip().splitlines() or [type(error).__name__])[0])


def is_refusal(error: Exception) -> bool:
    """Return whether the store answered and will answer the same next time: a deleted run, no permission, a bad store."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        code = int(error.get_http_status_code())
        return 400 <= code < 500 and code not in PASSING_CODES
    return isinstance(error, StoreError)


def describe_failure(error: Exception) -> str:
    """Return in words whether the store is unreachable or refuses, and its message."""
    verb = "refuses" if is_refusal(error) else "does not answer"
    return f"the store {verb} ({get_first_line(error)})"
