"""Command `vdt`: everything around training, which `python flows/vdt_flow.py run --env ENV` starts.

A module adds its commands to `vdt.cli.application.app` when it is imported here. Their functions import what they need,
so that help and wrong words are answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from vdt.cli import data, policies, serving, settings, tracking  # noqa: F401  help lists their commands in this order
from vdt.cli.application import app
from vdt.system.home import FolderError, prepare


def run(words: Sequence[str]) -> int:
    """Run a command; return 2 after one line where the words or what they name are wrong, or the store is away."""
    try:
        return int(app(args=list(words) or ["--help"], prog_name="vdt", standalone_mode=False) or 0)
    except typer.Abort:
        return 130
    except (ValueError, FolderError) as error:
        message = str(error)
    except Exception as error:
        message = error.format_message() if hasattr(error, "format_message") else _describe(error)  # Typer's have it
        if not message:
            raise
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return 2


def _describe(error: Exception) -> str:
    """Return the error of a tracking store in words, without passwords in its address; empty for any other error."""
    if "mlflow" not in sys.modules or isinstance(error, OSError):
        return ""
    from vdt.tracking import describe_failure, get_store_errors

    return describe_failure(error) if isinstance(error, get_store_errors()) else ""


def main() -> int:
    """Set up the process and run the command of its arguments."""
    prepare()
    return run(sys.argv[1:])
