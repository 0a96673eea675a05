"""What can be known of cells before any work: their data is within reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vdt.config.errors import ConfigError
from vdt.experiments.study import Cell
from vdt.system.home import home


def check_cells(cells: Sequence[Cell]) -> None:
    """Check what the cells name.

    Raises:
        ConfigError: naming the first thing that no cell can be run with.
    """
    for config in {repr((cell.config.env, cell.config.data)): cell.config for cell in cells}.values():
        recipe = config.task.collected
        if config.task.d4rl_url and recipe.ladder is None and recipe.controller == "none":
            from vdt.datasets.choose import DataError, choose_source

            try:
                choose_source(config, home())
            except DataError as error:
                raise ConfigError(str(error)) from None


def check_source(source: str) -> None:
    """Check that the file or folder of `path:` is there; raises ConfigError if not."""
    path = Path(source.removeprefix("path:"))
    if source.startswith("path:") and not path.expanduser().exists():
        raise ConfigError(f"--source path: there is no file or folder {path}")
