"""Words of options that take several values: names, whole numbers, ranges of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vdt.config.errors import ConfigError
from vdt.system.home import MOST_CELLS

NUMBERS = re.compile(r"(?P<first>[0-9]{1,40})(?:-(?P<last>[0-9]{1,40}))?")
LARGEST = 2**53  # a setting's whole number is read as a double, which holds the next one no more


def split_words(text: str, option: str) -> list[str]:
    """Split at commas into words, each once.

    Raises:
        ConfigError: if there is none, an empty one, or one twice.
    """
    words = [word.strip() for word in text.split(",")]
    if "" in words:
        raise ConfigError(f"{option} needs at least one name, several separated by commas, not {text!r}")
    if len(set(words)) < len(words):
        raise ConfigError(f"{option} names something twice: {text!r}")
    return words


def format_numbers(numbers: Iterable[int]) -> str:
    """Return numbers as `parse_numbers` reads them, with ranges of three and more: 0, 3, 4, 5 as `"0,3-5"`."""
    groups: list[list[int]] = []
    for number in sorted(set(numbers)):
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ",".join(f"{g[0]}-{g[-1]}" if len(g) > 2 else ",".join(map(str, g)) for g in groups)


def parse_numbers(text: str, option: str, least: int = 0) -> tuple[int, ...]:
    """Read `"0,3-5"` as 0, 3, 4, 5.

    Args:
        text: value of the option.
        option: with its dashes, for messages.
        least: smallest number that the option takes, for messages.

    Raises:
        ConfigError: if a word is no whole number and no rising range, or beyond `LARGEST`; if a number comes twice, or if
            they are too many.
    """
    numbers: list[int] = []
    what = option.lstrip("-")
    for word in split_words(text, option):
        match = NUMBERS.fullmatch(word)
        if match is None:
            raise ConfigError(
                f"{option} takes whole numbers from {least}, and ranges such as {least}-{least + 4}, separated by commas, "
                f"not {text!r}"
            )
        first = int(match["first"])
        last = int(match["last"] or first)
        if max(first, last) > LARGEST:
            raise ConfigError(f"{option} takes whole numbers up to {LARGEST:,}, not {max(first, last)}")
        if last < first:
            raise ConfigError(f"{option}: the range {word} falls; {last}-{first} is accepted")
        if last - first >= MOST_CELLS:
            raise ConfigError(
                f"{option}: the range {word} has {last - first + 1:,} {what}; at most {MOST_CELLS:,} are accepted"
            )
        numbers += range(first, last + 1)
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{option} names something twice: {text!r}")
    return tuple(numbers)
