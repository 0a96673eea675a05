"""Plain YAML, read as if written by an enemy: no object tags, no aliases, bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vdt.config.values import ConfigError

MAX_YAML_BYTES = 2**20


class _PlainLoader(yaml.SafeLoader):
    """Plain values without object tags or aliases: a few lines of aliases can stand for billions of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not accepted")
        return super().compose_node(parent, index)


def parse_yaml(text: str, what: str) -> Any:
    """A plain YAML value.

    Raises:
        ConfigError: naming `what` it is and what is wrong with it.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # ValueError: a date like 2026-13-45
        raise ConfigError(f"{what} is not plain YAML: {' '.join(str(error).split())}") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values; object tags, aliases and files over 1 MiB are refused."""
    if path.stat().st_size > MAX_YAML_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_YAML_BYTES} bytes")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from None
    return expect_mapping(parse_yaml(text, str(path)) or {}, str(path))


def expect_mapping(loaded: Any, what: str) -> dict[str, Any]:
    """The value if it is a mapping; `what` names it in the error."""
    if not isinstance(loaded, dict):
        raise ConfigError(f"{what} must hold a mapping, not {type(loaded).__name__}")
    return loaded
