"""Optional packages, which extras of the project bring."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path

from vdt.system.home import shorten_path


class ExtraError(ValueError):
    """Optional package that is not installed."""


def make_install_command(extra: str) -> str:
    """Return the command that installs an extra into this environment, in a clone's folder."""
    pip = Path(sys.executable).with_name("pip")
    words = [shorten_path(pip)] if pip.exists() else [shorten_path(sys.executable), "-m", "pip"]
    called = shlex.join(words)
    return f"{called} install -c constraints.txt -e '.[{extra}]'"


def check_extra(extra: str, packages: tuple[str, ...], what: str, otherwise: str = "") -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        extra: its name.
        packages: names to import.
        what: needs them, as the error begins.
        otherwise: what goes without them, as the error ends.

    Raises:
        ExtraError: naming those that are missing and the command that installs them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        ends = f"; {otherwise}" if otherwise else ""
        raise ExtraError(
            f"{what} needs {', '.join(missing)}, of the extra [{extra}]: {make_install_command(extra)}{ends}"
        )
