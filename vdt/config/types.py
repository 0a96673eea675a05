"""Types of single values, as they are written in YAML or behind `--set`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Strict
from pydantic_core import PydanticCustomError

WHOLE, NUMBER, FLAG, TEXT = "a whole number", "a number", "true or false", "text"
MAPPING = "a mapping of plain values"


def _read_number(value: Any) -> float:
    """Return a finite number; PyYAML reads `3e-4` as text."""
    if not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise PydanticCustomError("kind", NUMBER)


def _read_whole(value: Any) -> int:
    """Return a whole number, which may be written as `2e4`."""
    try:
        number = _read_number(value)
    except PydanticCustomError:
        number = math.nan
    if not number.is_integer():
        raise PydanticCustomError("kind", WHOLE)
    return int(number)


def read_items(value: Any) -> Any:
    """Return a list as it is, and a single item as a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _thaw(value: Any) -> dict[str, Any]:
    """Return a read-only mapping as one that JSON takes."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a plain value")


def read_json_mapping(value: Any) -> str:
    """Return the text of a JSON mapping, given as such or as a mapping."""
    try:
        mapping = json.loads(value) if isinstance(value, str) else value
        if isinstance(mapping, Mapping):
            return json.dumps(mapping, sort_keys=True, default=_thaw)
    except (TypeError, ValueError):
        pass
    raise PydanticCustomError("kind", MAPPING)


Whole = Annotated[int, BeforeValidator(_read_whole)]
Number = Annotated[float, BeforeValidator(_read_number)]
Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
JsonMapping = Annotated[str, BeforeValidator(read_json_mapping)]
Wholes = Annotated[tuple[Whole, ...], BeforeValidator(read_items)]
Numbers = Annotated[tuple[Number, ...], BeforeValidator(read_items)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(read_items)]
