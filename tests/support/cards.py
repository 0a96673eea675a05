"""Content of a card that Metaflow draws, read from its HTML; tables of a report."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLUMNS, LETTERS = 10, 110  # of a table that fits a card: more letters than these overflowed


def read_card(path: Path) -> list[dict[str, Any]]:
    """Read the card's components; its HTML holds them as base64 of JSON."""
    parts = (base64.b64decode(part) for part in re.findall(r"[A-Za-z0-9+/=]{500,}", path.read_text()))
    (content,) = (part for part in parts if part.startswith(b'{"metadata"'))
    return list(_walk(json.loads(content)))


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "type" in value:
            yield value
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _walk(item)


def find_wide_tables(markdown: str) -> list[str]:
    """Find titles of tables that overflow: with too many columns, or too many letters in the longest words of each."""
    wide = []
    for title, rows in read_tables(markdown).items():
        words = [max(len(word) for row in rows for word in re.split(r"[\s-]+", row[i])) for i in range(len(rows[0]))]
        if len(words) > COLUMNS or sum(words) > LETTERS:
            wide.append(title)
    return wide


def read_tables(markdown: str) -> dict[str, list[list[str]]]:
    """Return title -> rows of cells, the header first."""
    tables: dict[str, list[list[str]]] = {}
    for section in markdown.split("\n## ")[1:]:
        title, *lines = section.splitlines()
        if rows := [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]:
            tables[title] = rows
    return tables
