"""Single values of the configuration: brought to their type, kept in their range, or refused by name."""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


class ConfigError(ValueError):
    """A configuration value is unknown, of the wrong type, or outside its range."""


def suggest(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'a' or 'b'?` for near words, else an empty string."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def coerce(key: str, value: Any, hint: Any, where: str) -> Any:
    """Bring a YAML value to its declared type (PyYAML reads `3e-4` as a string), or raise ConfigError."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(key, item, inner, where) for item in items)
    if origin is types.UnionType:  # only `T | None` is used
        return None if value is None else coerce(key, value, typing.get_args(hint)[0], where)
    wrong = ConfigError(f"{where}: {key} must be {_type_name(hint)}, not {value!r} ({type(value).__name__})")
    if hint is bool or isinstance(value, bool):
        if hint is bool and isinstance(value, bool):
            return value
        raise wrong
    if hint is str:
        if isinstance(value, str):
            return value
        raise wrong
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise wrong from None
    if not math.isfinite(number) or (hint is int and number != int(number)):
        raise wrong
    return int(number) if hint is int else number


def _type_name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint))


def check_range(key: str, value: Any, metadata: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if a value is outside its range or closed set of words."""
    low, high, choices = metadata.get("low"), metadata.get("high"), metadata.get("choices") or ()
    for word in value if isinstance(value, tuple) else (value,):
        if choices and word not in choices:
            raise ConfigError(
                f"{where}: {key} must be one of {', '.join(choices)}, not {word!r}{suggest(word, choices)}"
            )
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{where}: {key} must be {bounds}, not {value!r}")


def make_json_mapping(key: str, value: Any, where: str) -> str:
    """The text of a JSON mapping, given as such or as a YAML mapping."""
    try:
        mapping = json.loads(value) if isinstance(value, str) else value
        if isinstance(mapping, Mapping):
            return json.dumps(mapping, sort_keys=True)
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{where}: {key} must be a mapping of plain values, not {value!r}")
