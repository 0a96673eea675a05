"""Names of data sets by their content: a part of every cell's identity."""

from __future__ import annotations

from vdt.config.errors import ConfigError
from vdt.config.schema import Config
from vdt.system.home import home


def find_data_key(config: Config, known: dict[str, str]) -> str:
    """Return the name of a cell's data set; `known` keeps those that were found.

    Raises:
        ConfigError: if it is unavailable.
    """
    from vdt.data.errors import DataError
    from vdt.datasets.choose import choose_source

    question = repr((config.env, config.task, config.data))
    if question not in known:
        try:
            choice = choose_source(config, home())
        except DataError as error:
            raise ConfigError(str(error)) from None
        known[question] = make_data_key(choice.source, choice.key)
    return known[question]


def make_data_key(source: str, key: str) -> str:
    """Name a data set's content."""
    return f"{source}/{key}"
