"""Optional packages, which extras of the project bring."""

from __future__ import annotations

import importlib.util


class ExtraError(ValueError):
    """Optional package that is not installed."""


def check_extra(extra: str, packages: tuple[str, ...], what: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        extra: its name.
        packages: names to import.
        what: needs them, as the error begins.

    Raises:
        ExtraError: naming those that are missing and the command that installs them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraError(f"{what} needs {', '.join(missing)}, of the extra [{extra}]: pip install -e '.[{extra}]'")
