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
    """Run a command; return 2 after one line where the words or what they name are wrong."""
    try:
        return int(app(args=list(words) or ["--help"], prog_name="vdt", standalone_mode=False) or 0)
    except typer.Abort:
        return 130
    except (ValueError, FolderError) as error:
        message = str(error)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's, about the arguments
            raise
        message = error.format_message()
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    return 2


def main() -> int:
    """Set up the process and run the command of its arguments."""
    prepare()
    return run(sys.argv[1:])
