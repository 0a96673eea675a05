"""Grids of settings: every combination of the listed values is a patch with a readable name."""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from vdt.config.errors import ConfigError, suggest_key
from vdt.config.layers import parse_yaml
from vdt.config.schema import KEYS, flatten, shorten_keys
from vdt.experiments.resolve import IDENTITY
from vdt.experiments.results_store import digest_of
from vdt.system.home import MOST_CELLS

LONGEST_NAME = 60  # of a point; beyond it the words of its keys are shortened
SHORT_WORD = 4
DIGEST_DIGITS = 8  # of the digest at the end of a name that would be longer
REFUSED = re.compile(r"[^a-z0-9_.-]+")  # characters that no name has

Grid = Mapping[str, tuple[Any, ...]]


def parse_sweep(text: str) -> dict[str, tuple[Any, ...]]:
    """Read `"actor.q_coefficient=0.1,0.3 actor.inverse_temperature=0.3,1,3"` as key -> values.

    A value that is a list stands in brackets: `task.candidate_returns=[3,2],[5,4]`.

    Raises:
        ConfigError: if an item is not of that form, or as `read_grid`.
    """
    try:
        items = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--sweep: {text!r} cannot be split into words: {error}") from None
    grid: dict[str, Any] = {}
    for item in items:
        key, separator, values = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"--sweep: {item!r} is not of the form section.key=value,value")
        if key in grid:
            raise ConfigError(f"--sweep names {key} twice; all its values stand behind one =")
        grid[key] = parse_yaml(f"[{values}]", f"--sweep: {values!r}")
    return read_grid(grid, "--sweep")


def name_sweep(grid: Grid) -> dict[str, str]:
    """Return name, title and place of the study that a sweep without a study's file is.

    The name has the last part of each key, with its section where several sections have such a key.
    """
    leaves = [key.rpartition(".")[2] for key in KEYS]
    words = [leaf if leaves.count(leaf) == 1 else key for key in grid for leaf in [key.rpartition(".")[2]]]
    return {
        "name": shorten_name("-".join(["sweep", *words]), LONGEST_NAME),
        "title": f"Sweep over {', '.join(grid)}",
        "place": "--sweep",
    }


def shorten_name(name: str, longest: int) -> str:
    """Return a name of at most so many characters: of a longer one the beginning, and a digest of all."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - DIGEST_DIGITS - 1]}-{digest_of({'name': name})[:DIGEST_DIGITS]}"


def read_grid(content: Mapping[str, Any], where: str) -> dict[str, tuple[Any, ...]]:
    """Check a grid's keys and lists of values, and return it with dotted keys.

    Raises:
        ConfigError: naming an unknown key, an empty list, a value that comes twice, or a grid with too many points.
    """
    grid = {key: _read_values(key, values, where) for key, values in flatten(content).items()}
    if not grid:
        raise ConfigError(f"{where}: no key with values; e.g. actor.q_coefficient: [0.1, 0.3]")
    points = math.prod(map(len, grid.values()))
    if points > MOST_CELLS:
        sizes = " x ".join(f"{len(values):,}" for values in grid.values())
        raise ConfigError(f"{where}: {sizes} are {points:,} points; at most {MOST_CELLS:,} cells are accepted")
    return grid


def check_key(key: str, where: str) -> None:
    """Refuse a key that does not exist, or that has an option of its own.

    Raises:
        ConfigError: naming the key and near ones.
    """
    if key in IDENTITY:
        raise ConfigError(f"{where}: {key} is given by {IDENTITY[key]}, not by a change of settings")
    if key not in KEYS:
        raise ConfigError(f"{where}: unknown key {key!r}{suggest_key(key, KEYS)}")


def _read_values(key: str, values: Any, where: str) -> tuple[Any, ...]:
    """Return the values of a key, and refuse one that comes twice; different ones may have the same name."""
    check_key(key, where)
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(f"{where}: {key} needs a list of at least one value, not {values!r}")
    read = tuple(read_plain(value) for value in values)
    seen: dict[str, list[Any]] = {}  # by name: equal values have the same, and true is not 1
    for value in read:
        others = seen.setdefault(_name_value(value), [])
        if value in others:
            raise ConfigError(f"{where}: {key} has the value {others[others.index(value)]!r} twice")
        others.append(value)
    return read


def read_plain(value: Any) -> Any:
    """Return a number that YAML reads as text, such as 3e-4, as a number, and any other value as it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def expand_grid(grid: Grid) -> dict[str, dict[str, Any]]:
    """Return every combination of a grid's values by its name: name -> key -> value."""
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for short in (False, True):
        named = {_name_point(point, short=short): point for point in points}
        if max(map(len, named)) <= LONGEST_NAME and len(named) == len(points):
            return named
    digits = len(str(len(points) - 1))  # names that are too long, or equal, for all their keys
    return {f"point-{number:0{digits}}": point for number, point in enumerate(points)}


def _name_point(point: Mapping[str, Any], *, short: bool) -> str:
    """Return the name of a combination: the keys' last parts, with the section where two are equal, and the values."""
    words = shorten_keys(point)
    if short:
        words = ["_".join(part[:SHORT_WORD] for part in re.split(r"[_.]", word)) for word in words]
    parts: Sequence[str] = [f"{word}-{_name_value(value)}" for word, value in zip(words, point.values(), strict=True)]
    return "-".join(parts)


def _name_value(value: Any) -> str:
    """Return a value as part of a name; equal numbers have one name."""
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, int | float):
        brief = f"{value:g}"
        return brief.replace("+", "") if float(brief) == value else repr(value).replace("+", "")
    if isinstance(value, list | tuple):
        return "_".join(map(_name_value, value)) or "empty"
    return REFUSED.sub("_", str(value).lower()) or "empty"
