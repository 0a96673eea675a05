"""Types of single values, as they are written in YAML or behind `--set`, and the accepted values of each."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Strict
from pydantic_core import PydanticCustomError

# Of every section: defaults in the classes are for stored configurations of earlier releases; values: params/
CHECKED = ConfigDict(extra="forbid", defer_build=True)
WHOLE, NUMBER, FLAG, TEXT = "a whole number", "a number", "true or false", "text"
MAPPING = "a mapping of plain values"
LARGEST = 2**53 - 1  # of whole numbers: larger ones are rounded by a float


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
    if abs(number) > LARGEST:
        raise PydanticCustomError("size", f"between -{LARGEST} and {LARGEST}")
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """Accepted values of one dotted key.

    Attributes:
        kind: `a whole number`, `a number`, `text`, `true or false`, or `a mapping of plain values`.
        low: smallest value, none if there is no bound.
        high: largest value, none if there is no bound.
        words: the accepted words, empty if any are.
        many: whether it is a list.
        optional: whether null is accepted.
        meaning: of a key without a comment in params/vdt.yaml.
    """

    kind: str
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    many: bool = False
    optional: bool = False
    meaning: str = ""

    @property
    def bounds(self) -> str:
        """Return `at least 0`, `between 0 and 1`, or an empty string."""
        if self.low is None:
            return ""
        return f"at least {self.low}" if self.high is None else f"between {self.low} and {self.high}"

    @property
    def accepted(self) -> str:
        """Return the accepted values in words."""
        single = " | ".join(self.words) if self.words else " ".join(filter(None, (self.kind, self.bounds)))
        return f"{'list of: ' if self.many else ''}{single}{' or null' if self.optional else ''}"


KINDS = {int: WHOLE, float: NUMBER, bool: FLAG, str: TEXT}


def describe(annotation: Any, metadata: typing.Sequence[Any] = ()) -> Key:
    """Return the accepted values of an annotated type."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return describe(inner[0], [*inner[1:], *metadata])
    if origin is tuple:
        return dataclasses.replace(describe(inner[0]), many=True)
    if origin is Literal:
        return Key(kind=TEXT, words=inner)
    if origin is not None:  # only `T | None` is used
        return dataclasses.replace(describe(inner[0]), optional=True)
    found = {name: getattr(item, name) for item in metadata for name in ("ge", "le", "func") if hasattr(item, name)}
    kind = MAPPING if found.get("func") is read_json_mapping else KINDS[annotation]
    return Key(kind=kind, low=found.get("ge"), high=found.get("le"))
