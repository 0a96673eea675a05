"""Log lines on standard output: plain text, a level word before warnings and errors. Imports nothing heavy.

Modules use `logger = logging.getLogger(__name__)`; programs call `configure_logging` once, libraries never.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import sys

PACKAGES = ("vdt", "flows")  # whose loggers are shown
WORDS = {logging.WARNING: "WARNING: ", logging.ERROR: "error: ", logging.CRITICAL: "error: "}
PLAIN = {"±": "+/-", "→": "->", "·": "-", "×": "x", "…": "...", "–": "-", "−": "-", "’": "'"}  # noqa: RUF001
PLAIN_ERRORS = "vdt_plain"  # codec error handler: replacements on an ASCII-only terminal


class PlainFormatter(logging.Formatter):
    """Formatter of a record as its text, after the level's word and before that the name of the cell that runs."""

    def __init__(self, cell: str = "") -> None:
        """Set the name of the cell, empty for none."""
        super().__init__()
        self.cell = cell

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        text = WORDS.get(record.levelno, "") + super().format(record)
        if not self.cell:
            return text
        return "\n".join(f"{self.cell} | {line}" for line in text.split("\n"))


class StandardOutput(logging.Handler):
    """Handler that prints each record to the present `sys.stdout` at once; a closed reader stops no work."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        with contextlib.suppress(OSError, ValueError):
            print(self.format(record), flush=True)  # noqa: T201  (the one place that prints)


def configure_logging(cell: str = "") -> None:
    """Show the lines of `PACKAGES` on standard output; repeated calls replace each other.

    Args:
        cell: stands before each line, where several cells run at once.
    """
    make_output_plain()
    handler = StandardOutput()
    handler.setFormatter(PlainFormatter(cell))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def make_output_plain() -> None:
    """Make a terminal that lacks a character show a plain one."""
    codecs.register_error(PLAIN_ERRORS, _replace)
    for stream in (sys.stdout, sys.stderr):
        encoding = str(getattr(stream, "encoding", None) or "utf-8")
        if hasattr(stream, "reconfigure") and codecs.lookup(encoding).name != "utf-8":
            stream.reconfigure(errors=PLAIN_ERRORS)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Return plain text for the characters that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in missing), error.end
